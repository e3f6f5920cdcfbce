"""Every kind of shape goes from file to numbers, or is refused in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sasnet_ns.fitting import Recipe, ShapeFit, fit_shape
from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.io.writing import save_mesh
from sdf_tools.mesh.summary import summarize
from sdf_tools.metrics import Evaluation, evaluate
from sdf_tools.sampling import sample_surface

MESHES = Path(os.environ.get("SASNET_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "meshes"


def ball(radius: float = 1.0, subdivisions: int = 3) -> Mesh:
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(torch.from_numpy(sphere.vertices.copy()), torch.from_numpy(sphere.faces.astype("int64")))


def joined(a: Mesh, b: Mesh) -> Mesh:
    return Mesh(torch.cat([a.vertices, b.vertices]), torch.cat([a.faces, b.faces + len(a.vertices)]))


def turned(mesh: Mesh) -> Mesh:
    return replace(mesh, faces=mesh.faces.flip(1))


def opened() -> Mesh:
    mesh = ball()
    return replace(mesh, faces=mesh.faces[mesh.vertices[mesh.faces].mean(1)[:, 2] < 0.9])


def soup() -> Mesh:
    """Every triangle with vertices of its own, as STL files have it, and each triangle twice."""
    mesh = ball()
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    faces = torch.arange(len(corners)).reshape(-1, 3)
    return Mesh(corners, torch.cat([faces, faces]))


def crossing() -> Mesh:
    other = ball()
    return joined(ball(), replace(other, vertices=other.vertices + torch.tensor([0.8, 0.0, 0.0])))


# Each misfit with the volume that its inside should have.
BALL = 4 / 3 * torch.pi
LENS = torch.pi * (4 + 0.8) * (2 - 0.8) ** 2 / 12
SYNTHETIC: dict[str, tuple[Callable[[], Mesh], float]] = {
    "open": (opened, BALL),
    "inverted": (lambda: turned(ball()), BALL),
    "self-intersecting": (crossing, 2 * BALL - LENS),
    "nested shells": (lambda: joined(ball(), turned(ball(0.5))), BALL * (1 - 0.5**3)),
    "duplicated vertices": (soup, BALL),
    "far from the origin": (lambda: replace(ball(), vertices=ball().vertices + 1e6), BALL),
    "1e-6 units": (lambda: ball(1e-6), BALL * 1e-18),
    "1e6 units": (lambda: ball(1e6), BALL * 1e18),
}
REFUSED: dict[str, Callable[[], Mesh]] = {
    "no faces": lambda: Mesh(torch.zeros(0, 3).double(), torch.zeros(0, 3, dtype=torch.int64)),
    "one point many times": lambda: Mesh(torch.ones(30, 3).double(), torch.arange(30).reshape(-1, 3)),
    "a line": lambda: Mesh(torch.arange(30.0).double()[:, None].repeat(1, 3), torch.arange(30).reshape(-1, 3)),
    "not finite": lambda: replace(ball(), vertices=torch.full_like(ball().vertices, float("nan"))),
}


def whole_way(
    path: Path, steps: int, samples: int, resolution: int, omega_0: float = 10.0
) -> tuple[Mesh, Evaluation | None]:
    """Load, sample, measure, fit, extract and, for meshes, evaluate.

    The network's frequency ``omega_0`` is low, so that nothing stray is left after few steps.
    """
    shape = load(path)
    size = float((_points(shape).amax(0) - _points(shape).amin(0)).max())
    if isinstance(shape, Mesh):
        drawn = sample_surface(shape, 2000).points
        assert SignedDistance(shape)(drawn).abs().max() < 1e-6 * size
        assert str(summarize(shape)).count("\n") > 10
    config = ShapeFit(
        network="siren",
        network_config={"width": 64, "omega_0": omega_0},
        recipe=Recipe(steps=steps, warmup_steps=5),
        points_per_batch=1500,
        pool_size=30_000,
    )
    mesh = fit_shape(str(path), config, progress=False).extract_mesh(resolution)
    assert torch.isfinite(mesh.vertices).all()
    if not isinstance(shape, Mesh):
        return mesh, None
    result = evaluate(mesh, shape, samples=samples, iou_samples=5 * samples, paper=False)
    assert (result.accuracy_mean, result.completeness_mean) < (0.05, 0.05)
    return mesh, result


def _points(shape: Mesh | PointCloud) -> torch.Tensor:
    return shape.vertices if isinstance(shape, Mesh) else shape.points


@pytest.mark.parametrize("name", SYNTHETIC)
def test_misfits_go_the_whole_way(name: str, tmp_path: Path) -> None:
    make, volume = SYNTHETIC[name]
    save_mesh(make(), tmp_path / "misfit.ply")
    mesh, result = whole_way(tmp_path / "misfit.ply", steps=200, samples=2000, resolution=40)
    facts = summarize(mesh)
    assert facts.watertight and facts.volume == pytest.approx(volume, rel=0.1)
    assert result is not None and result.iou > 0.9 and result.accuracy_mean < 0.01


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_surface_is_refused_in_one_sentence(name: str) -> None:
    for attempt in (lambda mesh: fit_shape(mesh, progress=False), SignedDistance, lambda mesh: evaluate(mesh, ball())):
        with pytest.raises(ShapeError) as caught:
            attempt(REFUSED[name]())
        message = str(caught.value)
        assert message.endswith(".") and "\n" not in message and len(message) < 200


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.name for p in MESHES.glob("*")) if MESHES.is_dir() else ["none"])
def test_real_shapes_go_the_whole_way(name: str) -> None:
    if name == "none":
        pytest.skip("the development data (../shared/data beside the repository) is not here")
    # Lucy and the dragons are thin and folded: lower frequencies or fewer steps leave them at an IoU of 0.67 to 0.79.
    mesh, result = whole_way(MESHES / name, steps=400, samples=5000, resolution=64, omega_0=20.0)
    assert mesh.faces.shape[0] > 1000
    # Beetle is a car body of open sheets: it has next to no inside to compare.
    assert result is None or name == "beetle.obj" or result.iou > 0.8
