"""scripts/reproduce.py and its rows, on images of a few pixels."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from reproduction import images, shapes, volumes  # noqa: E402
from reproduction.context import Context  # noqa: E402
from reproduction.rows import load_row, merge  # noqa: E402
from reproduction.runs import Job, sized  # noqa: E402
from reproduction.tables import IMAGE_METRICS, TableRow, order_notes, write_table  # noqa: E402

GROUPS = (
    ("images", images.ROWS, (2, 3), ("quick", "medium", "toy", ("quick", "toy_quick"))),
    ("images", ("sasnet", *images.LATER), (2, 3), ("quick", "medium")),
    ("images", ("sasnet", *images.ON_REQUEST), (2, 3), ("medium",)),
    ("ablation", images.ABLATION, (2, 3), ("quick", "medium")),
    ("volumes", volumes.ROWS, (3, 1), ("quick", "medium")),
    ("shapes", (*shapes.ROWS, *shapes.ON_REQUEST), (3, 1), ("quick", "medium")),
    ("tiger", ("p_masks",), (2, 3), ("quick", "medium")),
)


@pytest.mark.parametrize(("group", "names", "dims", "variants"), GROUPS, ids=[g[1][-1] for g in GROUPS])
def test_rows_of_a_table_have_the_same_number_of_parameters(group, names, dims, variants):
    from sasnet_ns.networks.sizes import parameter_count

    for variant in ((), *((v,) if isinstance(v, str) else v for v in variants)):
        counts = []
        for name in names:
            fit = sized(load_row(group, name).fit(*variant), *dims)
            counts.append(parameter_count(fit["network"], *dims, **fit["network_config"]))
        assert max(counts) <= 1.03 * min(counts), (group, variant, dict(zip(names, counts, strict=True)))


def test_every_row_is_a_configuration():
    from sasnet_ns.fitting import ShapeFit
    from sasnet_ns.fitting.grid_fit import GridFit
    from sasnet_ns.training.config import config_from

    for path in sorted((ROOT / "configs").glob("*/*.yaml")):
        row = load_row(path.parent.name, path.stem)
        kind = ShapeFit if path.parent.name == "shapes" else GridFit
        for variant in ((), *((v,) for v in row.variants)):
            fit = row.fit(*variant)
            fit.pop("parameters", None)
            config_from(kind, fit, str(path))
        assert row.paper or row.name in (*images.LATER, *images.ON_REQUEST, *shapes.ON_REQUEST)


def test_merging_keeps_what_is_not_named():
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5, "c": None}}) == {"a": {"b": 5}, "d": 3}


def test_a_job_is_named_after_what_determines_it(tmp_path):
    job = Job("image", "toy:32", {"network": "siren", "seed": 0}, "one label")
    assert job.folder(tmp_path) == Job("image", "toy:32", {"network": "siren", "seed": 0}, "another").folder(tmp_path)
    assert job.folder(tmp_path) != Job("image", "toy:32", {"network": "siren", "seed": 1}).folder(tmp_path)


def test_a_run_clears_what_a_killed_one_left(tmp_path, monkeypatch):
    from reproduction import runs

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    job = Job("image", "toy:32", {"network": "siren"})
    left = job.folder(tmp_path).with_name(f"{job.folder(tmp_path).name}.partial{dead.pid}")
    left.mkdir()

    def fit(job: Job, folder: Path, *rest: object) -> None:
        (folder / "metrics.json").write_text("{}")
        (folder / "history.json").write_text('{"step": [], "seconds": [], "loss": []}')

    monkeypatch.setattr(runs, "_fit_grid", fit)
    (result,) = runs.run_jobs([job], tmp_path, 1, "cpu")
    assert result["folder"] == job.folder(tmp_path) and result.keys() == {"folder", "made"}
    assert [p.name for p in tmp_path.iterdir()] == [job.folder(tmp_path).name]


def test_a_killed_row_goes_on_in_its_middle(tmp_path, monkeypatch):
    import torch
    from reproduction import runs

    from sasnet_ns.fitting import grid_fit

    fit = {"network": "siren", "network_config": {"width": 8}, "recipe": {"steps": 40}, "points_per_batch": 50}
    job = Job("image", "toy:32", fit)
    whole = runs.run_jobs([job], tmp_path / "whole", 1, "cpu")[0]

    class Killed(BaseException):
        pass

    def killed(step: int) -> None:
        if step == 25:
            raise Killed

    with monkeypatch.context() as patch:
        finish = grid_fit.GridLoss.finish
        patch.setattr(grid_fit.GridLoss, "finish", lambda self, step: [finish(self, step), killed(step)])
        with pytest.raises(Killed):
            runs.run_jobs([job], tmp_path / "out", 1, "cpu", checkpoint_seconds=0)
    kept = job.folder(tmp_path / "out").with_name(f"{job.folder(tmp_path).name}.training.pt")
    assert torch.load(kept, weights_only=True)["step"] == 24
    with pytest.warns(UserWarning, match="going on after step 24 of 40"):
        result = runs.run_jobs([job], tmp_path / "out", 1, "cpu")[0]
    assert not kept.exists() and result["psnr"] == whole["psnr"]
    states = [torch.load(r["folder"] / "checkpoint.pt", weights_only=True)["state"] for r in (whole, result)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_kept_row_counts_as_done(tmp_path, monkeypatch, capsys):
    from reproduction import runs

    fit = {"network": "siren", "network_config": {"width": 8}, "recipe": {"steps": 30}, "points_per_batch": 50}
    job = Job("image", "toy:32", fit)
    record = runs.Record("python scripts/reproduce.py toy", "a machine", tmp_path)
    done = runs.run_jobs([job], tmp_path / "out", 1, "cpu", record=record)[0]
    row = json.loads((done["folder"] / "row.json").read_text())
    assert row["command"] == record.command and row["hardware"] == "a machine" and row["seed"] == 0
    assert row["curve"]["step"] == [10, 20, 30] and row["seconds"] == row["metrics"]["training_seconds"] > 0
    kept = tmp_path / "rows"
    runs.keep_rows([done, {"error": "none"}], kept)
    assert [path.name for path in kept.iterdir()] == [f"{done['folder'].name}.json"]
    stamp = next(kept.iterdir()).stat().st_mtime_ns
    runs.keep_rows([done], kept)
    assert next(kept.iterdir()).stat().st_mtime_ns == stamp, "a kept row is not written again"
    original = (done["folder"] / "row.json").read_bytes()
    (done["folder"] / "row.json").write_text(json.dumps({**row, "seconds": 1.0}))
    runs.keep_rows([done], kept)
    assert "is of another run and stays" in capsys.readouterr().out
    (done["folder"] / "row.json").write_bytes(original)
    monkeypatch.setattr(runs, "_do", lambda *rest: pytest.fail("the row was run again"))
    again = runs.run_jobs([job], tmp_path / "elsewhere", 1, "cpu", rows=kept)[0]
    assert again["psnr"] == done["psnr"] and "folder" not in again and again["curve"] == row["curve"]
    assert again["made"] == done["made"] and done["made"]["hardware"] == "a machine"
    other = Job("image", "toy:32", {**fit, "seed": 1})
    found = runs.run_jobs([job, other], tmp_path / "elsewhere", 1, "cpu", rows=kept, no_fit=True)
    assert found == [again, {"error": runs.NOT_DONE}]


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A run of a volume that is a file, in a folder, done without training."""
    from reproduction import runs

    np.save(tmp_path / "v.npy", np.zeros((4, 4, 4), np.float32))
    job = Job("volume", str(tmp_path / "v.npy"), {"network": "siren"})

    def fit(job: Job, folder: Path, *rest: object) -> None:
        (folder / "metrics.json").write_text(json.dumps({"psnr": float(np.load(job.data).mean())}))
        (folder / "history.json").write_text('{"step": [1], "seconds": [2.0], "loss": [3.0]}')

    monkeypatch.setattr(runs, "_fit_grid", fit)
    runs.run_jobs([job], tmp_path / "out", 1, "cpu")
    return job


def test_a_file_of_the_same_name_and_size_is_another(finished, tmp_path):
    from reproduction import runs

    out, rows = tmp_path / "out", tmp_path / "rows"
    runs.keep_rows([finished.result(out)], rows)
    assert finished.result(tmp_path / "none", rows)["psnr"] == 0.0
    np.save(tmp_path / "v.npy", np.ones((4, 4, 4), np.float32))
    assert finished.result(tmp_path / "none", rows) is None
    with pytest.warns(UserWarning, match="is of another file 'v.npy', and is replaced"):
        assert runs.run_jobs([finished], out, 1, "cpu")[0]["psnr"] == 1.0


def test_rows_that_are_damaged_or_no_rows_are_named(finished, tmp_path):
    from reproduction import runs

    row = finished.folder(tmp_path / "out") / "row.json"
    whole = row.read_text()
    for text in ("{}", "{", "[1]", json.dumps({**json.loads(whole), "job": {}})):
        row.write_text(text)
        with pytest.raises(ValueError, match=r"row\.json' is (not the record of a run|damaged); remove it"):
            finished.result(tmp_path / "out")
    row.unlink()
    assert finished.result(tmp_path / "out")["psnr"] == 0.0
    runs.keep_rows([finished.result(tmp_path / "out")], tmp_path / "rows")  # says that there is no record
    assert not list((tmp_path / "rows").iterdir())
    finished.folder(tmp_path / "out").with_name(f"{finished.folder(tmp_path).name}.partial_old").mkdir()
    finished.fit["seed"] = 1
    assert runs.run_jobs([finished], tmp_path / "out", 1, "cpu")[0]["psnr"] == 0.0


def _killed(job: Job, **_: object) -> str | None:
    import os

    os._exit(9)


def test_a_killed_worker_and_an_error_without_text_are_said(monkeypatch, tmp_path, capsys):
    from reproduction import runs

    jobs = {name: Job("image", "toy:8", {"network": name}) for name in ("a", "b")}
    assert {error for _, error in runs._outcomes(jobs, 2, _killed)} == {
        "a worker process was killed, most likely for memory; try --workers 1"
    }

    def fails(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(runs, "_do", fails)
    assert runs.run_jobs([jobs["a"]], tmp_path, 1, "cpu") == [{"error": "NotImplementedError"}]
    monkeypatch.setattr(runs, "_do", lambda *_: {}["missing"])
    assert runs.run_jobs([jobs["a"]], tmp_path, 1, "cpu") == [{"error": "'missing'"}]
    assert "KeyError" in capsys.readouterr().err


def test_tables_of_kept_rows_need_no_data(tmp_path):
    """Who has the repository and no DIV2K makes the page's numbers from the rows; a file of another size has none."""
    context = Context(tmp_path / "out", tmp_path / "data", size="medium", item="table1", limit=1, no_fit=True)
    images.image_table(context, "table1")
    table = (context.output / "table1_medium.md").read_text()
    own = json.loads((ROOT / "docs/paper_rows/medium/sasnet_00_0473ae8393d6.json").read_text())["metrics"]
    assert f"| SASNet | {own['parameters']:,} | **{own['psnr']:.2f}** | 39.82 |" in table
    assert context.shape("dragon") == str(tmp_path / "data/meshes/dragon.npz") and context.shape("thai_statue") == (
        "thai_statue"
    )
    folder = tmp_path / "data/images/div2k512"
    folder.mkdir(parents=True)
    (folder / "00.png").write_bytes(b"another image")
    images.image_table(context, "table1")
    assert "| SASNet | 0 of 1 runs are there |" in (context.output / "table1_medium.md").read_text()
    context.no_fit = False
    with pytest.raises(ValueError, match=r"nothing to fit in .*kodak"):
        images.image_table(context, "supp_table3")


def test_a_long_curve_is_thinned_to_means():
    from reproduction.runs import thinned

    history = {"step": list(range(10, 10_010, 10)), "seconds": [0.1 * k for k in range(1000)], "loss": [1.0, 3.0] * 500}
    curve = thinned(history, 100)
    assert len(curve["step"]) == 100 and curve["step"][-1] == 10_000 and curve["loss"] == [2.0] * 100


def test_kept_rows_say_where_they_come_from():
    from reproduction.context import ROWS

    for path in ROWS.glob("*/*.json"):
        row = json.loads(path.read_text())
        wanted = {"command", "commit", "date", "hardware", "threads", "seed", "seconds", "job", "metrics", "curve"}
        assert set(row) >= wanted and row["seconds"] > 0, path
        assert not any(str(value).startswith("/") for value in row["job"].values()), path


def test_sizes_choose_variants_and_names(tmp_path):
    made = {size: Context(tmp_path, tmp_path, size=size, item="table1") for size in ("quick", "medium", "full")}
    assert [c.suffix for c in made.values()] == ["_quick", "_medium", ""]
    assert made["medium"].command == "python scripts/reproduce.py table1 --medium"
    jobs = {size: images.image_job(c, load_row("images", "sasnet"), "toy:64", 0) for size, c in made.items()}
    assert [job.fit["recipe"]["steps"] for job in jobs.values()] == [500, 5000, 5000]
    assert [job.size for job in jobs.values()] == [96, 256, None]
    shape = shapes.shape_job(made["medium"], load_row("shapes", "finer"), "armadillo", 0)
    assert shape.fit["recipe"]["clip_norm"] == 1e-4 and shape.fit["recipe"]["amsgrad"] and shape.resolution == 512
    assert "amsgrad" not in shapes.shape_job(made["quick"], load_row("shapes", "finer"), "armadillo", 0).fit["recipe"]


def test_a_file_in_the_data_folder_takes_a_named_shapes_place(tmp_path):
    context = Context(tmp_path, tmp_path, size="medium", item="table3")
    row = load_row("shapes", "sasnet")
    assert shapes.shape_job(context, row, "lucy", 0).data == "lucy"
    (tmp_path / "meshes").mkdir()
    for name in ("lucy.ply", "armadillo.ply"):
        (tmp_path / "meshes" / name).touch()
    job = shapes.shape_job(context, row, "lucy", 0)
    assert job.data == str(tmp_path / "meshes" / "lucy.ply") and job.fit["network_config"]["band_limit"] == 40
    assert shapes.shape_job(context, row, "armadillo", 0).data == "armadillo", "the bundled one stays the same"


def test_tables_show_spread_differences_and_order(tmp_path):
    rows = [
        TableRow("A", 100, {"psnr": [30.0, 32.0]}, {"psnr": 30.5}),
        TableRow("B", 103, {"psnr": [29.0, 29.0]}, {"psnr": 33.0}),
        TableRow("C", error="does not fit"),
    ]
    text = write_table(
        Context(tmp_path, tmp_path, seeds=(0, 1)), "table", "Title", IMAGE_METRICS[:1], rows, ["A note."]
    )
    assert "| A | 100 | **31.00** ± 1.41 | 30.50 | +0.50 |" in text and "| C | does not fit |" in text
    assert "3.0 % apart" in text and "seeds 0, 1" in text
    assert (tmp_path / "table.csv").read_text().splitlines()[2].startswith("B,103,29.0,0.0,33.0,-4.0")
    assert (tmp_path / "table.png").read_bytes()[:4] == b"\x89PNG"
    assert order_notes(IMAGE_METRICS[:1], rows) == [
        "PSNR: A is first, in the paper B; rank correlation of the orders of 2 methods -1.00."
    ]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/reproduce.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_table_of_kept_rows_says_what_is_missing_and_compares_what_is_there(tmp_path):
    from reproduction.compare import each_item, table_rows
    from reproduction.runs import NOT_DONE

    made = {"hardware": "a machine", "threads": 1, "date": "2026-01-02", "seconds": 90.0, "commit": "c0"}
    psnr = {"siren": (30.0, 32.0, None), "sasnet": (31.0, 34.0, 35.0)}
    rows = [load_row("images", name) for name in psnr]
    results = {
        name: [[{"error": NOT_DONE} if v is None else {"psnr": v, "parameters": 10, "made": made} for v in values]]
        for name, values in psnr.items()
    }
    context = Context(tmp_path, tmp_path)
    table = table_rows(rows, results, IMAGE_METRICS, "table1")
    assert table[0].error == "2 of 3 runs are there" and table[1].mean("psnr") == pytest.approx(100 / 3)
    text = write_table(context, "t", "T", IMAGE_METRICS, table, [])
    assert "| SIREN | 2 of 3 runs are there |" in text
    assert "- a machine; 2026-01-02; 1.5 minutes a run; one seed (0), so no spread." in text
    each = each_item(context, "t", rows, results, ["a", "b", "c"], IMAGE_METRICS[0])
    assert "| SIREN | 30.00 | 32.00 |  | -1.50 ± 0.71 |" in each and "| SASNet | 31.00 | 34.00 | 35.00 |  |" in each
    assert (tmp_path / "t_each.md").read_text() == each
    results["sasnet"].append([{"psnr": 41.0, "parameters": 10} for _ in range(3)])
    results["siren"].append([{"error": NOT_DONE}, {"psnr": 40.0, "parameters": 10}, {"error": NOT_DONE}])
    each = each_item(context, "t", rows, results, ["a", "b", "c"], IMAGE_METRICS[0])
    assert "| SIREN | 30.00 | 36.00 |  | -1.25 ± 0.35 |" in each, "seed by seed: -1 on a, -2 and -1 on b"
    measured = write_table(context, "t", "T", IMAGE_METRICS, [TableRow("SIREN", 10, {"psnr": [1.0]})], [])
    assert f"- {context.hardware()}; {datetime.date.today().isoformat()}; one seed" in measured
    assert each_item(context, "t", rows, results, ["a"], IMAGE_METRICS[0]) is None


def test_where_there_is_nothing_to_do_it_ends_with_a_sentence(tmp_path):
    folder = tmp_path / "images" / "kodak"
    folder.mkdir(parents=True)
    for name in ("a.png", "._a.png"):
        (folder / name).write_bytes(b"no image")
    usual = ("supp_table3", "--quick", "--rows", "siren", "--data", str(tmp_path), "--output", str(tmp_path / "out"))
    for more, sentence in (
        (("--limit", "0"), "0 is not 1 or more"),
        (("--workers", "-1"), "-1 is not 1 or more"),
        (("--device", "gpu"), "there is no device 'gpu' on this machine"),
        ((), "reproduce supp_table3: 2 of the runs could not be done:"),
    ):
        result = call(*usual, *more)
        assert result.returncode and sentence in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_a_folder_has_only_what_can_be_read(tmp_path):
    context = Context(tmp_path, tmp_path, size="medium", item="table3")
    for folder, names in (("meshes", ("lucy.mtl", "lucy.obj")), ("images/kodak", ("._a.png", "a.png", "b.txt"))):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).touch()
    assert context.shape("lucy") == str(tmp_path / "meshes" / "lucy.obj")
    assert [path.name for path in context.files("images/kodak", None)] == ["a.png"]
    (tmp_path / "meshes" / "dragon.ply").touch()
    assert Path(context.shape("dragon")).name == "dragon.ply"
    context.no_fit = True
    assert Path(context.shape("dragon")).name == "dragon.npz", "the file of the kept rows"


def test_missing_data_is_named_with_its_source(tmp_path):
    result = call("table1", "--quick", "--data", str(tmp_path), "--output", str(tmp_path / "out"))
    assert result.returncode == 1 and "liuzhen0212/FINER" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_table_is_made_and_its_runs_are_not_done_twice(tmp_path):
    from PIL import Image

    folder = tmp_path / "images" / "div2k512"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((48, 48)).save(folder / "a.png")
    arguments = (
        "table1",
        "--quick",
        "--data",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
        "--rows",
        "siren",
        "sasnet",
    )
    first = call(*arguments)
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "out" / "table1_quick.md").read_text()
    assert "| SIREN | 4,227 |" in text and "| SASNet | 4,327 |" in text and "34.64" in text
    assert "| SIREN, best omega_0 | 4,227 |" in text
    runs = list((tmp_path / "out" / "runs").iterdir())
    assert len(runs) == 3 and all(json.loads((r / "metrics.json").read_text())["psnr"] > 10 for r in runs)
    second = call(*arguments)
    assert second.returncode == 0 and "3 of the runs are there already" in second.stdout


def test_a_process_that_is_pinned_to_some_cores_counts_them(monkeypatch):
    import os

    from reproduction.runs import available_cores

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 9}, raising=False)
    assert available_cores() == 3
