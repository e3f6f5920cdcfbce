"""Options that cannot be, or that would do nothing, are one sentence before any work; reasonable ones are read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sasnet_ns.commands.cli import main
from sasnet_ns.datasets import FitOptions, fit_shapes, list_shapes
from sasnet_ns.datasets.workers import fit_entry
from sasnet_ns.fitting import ShapeFit, fit_shape
from sasnet_ns.fitting.grid_fit import GridFit, adjusted
from sasnet_ns.training import Recipe, SDFObjective
from sasnet_ns.training.config import load_config, option_value
from sasnet_ns.training.devices import chosen_device
from sasnet_ns.training.options import digest, plain_options
from sdf_tools.ranges import require

TINY = "network: siren\nnetwork_config: {width: 8, hidden_layers: 1}\npool_size: 2000\npoints_per_batch: 100\n"
SHORT = TINY + "recipe: {steps: 3}\n"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return tmp_path / "a.npy"


def refused(arguments: list[Any], output: Path) -> str:
    """The sentence with which a command ends; nothing is left of what it would have written."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    assert not output.exists()
    return end.value.code


def siren(**options: Any) -> ShapeFit:
    tiny: dict[str, Any] = {"width": 8, "hidden_layers": 1}
    given = {"pool_size": 1000, "points_per_batch": 50, "recipe": Recipe(steps=2), **options}
    return ShapeFit(network="siren", network_config=tiny, **given)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((Recipe, "steps", value) for value in (-1, float("nan"))),
        *((Recipe, name, -1) for name in ("warmup_steps", "halve_every", "epsilon", "learning_rate", "clip_norm")),
        (Recipe, "clip_norm", 0.0),
        (Recipe, "mask_learning_rate", float("inf")),
        (Recipe, "betas", (0.9, 2.0)),
        *((SDFObjective, "band_dropout", value) for value in (2.0, 1.0)),
        (SDFObjective, "mask_sparsity_weight", -1.0),
        (SDFObjective, "near", 0.0),
        (SDFObjective, "eikonal_weight", float("nan")),
        (GridFit, "points_per_batch", -1),
        (GridFit, "seed", 2**64),
        (ShapeFit, "points_per_batch", 0),
        (ShapeFit, "pool_size", 0),
        (ShapeFit, "coarse_scales", ()),
        (ShapeFit, "coarse_scales", (0.1, float("nan"))),
        (ShapeFit, "uniform_share", 2.0),
        (ShapeFit, "seed", -1),
        (ShapeFit, "seed", 99999999999999999999),
        *((ShapeFit, "seconds", value) for value in (0.0, -1.0, float("nan"), float("inf"))),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(kind: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}\b.* (must|at least)"):
        kind(**{name: value})
    late = kind()
    setattr(late, name, value)
    with pytest.raises(ValueError, match=name):
        late.check()


def test_terms_are_checked_together() -> None:
    with pytest.raises(ValueError, match="eikonal_points must be 1 or more, not 0"):
        SDFObjective(eikonal_points=0, eikonal_weight=0.1)
    SDFObjective(eikonal_points=0)  # there is no such term
    SDFObjective(loss="coarse_to_fine", far_weight=0.0)
    with pytest.raises(ValueError, match="final_factor must be more than 0"):
        Recipe(schedule="exponential")
    Recipe(steps=0, learning_rate=0.0)
    with pytest.raises(ValueError, match="scale must be a finite number, not nan"):
        require("scale", float("nan"))


def test_valid_options_have_the_digests_they_had() -> None:
    """Names of finished runs are made of these."""
    assert digest(plain_options(Recipe())).startswith("684ce909f633")
    assert digest(plain_options(SDFObjective())).startswith("ab048c8963b7")
    assert digest(plain_options(ShapeFit())).startswith("4a9ccc330c68")
    assert digest(plain_options(GridFit())).startswith("e304aeec4850")
    assert FitOptions(Path("x"), siren()).configuration_hash().startswith("2bef51c25c1b")


@pytest.mark.parametrize("objective", [SDFObjective(mask_sparsity_weight=0.1), SDFObjective(band_dropout=0.5)])
def test_terms_for_masks_or_bands_need_a_network_that_has_them(objective: SDFObjective, sphere_file: Path) -> None:
    with pytest.raises(ValueError, match=r"needs a network with (masks|bands), and 'siren' has none"):
        fit_shape(str(sphere_file), siren(objective=objective), device="cpu", progress=False)
    masked = {"preset": "sdf_compact", "masks": False}
    if objective.mask_sparsity_weight:
        config = ShapeFit(network_config=masked, objective=objective)
        with pytest.raises(ValueError, match="needs a network with masks, and 'sasnet' has none"):
            fit_shape(str(sphere_file), config, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe:\n  steps: 7\nseed: 3\nrecipe:\n  warmup_steps: 2\n", "has 'recipe' twice, in lines 1 and 4"),
        ("recipe: {steps: 1, steps: 2}", "has 'steps' twice"),
        ("recipe: {steps: yes}", "recipe: 'steps' is true, and a int is wanted"),
        ("coarse_scales: [0.1, on]", "'coarse_scales' is true"),
        ("recipe: {clip_norm: -1}", "fit.yaml, recipe: clip_norm must be more than 0"),
        ("points_per_batch: 0", "fit.yaml: points_per_batch must be 1 or more, not 0"),
    ],
)
def test_yaml_that_would_be_read_otherwise_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "fit.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"fit\.yaml") as caught:
        load_config(tmp_path / "fit.yaml", ShapeFit)
    assert words in str(caught.value)


def test_numbers_of_a_network_are_numbers_wherever_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text("network_config: {omega_0: 3e1, deep: {rate: 1e-3}, name: word, open: on}\n")
    options = load_config(tmp_path / "fit.yaml", ShapeFit).network_config
    assert options == {"omega_0": 30, "deep": {"rate": 0.001}, "name": "word", "open": True}
    assert option_value("1e2", "x") == 100 and option_value("[1, 2e0]", "x") == [1, 2]
    assert option_value("false", "x") is False and option_value("", "x") is None
    with pytest.raises(ValueError, match="option width is '\\[', which is not YAML"):
        adjusted(GridFit(network="siren"), 2, 3, options={"width": "["})


def test_aliases_of_yaml_are_not_unfolded(tmp_path: Path) -> None:
    lines = ["network_config:", "  a0: &a0 [x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]  # 10^11 values, written out
    (tmp_path / "fit.yaml").write_text("\n".join(lines))
    assert len(load_config(tmp_path / "fit.yaml", ShapeFit).network_config or {}) == 12


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", -1], "steps must be 0 or more, not -1"),
        (["--batch", -5], "points_per_batch must be 0 or more, not -5"),
        (["--learning-rate", "nan"], "learning_rate must be 0 or more and finite"),
        (["--evaluate-every", -10], "evaluate_every must be 0 or more"),
        (["--evaluate-every", 7], "evaluate_every must be a multiple of 10, not 7"),
        (["--network-config", "width", 0], "width of network 'siren' must be 1 or more, not 0"),
        (["--network-config", "width", -8], "width of network 'siren' must be 1 or more, not -8"),
        (["--network-config", "width", 1.5], "network 'siren'"),
        (["--network-config", "width", "["], "option width is '[', which is not YAML"),
        (["--network-config", "hidden_layers", "many"], "network 'siren'"),
        (["--device", "foo"], "there is no device 'foo' on this machine, which has: cpu"),
        (["--device", "cuda:99"], "there is no device 'cuda:99' on this machine"),
        (["--scale", 0], "--scale must be 1 or more, not 0"),
        (["--scale", 1_000_000], "--scale 1000000 makes a picture of 12000000 x 16000000 pixels, which needs"),
        (["--shift", "nan"], "--shift must be a finite number"),
        (["--window", 0, 99, 0, 5], "--window 0 99 0 5 does not lie in the image, which has 12 rows and 16 columns"),
    ],
)
def test_an_image_is_not_fitted_before_its_options_are_read(
    picture: Path, tmp_path: Path, words: list[Any], says: str
) -> None:
    out = tmp_path / "out"
    fit = ["fit-image", "--image", picture, "--output", out, "--network", "siren"]
    assert says in refused([*fit, *([] if "--steps" in words else ["--steps", 5]), *words], out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", -1], "steps must be 0 or more, not -1"),
        (["--seconds", "nan"], "seconds must be more than 0 and finite, not nan"),
        (["--steps", 5, "--seconds", 0.05], "--steps and --seconds are two ways to say the same"),
        (["--resolution", -1], "--resolution must be from 0 to 8192, not -1"),
        (["--resolution", 100_000], "--resolution must be from 0 to 8192"),
        (["--device", "foo"], "there is no device 'foo'"),
    ],
)
def test_a_shape_is_not_fitted_before_its_options_are_read(
    sphere_file: Path, tmp_path: Path, words: list[Any], says: str
) -> None:
    (tmp_path / "c.yaml").write_text(SHORT)
    out = tmp_path / "out"
    fit = ["fit-shape", "--data", sphere_file, "--output-dir", out, "--config", tmp_path / "c.yaml"]
    assert says in refused([*fit, *words], out)


def test_other_commands_say_it_as_well(sphere_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    volume = ["fit-volume", "--volume", "no.npy", "--output", out, "--device", "foo"]
    assert "there is no device 'foo'" in refused(volume, out)
    extract = ["extract", "--load-config", tmp_path, "--output-path", out.with_suffix(".ply"), "--device", "gpu"]
    assert "there is no device 'gpu'" in refused(extract, out)
    scene = ["render-scene", "--data", sphere_file, "--output-dir", out, "--seed", -1]
    assert "--seed must be from 0 to" in refused(scene, out)
    compare = ["evaluate", "--prediction", sphere_file, "--reference", sphere_file]
    assert "seed must be from 0 to" in refused([*compare, "--seed", -1], out)
    assert "--samples and --iou-samples must be at least 1" in refused([*compare, "--samples", 0], out)
    assert str(chosen_device("cpu")) == "cpu" and chosen_device().type in ("cpu", "cuda")


def test_the_command_line_overrides_the_configuration_s_network(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("network: siren\nnetwork_config: {width: 8, hidden_layers: 1}\nrecipe: {steps: 2}")
    fit = ["fit-image", "--image", picture, "--config", tmp_path / "c.yaml", "--device", "cpu", "--output"]
    for words, network in (([], "siren"), (["--network", "finer"], "finer")):
        out = tmp_path / network
        main([str(word) for word in (*fit, out, *words)])
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics["network"] == network and metrics["network_config"]["width"] == 8


def test_a_run_is_repeated_with_the_options_it_had(
    sphere_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, old, new = tmp_path / "c.yaml", tmp_path / "old", tmp_path / "new"
    config.write_text(SHORT)
    words = ["--config", config, "--resolution", 0, "--device", "cpu"]
    main([str(word) for word in ("fit-shape", "--data", sphere_file, "--output-dir", old, *words, "--steps", 4)])
    config.write_text(SHORT.replace("width: 8", "width: 16").replace("steps: 3", "steps: 7"))
    main(["repeat", str(old), "--show"])
    shown = capfd.readouterr().out
    assert f"--config {old / 'run.json'}" in shown and str(config) not in shown and "--steps" not in shown
    main(["repeat", str(old), "--output-dir", str(new)])
    told = [json.loads((folder / "run.json").read_text()) for folder in (old, new)]
    assert told[0]["options_sha256"] == told[1]["options_sha256"] and told[0]["options"] == told[1]["options"]
    assert told[1]["options"]["recipe"]["steps"] == 4
    assert (old / "losses.json").read_text() == (new / "losses.json").read_text()
    told[0]["options"]["recipe"]["steps"] = 9
    (old / "run.json").write_text(json.dumps(told[0]))
    assert "not those that the run had" in refused(["repeat", old, "--show"], tmp_path / "nothing")


def one_by_one(entries: Any, options: FitOptions) -> Any:
    for entry in entries:
        yield fit_entry(entry, options)


def test_lists_as_other_programs_write_them(tmp_path: Path) -> None:
    def listed(name: str, content: bytes) -> list[tuple[str, dict[str, Any]]]:
        (tmp_path / name).write_bytes(content)
        return [(entry.path, entry.overrides) for entry in list_shapes(tmp_path / name)]

    both = [("a.obj", {}), ("b.obj", {})]
    assert listed("bom.txt", b"\xef\xbb\xbfa.obj\r\nb.obj\r\n") == both
    assert listed("power.txt", "a.obj\r\nb.obj\r\n".encode("utf-16")) == both
    assert listed("power.csv", "path\r\na.obj\r\nb.obj\r\n".encode("utf-16")) == both
    assert listed("pandas.csv", b",path,steps\n0,a.obj,3.0\n1,b.obj,\n") == [("a.obj", {"steps": "3.0"}), both[1]]
    assert listed("blank.csv", b"path, steps \na.obj, 3 \n") == [("a.obj", {"steps": "3"})]
    for name, content in (("l1.txt", "ü.obj\n".encode("latin1")), ("l1.csv", "path\nü.obj\n".encode("latin1"))):
        with pytest.raises(ValueError, match=f"'{name}' is not text in UTF-8"):
            listed(name, content)


def test_a_list_in_parquet_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "junk.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"'junk\.parquet' cannot be read as Parquet"):
        list(list_shapes(tmp_path / "junk.parquet"))


def test_a_row_sets_the_options_of_its_network(tmp_path: Path) -> None:
    options = FitOptions(tmp_path, siren())
    changed = options.with_overrides({"network_config.width": "4", "network_config.omega_0": "3e1"}, "l.csv, row 2")
    assert changed.fit.network_config == {"width": 4, "hidden_layers": 1, "omega_0": 30}
    assert siren().network_config == options.fit.network_config
    with pytest.raises(ValueError, match="mend must be none, clean or repair"):
        dataclasses.replace(options, mend="fix")  # type: ignore[arg-type]
    plain = dataclasses.replace(options, fit=ShapeFit())
    changed = plain.with_overrides({"network_config.masks": "false"}, "l.csv, row 2")
    assert changed.fit.network_config == {"preset": "sdf_compact", "masks": False}
    with pytest.raises(ValueError, match=r"l\.csv, row 2, recipe: steps must be 0 or more, not -3"):
        options.with_overrides({"steps": "-3"}, "l.csv, row 2")


def test_a_data_set_in_its_own_source_does_not_fit_its_meshes(sphere_file: Path, tmp_path: Path) -> None:
    (tmp_path / "meshes").mkdir()
    for name in ("a.ply", "meshes/mine.ply"):
        (tmp_path / name).write_bytes(sphere_file.read_bytes())
    (tmp_path / "meshes" / f"{'0' * 32}-{'a' * 8}.ply").write_bytes(sphere_file.read_bytes())  # as --mesh names them
    result = fit_shapes(tmp_path, FitOptions(tmp_path, siren(), resolution=0), engine=one_by_one)
    assert (result.counts.total, result.counts.failed) == (2, 0)
