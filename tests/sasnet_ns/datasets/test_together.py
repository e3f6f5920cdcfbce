"""Fields of a data set that are trained together, and broken files among whole ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_fields import small_options

from sasnet_ns.datasets import Limits, fit_one, fit_shapes, latest_rows, synthetic_mesh, write_synthetic
from sasnet_ns.datasets.one import fit_together
from sasnet_ns.datasets.rows import VARYING
from sdf_tools.io import save_mesh

CASES = (
    Path(os.environ.get("SASNET_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")).parent / "cases"
)
BROKEN = (
    "badalloc_compressed.pcd", "bytes_member.npz", "height.pcd", "kdtree.npy", "many_faces.ply", "neg_list_ascii.ply",
    "neg_list_binary.ply", "neg_vertex.ply", "normals_1d.npz", "segv_compressed.pcd", "spacing_bad.npz",
    "spacing_count.npz", "type_size.pcd", "uri_devzero.glb", "uri_http.glb",
)  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def solids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solids")
    for seed in range(3):
        save_mesh(synthetic_mesh(seed, resolution=24), folder / f"solid{seed}.ply")
    (folder / "empty.ply").write_text("")
    return folder


def pairs(folder: Path) -> list[tuple[Path, str]]:
    return [(path, path.name) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("shared", [True, False])
def test_rows_and_bytes_are_those_of_single_fits(shared: bool, solids: Path, tmp_path: Path, one_thread: None) -> None:
    pytest.importorskip("numba")
    together, alone = (small_options(tmp_path / name, 60, shared_init=shared) for name in ("together", "alone"))
    rows = {row.path: row for row in fit_together(pairs(solids), together)}
    assert sorted(rows) == ["empty.ply", "solid0.ply", "solid1.ply", "solid2.ply"]
    varying = dict.fromkeys(VARYING)
    for path, name in pairs(solids):
        row = fit_one(path, alone, name)
        assert dataclasses.replace(rows[name], **varying) == dataclasses.replace(row, **varying)  # type: ignore[arg-type]
        if row.status == "fitted":
            one, other = (tmp_path / place / "fields" / f"{row.key}.pt" for place in ("together", "alone"))
            assert one.read_bytes() == other.read_bytes()
    assert rows["empty.ply"].status == "failed" and rows["solid0.ply"].status == "fitted"


def test_what_cannot_be_trained_together_is_fitted_one_by_one(solids: Path, tmp_path: Path) -> None:
    options = small_options(tmp_path, 5, resolution=0)
    options.fit = dataclasses.replace(options.fit, network="finer", network_config={"width": 16})
    rows = list(fit_together(pairs(solids), options))
    assert [row.status for row in rows] == ["failed", "fitted", "fitted", "fitted"]


def test_a_training_that_fails_as_a_whole_is_done_one_by_one(
    solids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sasnet_ns.datasets import one

    def fails(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(one, "train_batch", fails)
    rows = {row.path: row for row in fit_together(pairs(solids), small_options(tmp_path, 5, resolution=0))}
    assert [rows[f"solid{seed}.ply"].status for seed in range(3)] == ["fitted"] * 3
    assert rows["solid1.ply"].warnings == "fitted again by itself: no room"


@pytest.mark.slow
def test_twenty_broken_files_among_a_hundred_solids(tmp_path: Path) -> None:
    """A hundred fields, and twenty rows with a sentence, though four shapes at a time are trained together."""
    if not CASES.is_dir():
        pytest.skip(f"the collected broken files are not at '{CASES}'")
    source, output = tmp_path / "in", tmp_path / "out"
    write_synthetic(source, 100, resolution=24)
    for index, name in enumerate(BROKEN):  # spread among the solids
        (source / f"synthetic_{6 * index:05d}_{name}").write_bytes((CASES / "trust" / "loaders" / name).read_bytes())
    (source / "points.obj").write_bytes((CASES / "shapes" / "cube_points_only.obj").read_bytes())
    (source / "empty.stl").write_bytes(b"")
    (source / "text.off").write_text("no shape\n")
    whole = (source / "synthetic_00003.ply").read_bytes()
    (source / "torn.ply").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(source / "pipe.ply")
    options = small_options(output, 5, resolution=0)
    result = fit_shapes(source, options, workers=2, batch=4, limits=Limits(seconds=300, memory=3e9))
    rows = list(latest_rows(output))
    fitted, failed = ([row for row in rows if (row.status == "fitted") is kind] for kind in (True, False))
    assert sorted(row.path for row in fitted) == [f"synthetic_{index:05d}.ply" for index in range(100)]
    assert len(list((output / "fields").glob("*.pt"))) == 100
    assert len(failed) == 20 and result.counts.failed == 20
    for row in failed:
        said = row.error or ""
        assert row.status == "failed" and said.endswith(".") and "\n" not in said and "Error" not in said, said
        assert Path(row.path).suffix in said or "cube_points_only" in said or "points" in said, said
