"""The master of a data set, with workers that fit nothing: what happens to rows when something goes wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataset_stubs import StubOptions, stub_fit, stub_together

from sasnet_ns.commands.fit_shapes import Arguments, _say
from sasnet_ns.datasets import Entry, Limits, Row, fit_shapes, latest_rows, list_shapes, shard_of, worst_rows
from sasnet_ns.datasets.listing import grouped
from sasnet_ns.datasets.master import _known
from sasnet_ns.datasets.rows import VARYING, Journal, read_journal
from sasnet_ns.datasets.workers import _row_without_opening, fit_in_workers
from sdf_tools.errors import ShapeError, ShapeWarning, file_trouble

ROOT = Path(__file__).resolve().parents[3]


def make_files(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def stub(output: Path, pause: float = 0.0) -> StubOptions:
    return StubOptions(output=output, pause=pause)


def plain(output: Path) -> list[dict[str, object]]:
    """Rows without what differs from run to run."""
    rows = [dataclasses.asdict(row) for row in latest_rows(output)]
    return [{name: value for name, value in row.items() if name not in VARYING} for row in rows]


def in_this_process(entries: Iterator[Entry], options: StubOptions) -> Iterator[Row]:
    for entry in entries:
        yield stub_fit(entry, options)


def run_here(source: Path, output: Path, **more: object):  # type: ignore[no-untyped-def]
    return fit_shapes(source, stub(output), engine=in_this_process, **more)  # type: ignore[arg-type]


def test_one_bad_shape_harms_nobody(tmp_path: Path) -> None:
    good = [f"good{index}.ply" for index in range(6)]
    source = make_files(tmp_path / "in", [*good, "bad.ply", "dies.ply", "eats.ply", "hangs.ply"])
    limits = Limits(seconds=6.0, memory=300e6)
    result = fit_shapes(source, stub(tmp_path / "out"), workers=2, limits=limits, fit=stub_fit)  # type: ignore[arg-type]
    rows = {row.path: row for row in latest_rows(tmp_path / "out")}
    assert {name: rows[name].status for name in rows} == {
        **dict.fromkeys(good, "fitted"),
        "bad.ply": "failed",
        "dies.ply": "crashed",
        "eats.ply": "memory",
        "hangs.ply": "timeout",
    }
    assert rows["dies.ply"].error == "'dies.ply' its process died 3 times, last with SIGSEGV."
    assert rows["hangs.ply"].error == "'hangs.ply' took longer than 6 s (--time-limit)."
    assert "more than 0.30 GB (--memory-limit)" in (rows["eats.ply"].error or "")
    assert (result.counts.total, result.counts.done, result.counts.failed) == (10, 10, 4)
    assert result.counts.fresh == 10 and not result.interrupted


def test_a_full_disk_ends_the_run_and_is_no_fault_of_the_shapes(tmp_path: Path) -> None:
    """A file system of 2 MB that fills up: no rows for the shapes that did not fit, and the next call does them."""
    source = make_files(tmp_path / "in", ["a.ply", "fills.ply", "good.ply"])
    output = tmp_path / "out"
    output.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(output)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            run_here(source, output)
        assert file_trouble(caught.value).startswith(f"'{output}': no space left on device; free some space")
        assert [row.path for row in latest_rows(output)] == ["a.ply"]
        with pytest.raises(ShapeError, match="the fields of 2 shapes need about 391 KiB of disk space"):
            run_here(source, output)
        (output / "filler").unlink()
        (source / "fills.ply").rename(source / "fine.ply")
        assert run_here(source, output).counts.done == 3
    finally:
        subprocess.run(["umount", "-l", str(output)], check=True)


def test_in_groups_too_one_bad_shape_harms_nobody(tmp_path: Path) -> None:
    good = [f"good{index}.ply" for index in range(9)]
    source = make_files(tmp_path / "in", [*good, "bad.ply", "dies.ply", "hangs.ply"])

    def engine(entries: Iterator[Entry], options: StubOptions) -> Iterator[Row]:
        limits = Limits(seconds=1.5)  # of a group of four: 6 s
        yield from fit_in_workers(grouped(entries, 4), options, 2, limits, tmp_path / "log", stub_fit, stub_together)  # type: ignore[arg-type]

    result = fit_shapes(source, stub(tmp_path / "out"), engine=engine)  # type: ignore[arg-type]
    rows = {row.path: row.status for row in latest_rows(tmp_path / "out")}
    others = {"bad.ply": "failed", "dies.ply": "crashed", "hangs.ply": "timeout"}
    assert rows == {**dict.fromkeys(good, "fitted"), **others}
    assert result.counts.fresh == 12 and len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 12
    # bad, dies, good0 and good1 are one group, hangs is in the last one: what they were with is done again alone
    assert sorted((tmp_path / "out" / "groups.txt").read_text().split()) == sorted(["4", *["1"] * 6])


def test_groups_have_the_same_options() -> None:
    entries = [Entry(str(index), "", {"steps": index % 2} if index < 5 else {}) for index in range(8)]
    found = [[entry.path for entry in group] for group in grouped(entries, 2)]
    assert found == [["0", "2"], ["1", "3"], ["5", "6"], ["4"], ["7"]]
    assert [len(group) for group in grouped(entries, 1)] == [1] * 8
    many = (Entry(str(index), "", {"seed": index}) for index in range(1000))
    waiting = grouped(many, 8)
    next(waiting)
    assert next(many).path == "65"  # not all of the list is read before the first group is given out


def test_killed_at_random_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """kill -9 of the master and of workers: a table that is complete, without duplicates, and equal to a calm one."""
    source = make_files(tmp_path / "in", [f"shape{index:03d}.ply" for index in range(40)])
    run_here(source, tmp_path / "calm")
    script = [
        sys.executable,
        str(Path(__file__).with_name("dataset_stubs.py")),
        str(source),
        str(tmp_path / "out"),
        "0.25",  # slow enough to be met in the middle, on a busy machine too
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    chance = random.Random(0)
    for kills in (["worker", "worker", "master"], ["worker", "master"], []):
        process = subprocess.Popen(script, env=environment)
        journal = tmp_path / "out" / "rows.jsonl"
        seen = len(list(read_journal(journal))) if journal.exists() else 0
        for victim in kills:
            seen += chance.randrange(1, 5)
            while not journal.exists() or len(list(read_journal(journal))) < seen:
                assert process.poll() is None
                time.sleep(0.02)
            time.sleep(chance.random() * 0.1)
            os.kill(process.pid if victim == "master" else chance.choice(children(process.pid)), signal.SIGKILL)
        assert process.wait() == (-signal.SIGKILL if kills else 0)
    assert plain(tmp_path / "out") == plain(tmp_path / "calm") and len(plain(tmp_path / "out")) == 40
    for field in (tmp_path / "calm" / "fields").iterdir():
        assert (tmp_path / "out" / "fields" / field.name).read_bytes() == field.read_bytes()


def children(process: int) -> list[int]:
    """Workers of a master, by the parent that their status names."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parts = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(parts[1]) == process and b"multiprocessing.spawn" in (status.parent / "cmdline").read_bytes():
            found.append(int(status.parent.name))
    return found


def test_a_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    source, output = make_files(tmp_path / "in", ["a.ply", "b.ply", "bad.ply"]), tmp_path / "out"
    assert run_here(source, output).counts.fresh == 3
    assert run_here(source, output).counts.fresh == 0
    assert run_here(source, output, retry_failed=True).counts.fresh == 1
    (source / "a.ply").write_text("changed")
    assert run_here(source, output).counts.fresh == 1
    field = next(row.key for row in latest_rows(output) if row.path == "b.ply")
    (output / "fields" / f"{field}.pt").unlink()
    result = run_here(source, output)
    assert result.counts.fresh == 1 and len(plain(output)) == 3
    assert (output / "calls.txt").read_text().split() == ["a.ply", "b.ply", "a.ply", "b.ply"]


def test_torn_lines_are_skipped_and_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    journal = Journal(path)
    journal.append(Row("a.ply", "fitted"))
    journal.append(Row("b.ply", "fitted"))
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        expected = whole[:cut].count(b"}")
        assert len(list(read_journal(path))) == expected
        journal = Journal(path)
        journal.append(Row("c.ply", "fitted"))
        journal.close()
        assert [row.path for _, row in read_journal(path)] == [*["a.ply", "b.ply"][:expected], "c.ply"]


def test_fields_inside_the_folder_of_shapes_are_no_shapes(tmp_path: Path) -> None:
    source = make_files(tmp_path / "in", ["a.ply"])
    make_files(source / "out" / "meshes", ["kept.ply"])
    assert run_here(source, source / "out").counts.total == 1


def test_two_masters_do_not_fill_one_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match=r"another process is filling .*--shard"):
        Journal(tmp_path / "rows.jsonl")
    journal.close()
    Journal(tmp_path / "rows.jsonl").close()


def test_shards_share_a_folder_and_make_one_table(tmp_path: Path) -> None:
    names = [f"s{index}.ply" for index in range(7)]
    source, output = make_files(tmp_path / "in", names), tmp_path / "out"
    totals = [run_here(source, output, shard=(index, 3)).counts.total for index in range(3)]
    assert totals == [3, 2, 2] and [row.path for row in latest_rows(output)] == names
    assert run_here(source, output).counts.fresh == 0


def test_slurm_says_which_shard() -> None:
    slurm = {f"SLURM_ARRAY_TASK_{n}": v for n, v in (("ID", "14"), ("MIN", "10"), ("STEP", "2"), ("COUNT", "5"))}
    assert shard_of(None, slurm) == (2, 5)
    assert shard_of(None, {}) == (0, 1) and shard_of("3/8", slurm) == (3, 8)
    for wrong in ("8/8", "-1/8", "3", "a/b", "0/0"):
        with pytest.raises(ValueError, match="shard"):
            shard_of(wrong)


def test_folders_and_lists_name_the_same_shapes(tmp_path: Path) -> None:
    source = make_files(tmp_path / "in", ["b.ply", "a.OBJ", "notes.md", ".hidden.ply"])
    make_files(source / "deep", ["c.xyz"])
    assert [entry.path for entry in list_shapes(source)] == ["a.OBJ", "b.ply", "deep/c.xyz"]
    (source / "list.txt").write_text("# some\n\nb.ply\ndeep/c.xyz\n")
    assert [entry.path for entry in list_shapes(source / "list.txt")] == ["b.ply", "deep/c.xyz"]
    (source / "list.csv").write_text("path,steps,seed\nb.ply,100,\ndeep/c.xyz,,3\n")
    first, second = list_shapes(source / "list.csv")
    assert (first.overrides, second.overrides) == ({"steps": "100"}, {"seed": "3"})
    assert first.file == str(source / "b.ply")
    (source / "wrong.csv").write_text("file\nb.ply\n")
    with pytest.raises(ValueError, match=r"wrong.csv, row 2: no path"):
        list(list_shapes(source / "wrong.csv"))
    with pytest.raises(ValueError, match="neither a folder nor a list"):
        list(list_shapes(tmp_path / "nowhere"))


def test_a_list_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"path": ["a.ply", "b.ply"], "steps": [None, 7]}), tmp_path / "list.parquet")
    assert [entry.overrides for entry in list_shapes(tmp_path / "list.parquet")] == [{}, {"steps": 7}]


def test_the_table_in_parquet_has_every_row_and_the_gate(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    source = make_files(tmp_path / "in", ["a.ply", "b.ply", "bad.ply"])
    result = run_here(source, tmp_path / "out", min_iou=0.5)
    table = pq.read_table(result.table).to_pylist()
    assert [row["path"] for row in table] == ["a.ply", "b.ply", "bad.ply"]
    assert [row["below_min_iou"] for row in table] == [
        None if row["iou"] is None else row["iou"] < 0.5 for row in table
    ]
    assert table[2]["error"] == "no shape." and result.below == sum(row["below_min_iou"] or 0 for row in table)


def test_without_pyarrow_the_table_is_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    source = make_files(tmp_path / "in", ["a.ply", "bad.ply"])
    with pytest.warns(UserWarning, match="written as CSV"):
        result = run_here(source, tmp_path / "out")
    lines = result.table.read_text().splitlines()
    assert result.table.name == "shapes.csv" and len(lines) == 3 and lines[1].startswith("a.ply,fitted")


def test_the_worst_rows_come_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    for index in range(50):
        journal.append(Row(f"{index}.ply", "fitted", iou=(index * 7 % 50) / 50))
    journal.append(Row("failed.ply", "failed", iou=None))
    journal.close()
    worst, missed = worst_rows(tmp_path, 10, min_iou=0.5)
    assert [row.iou for row in worst] == [index / 50 for index in range(10)] and missed == 25


def test_the_memory_of_the_master_does_not_grow_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 rows: what one more row costs while running is the 8-byte name that keeps a list from naming it twice."""
    (tmp_path / "list.txt").write_text("\n".join(f"shape_{index}.ply" for index in range(10_000)))
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # 10,000 of them take a minute on a slow disk
    held: list[int] = []

    def engine(entries: Iterator[Entry], options: StubOptions) -> Iterator[Row]:
        tracemalloc.start()
        for number, entry in enumerate(entries):
            if number in (100, 5_000, 9_999):
                held.append(tracemalloc.get_traced_memory()[0])
            yield Row(entry.path, "fitted", configuration_hash="c" * 64, warnings="w" * 200)
        tracemalloc.stop()

    result = fit_shapes(tmp_path / "list.txt", stub(tmp_path / "out"), engine=engine)  # type: ignore[arg-type]
    assert result.counts.done == 10_000
    assert held[2] - held[0] < 10_000 * 110
    assert (tmp_path / "out" / "rows.jsonl").stat().st_size > 3_000_000


def test_ctrl_c_ends_well_and_the_next_run_goes_on(tmp_path: Path) -> None:
    source, output = make_files(tmp_path / "in", [f"{index}.ply" for index in range(5)]), tmp_path / "out"

    def engine(entries: Iterator[Entry], options: StubOptions) -> Iterator[Row]:
        for number, entry in enumerate(entries):
            if number == 2:
                raise KeyboardInterrupt
            yield stub_fit(entry, options)

    result = fit_shapes(source, stub(output), engine=engine)  # type: ignore[arg-type]
    assert result.interrupted and result.counts.done == 2
    assert json.loads((output / "summary.json").read_text())["interrupted"] is True
    assert run_here(source, output).counts.fresh == 3


def test_a_row_with_wrong_options_is_a_row(tmp_path: Path) -> None:
    source = make_files(tmp_path / "in", ["a.ply"])
    (source / "list.csv").write_text("path,wrong\na.ply,1\n")
    from sasnet_ns.datasets.workers import fit_entry

    def engine(entries: Iterator[Entry], options: StubOptions) -> Iterator[Row]:
        yield from (fit_entry(entry, options) for entry in entries)  # type: ignore[arg-type]

    for fresh in (1, 0):
        result = fit_shapes(source / "list.csv", stub(tmp_path / "out"), engine=engine)  # type: ignore[arg-type]
        assert result.counts.fresh == fresh and result.counts.failed == 1
    assert [row.error for row in latest_rows(tmp_path / "out")] == ["list.csv, row 2: 'wrong' is not a field."]


def shown(output: Path) -> dict[str, tuple[str, str | None]]:
    return {row.path: (row.status, row.content_hash) for row in latest_rows(output)}


@pytest.mark.parametrize("text", ["another solid", "no solid"])
def test_the_newest_row_stands_in_whichever_journal_it_is(tmp_path: Path, text: str) -> None:
    """A file replaced after a run without shards is fitted by the first run with them, and not again by the next."""
    source, output = make_files(tmp_path / "in", ["bad.ply", "good.ply"]), tmp_path / "out"
    run_here(source, output)
    for name in ("bad.ply", "good.ply"):
        (source / name).write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    fresh = [run_here(source, output, shard=(index % 2, 2)).counts.fresh for index in range(4)]
    assert fresh == [1, 1, 0, 0] and run_here(source, output).counts.fresh == 0
    assert shown(output) == {"bad.ply": ("failed", digest), "good.ply": ("fitted", digest)}


def test_a_newer_failure_replaces_a_field_of_another_content_only(tmp_path: Path) -> None:
    """Whatever the order in which the journals' names sort."""
    names = ("rows-0000-of-0002.jsonl", "rows.jsonl")
    for number, (first, second) in enumerate([names, names[::-1]]):
        output = tmp_path / str(number)
        old, new = Journal(output / first), Journal(output / second)
        for path in ("same.ply", "other.ply", "unopened.ply"):
            old.append(Row(path, "fitted", key="1", input_bytes=1, input_mtime_ns=1))
        new.append(Row("same.ply", "failed", key="1", input_bytes=1, input_mtime_ns=2))
        new.append(Row("other.ply", "failed", key="2", input_bytes=2, input_mtime_ns=2))
        new.append(Row("unopened.ply", "crashed", input_bytes=1, input_mtime_ns=2))
        old.close()
        new.close()
        statuses = {row.path: row.status for row in latest_rows(output)}
        assert statuses == {"other.ply": "failed", "same.ply": "fitted", "unopened.ply": "crashed"}
        known = [(row.mtime_ns, row.key) for row in _known(output).values()]  # the newer file is done in each case
        assert known == [(2, "1"), (2, None), (2, None)]


def test_rows_of_earlier_versions_count_as_they_did(tmp_path: Path) -> None:
    """Without a time: of one journal the last, of several the fitted one; any row with a time is newer."""
    lines = {
        "rows-0000-of-0002.jsonl": [("a", "fitted", "1"), ("b", "fitted", "1"), ("b", "failed", "2")],
        "rows.jsonl": [("a", "failed", "2"), ("b", "fitted", "3"), ("c", "fitted", "1")],
    }
    for name, rows in lines.items():
        text = "".join(json.dumps({"path": p, "status": s, "key": k}) + "\n" for p, s, k in rows)
        (tmp_path / name).write_text(text)
    assert [(row.path, row.key, row.written) for row in latest_rows(tmp_path)] == [
        ("a", "1", None), ("b", "3", None), ("c", "1", None),
    ]  # fmt: skip
    journal = Journal(tmp_path / "rows-0001-of-0003.jsonl")
    journal.append(Row("c", "failed", key="2"))
    journal.close()
    assert [row.status for row in latest_rows(tmp_path)] == ["fitted", "fitted", "failed"]


def test_the_summary_of_a_shard_says_so_and_counts_the_table_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = make_files(tmp_path / "in", [f"{index}.ply" for index in range(5)] + ["bad.ply"]), tmp_path / "out"
    results = [run_here(source, output, shard=(index, 2)) for index in range(2)]
    said = json.loads((output / "summary.json").read_text())
    assert {name: said[name] for name in ("shard", "total", "done", "failed", "table_rows", "table_failed")} == {
        "shard": "1/2", "total": 3, "done": 3, "failed": 1, "table_rows": 6, "table_failed": 1,
    }  # fmt: skip
    _say(results[1], Arguments(source, output))
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "shard 1/2: 3 of 3 shapes have a row, 1 of them no field"
    assert second == f"{results[1].table}: 6 rows in all, 1 of them no field"


def test_a_second_source_with_the_same_names_is_said_once(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first, second = (make_files(tmp_path / name, ["x.ply", "y.ply"]) for name in ("sA", "sB"))
    run_here(first, output)
    for name in ("x.ply", "y.ply"):
        (second / name).write_text("another solid")
    with pytest.warns(UserWarning, match="is replaced by that of the same name in") as caught:
        run_here(second, output)
    assert len(caught) == 1 and f"'{first}'" in str(caught[0].message) and f"'{second}'" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_here(second, output).counts.fresh == 0
        (second / "x.ply").write_text("changed")
        assert run_here(second, output).counts.fresh == 1


def test_a_name_that_is_not_utf8_is_left_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.ply").touch()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfc\xdfe.ply")).touch()
    except OSError:
        pytest.skip("this disk takes names in UTF-8 alone")
    with pytest.warns(ShapeWarning, match=r"'gr\\udcfc\\udcdfe\.ply' is left out: its name is not UTF-8"):
        assert [entry.path for entry in list_shapes(tmp_path)] == ["a.ply"]


def test_the_worst_are_drawn_beside_their_own_shapes(tmp_path: Path) -> None:
    import trimesh

    from sasnet_ns.datasets.pictures import _shape

    for name, made in (("a", trimesh.creation.icosphere(1)), ("b", trimesh.creation.box())):
        (tmp_path / name).mkdir()
        made.export(tmp_path / name / "x.ply")
    own = _shape(Row("x.ply", "fitted", source=str(tmp_path / "a")), tmp_path / "b")
    other = _shape(Row("x.ply", "fitted"), tmp_path / "b")
    assert own is not None and len(own.faces) == 80 and other is not None and len(other.faces) == 12


def test_a_name_that_no_file_can_have_is_one_row(tmp_path: Path) -> None:
    make_files(tmp_path / "in", ["a.ply"])
    (tmp_path / "in" / "list.txt").write_text("a.ply\nbad\0name.obj\n")

    def engine(entries: Iterator[Entry], options: StubOptions) -> Iterator[Row]:
        for entry in entries:
            yield _row_without_opening(entry, options) if "\0" in entry.path else stub_fit(entry, options)  # type: ignore[arg-type]

    for fresh in (2, 0):
        result = fit_shapes(tmp_path / "in" / "list.txt", stub(tmp_path / "out"), engine=engine)  # type: ignore[arg-type]
        assert (result.counts.total, result.counts.done, result.counts.failed, result.counts.fresh) == (2, 2, 1, fresh)
