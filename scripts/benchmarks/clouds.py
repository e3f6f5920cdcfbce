"""Point clouds as they come, to meshes: ours without and with a network beside screened Poisson at its best setting.

Rivals run at several neighbourhood sizes and depths, and the attempt with the best IoU counts, with its own time; ours
runs as it is. Distances in box units (longest side 0.9); processor time of one thread. ``--quick`` takes one shape,
fewer settings and no network. Meshes come from ``SASNET_CLOUD_MESHES`` or the development data; absent ones are
skipped. Rows that are in the ``--json`` file already are kept, so a run that was stopped goes on; ``SASNET_CLOUDS``
names what to run: comma-separated shapes, clouds and methods with a slash between (``lucy//ours,ours fitted``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import cloud_cases
from benchmarks.cloud_methods import Attempt, Method, methods

from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.writing import write_json

QUICK_SHAPES = ("horse", "spot", "armadillo")
SHAPES = ("horse", "nefertiti", "fandisk", "armadillo", "ADIS16480", "spot", "lucy")
POINTS, MANY = 30_000, 300_000
MANY_CLOUDS = ("clean", "noise 0.25 %", "noise 1 %", "strays 20 %")  # of MANY points, of the armadillo
SEED = 1  # the clouds that the constants were chosen on have 0


@dataclass
class Row:
    """One method on one cloud."""

    shape: str
    cloud: str
    method: str
    settings: str
    iou: float
    mesh_to_truth: float
    truth_to_mesh: float
    normal_error_deg: float
    pieces: int
    watertight: bool
    seconds: float
    time_ratio: float | None


def run(json_path: Path | None, quick: bool, ways: dict[str, Method] | None = None) -> None:
    """Every cloud with every method that has no row yet; ``ways`` replaces the methods, ours first."""
    shapes, clouds, wanted = _wanted()
    ways = ways or {name: way for name, way in methods(fitted=not quick).items() if not wanted or name in wanted}
    rows = [Row(**row) for row in json.loads(json_path.read_text())] if json_path and json_path.is_file() else []
    present = [shape for shape in (QUICK_SHAPES if quick else SHAPES) if cloud_cases.truth(shape) is not None]
    torch.set_num_threads(1)
    present = [shape for shape in present if not shapes or shape in shapes]
    plan = [(shape, name, POINTS) for shape in (present[:1] if quick else present) for name in cloud_cases.CASES]
    plan += [("armadillo", name, MANY) for name in MANY_CLOUDS if "armadillo" in present and not quick]
    for shape, name, count in plan:
        label = name if count == POINTS else f"{name} of {count // 1000}k"
        missing = _missing(ways, rows, shape, label)
        if (clouds and label not in clouds) or not missing:
            continue
        mesh = cloud_cases.truth(shape)
        assert mesh is not None
        case = dataclasses.replace(cloud_cases.make(shape, name, mesh, count, SEED), name=label)
        for method, way in missing.items():
            _report(rows, compare(case, {method: way}, quick), json_path)
    scans = (cloud_cases.folder() / "bunny_raw_scans_362k.npz").is_file()
    if not quick and scans and (not shapes or "bunny" in shapes):
        for method, way in _missing(ways, rows, "bunny", "raw scans").items():
            _report(rows, bunny({method: way}), json_path)


def _wanted() -> tuple[list[str], list[str], list[str]]:
    parts = (os.environ.get("SASNET_CLOUDS", "") + "//").split("/")[:3]
    shapes, clouds, wanted = ([name.strip() for name in part.split(",") if name.strip()] for part in parts)
    return shapes, clouds, wanted


def _missing(ways: dict[str, Method], rows: list[Row], shape: str, cloud: str) -> dict[str, Method]:
    done = {row.method for row in rows if row.shape == shape and row.cloud == cloud}
    return {name: way for name, way in ways.items() if name not in done}


def compare(case: cloud_cases.Case, ways: dict[str, Method], quick: bool) -> list[Row]:
    """The best attempt of each method on a cloud."""
    rows = []
    for method, way in ways.items():
        best: Row | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for attempt in way(case.cloud, quick):
                row = judge(case, method, attempt)
                best = row if best is None or row.iou > best.iou else best
        if best is not None:
            rows.append(best)
    return rows


def judge(case: cloud_cases.Case, method: str, attempt: Attempt) -> Row:
    """Measure a mesh against the truth."""
    from sdf_tools.metrics import evaluate

    found = evaluate(attempt.mesh, case.truth, samples=50_000, iou_samples=200_000, paper=False)
    return Row(
        case.shape, case.name, method, attempt.settings, found.iou, found.accuracy_mean,
        found.completeness_mean, found.normal_error_mean, found.components_prediction,
        bool(found.watertight_prediction), attempt.seconds, None,
    )  # fmt: skip


def with_ratios(rows: list[Row]) -> list[Row]:
    """Times over the time of Open3D's Poisson on the same cloud; None without it."""
    base = {(row.shape, row.cloud): row.seconds for row in rows if row.method.startswith("Open3D")}
    ratios = [(row, base.get((row.shape, row.cloud))) for row in rows]
    return [dataclasses.replace(row, time_ratio=row.seconds / time if time else None) for row, time in ratios]


def bunny(ways: dict[str, Method]) -> list[Row]:
    """The ten raw range scans against the mesh that their authors made of them, whose base is open: no IoU.

    Distances in metres; the best attempt has the smallest sum.
    """
    from sdf_tools.distance.signed_distance import SignedDistance
    from sdf_tools.io.loading import load
    from sdf_tools.sampling import sample_surface
    from sdf_tools.topology import face_components, is_watertight

    scans, true = (
        load(cloud_cases.folder() / "bunny_raw_scans_362k.npz"),
        load(cloud_cases.folder() / "bunny_zippered.ply"),
    )
    assert isinstance(scans, PointCloud) and isinstance(true, Mesh)
    to_truth, rows = SignedDistance(true, "unsigned"), []
    for method, way in ways.items():
        best: Row | None = None
        for attempt in way(scans, True):
            mesh = attempt.mesh
            there = float(to_truth(sample_surface(mesh, 100_000).points).mean())
            back = float(SignedDistance(mesh, "unsigned")(sample_surface(true, 100_000).points).mean())
            faces = mesh.faces.numpy()
            row = Row(
                "bunny", "raw scans", method, attempt.settings, float("nan"), there, back, float("nan"),
                face_components(faces)[0], is_watertight(faces), attempt.seconds, None,
            )  # fmt: skip
            best = row if best is None or there + back < best.mesh_to_truth + best.truth_to_mesh else best
        rows += [best] if best else []
    return rows


def _report(rows: list[Row], fresh: list[Row], json_path: Path | None) -> None:
    """Print the ``fresh`` rows and add them to all."""
    if json_path is not None and json_path.is_file():  # another run may have added some
        rows[:] = [Row(**row) for row in json.loads(json_path.read_text())]
    rows += fresh
    rows[:] = with_ratios(rows)
    if fresh:
        print(markdown(rows[-len(fresh) :]), flush=True)
    if json_path is not None:
        write_json(json_path, [dataclasses.asdict(row) for row in rows])


def markdown(rows: list[Row]) -> str:
    """Rows of a table for the docs; distances times 1,000."""
    return "\n".join("| " + " | ".join(_cells(row)) + " |" for row in rows)


def _cells(row: Row) -> list[str]:
    def number(value: Any, digits: int) -> str:
        return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"

    return [
        row.shape, row.cloud, f"{row.method} {row.settings}".strip(), number(row.iou, 4),
        number(1e3 * row.mesh_to_truth, 3), number(1e3 * row.truth_to_mesh, 3), number(row.normal_error_deg, 1),
        f"{row.pieces:,}", "yes" if row.watertight else "no", number(row.seconds, 1), number(row.time_ratio, 1),
    ]  # fmt: skip
