"""Sparse extraction: pieces found in every kind of field; time and memory beside dense evaluation of a network.

The pieces: a ball and 40 spheres of radius 0.003, a fifth of a coarse cell, must be found or warned of.

Every row runs in a process of its own, so that its peak memory is its own. The dense rows share one evaluated volume:
their time is the evaluation's plus the library's marching cubes, their peak that of the process that holds the volume.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.flat_fields import ball_and_spheres, resolved, sphere_centers
from benchmarks.report import print_table

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.extraction import SampledField, extract_mesh
from sdf_tools.geometry import Mesh
from sdf_tools.io.writing import write_json
from sdf_tools.topology import face_components, is_watertight

KINDS = (
    "distance",
    "truncated 0.1",
    "truncated 0.05",
    "truncated 0.02",
    "truncated 0.01",
    "tanh 0.02",
    "density 100",
    "density 500",
    "density 2000",
    "steep 2",
    "steep 3",
    "steep 5",
    "occupancy",
)
SPHERE = 0.003
DENSE = ("scikit-image", "PyMCubes", "Open3D")


@dataclass
class Row:
    """One way to extract at one resolution. Distances in box units."""

    resolution: int
    method: str
    seconds: float
    peak_mb: float
    evaluations: int
    fewer: float
    vertices: int
    faces: int
    watertight: bool
    components: int
    farthest: float | None = None
    """Largest distance of a sparse vertex from this row's surface."""


@dataclass
class Pieces:
    """How many of 40 small spheres one kind of field shows, summed over ``seeds`` placements."""

    field: str
    resolution: int
    options: str
    found: int
    resolved: int
    """Spheres that hold a node of the lattice."""
    warned: int
    """Placements that a warning was given for."""
    lost_in_silence: int
    evaluations: float
    """Of the field, mean over the placements."""
    seeds: int


def run(json_path: Path | None, quick: bool, field_path: Path | None = None) -> None:
    """Extract a field every way (one trained for a minute if none is given), print a table and write it as JSON."""
    sparse, dense, steps = ((128, 256), (128,), 100) if quick else ((256, 512, 1024, 2048), (512,), 600)
    pieces = [count_pieces(kind, 256, 1 if quick else 4) for kind in KINDS]
    pieces.append(count_pieces("occupancy", 256, 1, coarse_resolution=128))
    pieces.append(count_pieces("occupancy", 128, 1, thorough=True))
    if not quick:
        pieces += [count_pieces(kind, 512, 2) for kind in KINDS]
    show_pieces(pieces)
    with tempfile.TemporaryDirectory() as folder:
        if field_path is None:
            field_path = Path(folder) / "field.pt"
            _say(f"training a field for {steps} steps")
            train(field_path, steps)
        elif not field_path.is_file():
            raise SystemExit(f"There is no field file '{field_path}'.")
        rows = measure(field_path, Path(folder), sparse, dense)
    show(rows)
    if json_path is not None:
        write_json(json_path, {"pieces": [asdict(row) for row in pieces], "extraction": [asdict(row) for row in rows]})


def count_pieces(kind: str, resolution: int, seeds: int, **options: Any) -> Pieces:
    """Extract a ball and 40 spheres from one kind of field and count what was found."""
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    result = Pieces(kind, resolution, said, 0, 0, 0, 0, 0.0, seeds)
    for seed in range(seeds):
        field, given = ball_and_spheres(kind, SPHERE, seed, gap=0.03)
        count = 0

        def progress(stage: str, evaluations: int) -> None:
            nonlocal count
            count = evaluations

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mesh = extract_mesh(field, resolution, progress=progress, **given, **options)
        found = face_components(mesh.faces.numpy())[0] - 1
        possible = resolved(sphere_centers(40, 0.03, seed), SPHERE, resolution)
        result.found += found
        result.resolved += possible
        result.warned += bool(caught)
        result.lost_in_silence += 0 if caught else max(0, possible - found)
        result.evaluations += count / seeds
    return result


def show_pieces(rows: list[Pieces]) -> None:
    """Print the pieces found as a table."""
    lines = []
    for row in rows:
        counts = (str(row.found), str(row.resolved), f"{row.warned} of {row.seeds}", str(row.lost_in_silence))
        lines.append((row.field, row.options, f"{row.resolution}^3", *counts, f"{row.evaluations:,.0f}"))
    numbers = ("cells", "found", "on the lattice", "warned", "lost in silence", "evaluations")
    print_table(f"A ball and 40 spheres of radius {SPHERE}: pieces found", ("field", "options"), numbers, lines)


def train(path: Path, steps: int) -> None:
    """A SASNet of the bundled Armadillo, not quite finished: what is extracted need not be a good shape."""
    from sasnet_ns.fitting import ShapeFit, fit_shape

    config = ShapeFit()
    config.recipe.steps = steps
    fit_shape("armadillo", config, device="cpu").field.save(path)


def measure(field_path: Path, folder: Path, sparse: tuple[int, ...], dense: tuple[int, ...]) -> list[Row]:
    """All rows; ``folder`` holds volumes and meshes in between."""
    _in_process(_warm_up)  # compiles the kernels, as an earlier run would have
    rows = []
    for resolution in sparse:
        mesh_path = folder / f"sparse_{resolution}.npz"
        _say(f"{resolution}^3: sparse")
        result = _in_process(_sparse, field_path, resolution, mesh_path)
        rows.append(_row(resolution, "sdf_tools", mesh_path, result))
        if resolution not in dense:
            continue
        volume_path = folder / f"volume_{resolution}.npy"
        evaluated = _in_process(_evaluate_dense, field_path, resolution, volume_path)
        for method in DENSE:
            dense_path = folder / f"{method}_{resolution}.npz"
            _say(f"{resolution}^3: {method} on the dense volume, and how far the two surfaces are apart")
            try:
                result = _in_process(_dense, method, volume_path, dense_path)
            except (ImportError, OSError) as error:
                print(f"{method}: skipped ({error})")
                continue
            result["seconds"] += evaluated["seconds"]
            result["evaluations"] = evaluated["evaluations"]
            row = _row(resolution, f"dense + {method}", dense_path, result)
            surface = SignedDistance(_load(dense_path), sign="unsigned")
            row.farthest = float(surface(_load(mesh_path).vertices).abs().max())
            rows.append(row)
        volume_path.unlink()
    return rows


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _in_process(function: Callable[..., dict[str, Any] | None], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _field(path: Path) -> torch.nn.Module:
    from sasnet_ns.networks import SignedDistanceField

    return SignedDistanceField.load(path).eval()


def _warm_up() -> None:
    extract_mesh(lambda p: p.norm(dim=-1) - 0.3, 32)


def _sparse(field_path: Path, resolution: int, mesh_path: Path) -> dict[str, Any]:
    field, count = _field(field_path), 0

    def progress(stage: str, evaluations: int) -> None:
        nonlocal count
        count = evaluations

    started = time.perf_counter()
    mesh = extract_mesh(field, resolution, progress=progress)
    seconds = time.perf_counter() - started
    peak = _peak_mb()
    np.savez(mesh_path, vertices=mesh.vertices.numpy(), faces=mesh.faces.numpy())
    return {"seconds": seconds, "peak_mb": peak, "evaluations": count}


def _evaluate_dense(field_path: Path, resolution: int, volume_path: Path) -> dict[str, Any]:
    field = SampledField(_field(field_path))
    axis = -0.5 + np.arange(resolution + 1) / resolution
    volume = np.empty((resolution + 1,) * 3, dtype=np.float32)
    started = said = time.perf_counter()
    for i, x in enumerate(axis):
        plane = np.stack(np.meshgrid([x], axis, axis, indexing="ij"), -1).reshape(-1, 3)
        volume[i] = field(plane).reshape(volume.shape[1:])
        if time.perf_counter() > said + 20:
            said = time.perf_counter()
            left = (said - started) * (len(axis) / (i + 1) - 1)
            _say(f"{resolution}^3: dense evaluation, {100 * (i + 1) // len(axis)} %, {left:.0f} s left")
    seconds = time.perf_counter() - started
    np.save(volume_path, volume)
    return {"seconds": seconds, "evaluations": field.evaluations}


def _dense(method: str, volume_path: Path, mesh_path: Path) -> dict[str, Any]:
    volume = np.load(volume_path)
    cells = volume.shape[0] - 1
    if method == "scikit-image":
        from skimage.measure import marching_cubes

        started = time.perf_counter()
        vertices, faces, _, _ = marching_cubes(volume, 0.0, method="lorensen")
    elif method == "PyMCubes":
        import mcubes

        started = time.perf_counter()
        vertices, faces = mcubes.marching_cubes(volume, 0.0)
    else:
        import open3d

        started = time.perf_counter()
        found = open3d.t.geometry.TriangleMesh.create_isosurfaces(open3d.core.Tensor.from_numpy(volume), [0.0])
        vertices, faces = found.vertex.positions.numpy()[:, ::-1], found.triangle.indices.numpy()
    seconds = time.perf_counter() - started
    peak = _peak_mb()
    np.savez(mesh_path, vertices=vertices.astype(np.float64) / cells - 0.5, faces=faces.astype(np.int64))
    return {"seconds": seconds, "peak_mb": peak}


def _load(path: Path) -> Mesh:
    stored = np.load(path)
    return Mesh(torch.from_numpy(stored["vertices"]), torch.from_numpy(stored["faces"]), name=path.stem)


def _row(resolution: int, method: str, mesh_path: Path, result: dict[str, Any]) -> Row:
    mesh = _load(mesh_path)
    faces = mesh.faces.numpy()
    # Tens of millions of faces: the checks would need more memory than the extraction.
    small = len(faces) < 12_000_000
    return Row(
        resolution=resolution,
        method=method,
        seconds=result["seconds"],
        peak_mb=result["peak_mb"],
        evaluations=result["evaluations"],
        fewer=(resolution + 1) ** 3 / result["evaluations"],
        vertices=len(mesh.vertices),
        faces=len(faces),
        watertight=small and is_watertight(faces),
        components=face_components(faces)[0] if small else -1,
    )


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    lines = []
    for row in rows:
        closed, parts = ("yes" if row.watertight else "no", str(row.components)) if row.components >= 0 else ("-", "-")
        farthest = "-" if row.farthest is None else f"{row.farthest:.1e}"
        costs = (f"{row.seconds:.1f}", f"{row.peak_mb:,.0f}", f"{row.evaluations:,}", f"{row.fewer:.1f}x")
        lines.append((row.method, f"{row.resolution}^3", *costs, f"{row.faces:,}", closed, parts, farthest))
    columns = ("cells", "s", "peak MB", "evaluations", "fewer", "faces", "closed", "parts", "farthest vertex")
    print_table("Extraction of one trained field", ("method",), columns, lines)
