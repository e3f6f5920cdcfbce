"""Point clouds as they come, made from meshes that are known: noise, strays, holes, uneven density, grids, lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sdf_tools.geometry import Mesh, PointCloud, normalize
from sdf_tools.io.loading import load
from sdf_tools.sampling import sample_surface
from sdf_tools.topology import signed_volume

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SASNET_SHARED_DATA", ROOT.parent / "shared" / "data")) / "meshes"
# horse and nefertiti: https://github.com/alecjacobson/common-3d-test-models, put beside the others by hand.
FILES = {
    "armadillo": "armadillo.obj",
    "horse": "horse.ply",
    "nefertiti": "nefertiti.obj",
    "fandisk": "fandisk.obj",
    "ADIS16480": "ADIS16480.stl",
    "spot": "spot.obj",
    "lucy": "lucy.ply",
}


@dataclass(frozen=True)
class Case:
    """A cloud, and the mesh it was sampled from; box units."""

    shape: str
    name: str
    cloud: PointCloud
    truth: Mesh


def folder() -> Path:
    """Where the meshes lie: ``SASNET_CLOUD_MESHES``, else the development data."""
    return Path(os.environ.get("SASNET_CLOUD_MESHES", SHARED))


def truth(shape: str) -> Mesh | None:
    """A mesh in box units, its normals outward; None where its file is not here."""
    path = folder() / FILES[shape]
    if not path.is_file():
        return None
    mesh = normalize(load(path)).shape
    assert isinstance(mesh, Mesh)
    if signed_volume(mesh.vertices.numpy(), mesh.faces.numpy()) < 0:  # the horse is published inside out
        mesh = Mesh(mesh.vertices, mesh.faces.flip(1), name=mesh.name)
    return mesh


def make(shape: str, name: str, mesh: Mesh, count: int, seed: int = 0) -> Case:
    """The cloud ``name`` (a key of ``CASES``) of a mesh."""
    return Case(shape, name, CASES[name](mesh, count, np.random.default_rng(seed)), mesh)


def diagonal(mesh: Mesh) -> float:
    """Of the bounding box."""
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())


def _samples(mesh: Mesh, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    found = sample_surface(mesh, count, seed=int(rng.integers(1 << 31)))
    return found.points.numpy(), found.normals.numpy()


def _cloud(points: np.ndarray, normals: np.ndarray | None = None) -> PointCloud:
    return PointCloud(torch.from_numpy(points), None if normals is None else torch.from_numpy(normals))


def noisy(share: float) -> Callable[[Mesh, int, np.random.Generator], PointCloud]:
    """Gaussian noise, a share of the diagonal along each axis."""

    def build(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
        points, _ = _samples(mesh, count, rng)
        return _cloud(points + rng.normal(0, share * diagonal(mesh), points.shape))

    return build


def noisy_by_place(low: float, high: float) -> Callable[[Mesh, int, np.random.Generator], PointCloud]:
    """Gaussian noise that grows linearly from one end of the longest side to the other, shares of the diagonal."""

    def build(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
        points, _ = _samples(mesh, count, rng)
        axis = int(np.argmax(np.ptp(points, axis=0)))
        along = (points[:, axis] - points[:, axis].min()) / np.ptp(points[:, axis])
        share = low + (high - low) * along
        return _cloud(points + rng.normal(0, 1, points.shape) * share[:, None] * diagonal(mesh))

    return build


def strays(share: float, normals: bool = False, clusters: int = 0) -> Callable[..., PointCloud]:
    """Points of no surface: uniform in a box 1.2 times as large, or in balls; ``share`` of all points."""

    def build(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
        points, sides = _samples(mesh, count, rng)
        extra = round(count * share / (1 - share))
        half = 0.6 * np.ptp(mesh.vertices.numpy(), axis=0)
        if clusters:
            centers = _outside(mesh, clusters, rng)
            away = centers[rng.integers(clusters, size=extra)] + rng.normal(0, 0.008, (extra, 3))
        else:
            away = rng.uniform(-half, half, (extra, 3))
        there = rng.normal(size=(extra, 3))
        there /= np.linalg.norm(there, axis=1, keepdims=True)
        return _cloud(np.concatenate([points, away]), np.concatenate([sides, there]) if normals else None)

    return build


def _outside(mesh: Mesh, count: int, rng: np.random.Generator) -> np.ndarray:
    """Places around a mesh, at least 0.08 away from it."""
    from sdf_tools.distance.signed_distance import SignedDistance

    places = rng.uniform(-0.55, 0.55, (4000, 3))
    return places[SignedDistance(mesh)(torch.from_numpy(places)).numpy() > 0.08][:count]


def three_holes(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
    """No points within three balls of a twentieth of the diagonal."""
    points, _ = _samples(mesh, count, rng)
    keep = np.ones(len(points), bool)
    for center in points[rng.choice(len(points), 3, replace=False)]:
        keep &= np.linalg.norm(points - center, axis=1) > 0.05 * diagonal(mesh)
    return _cloud(points[keep])


def uneven(ratio: float) -> Callable[..., PointCloud]:
    """Density falls ``ratio`` to one from one end of the longest side to the other, exponentially."""

    def build(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
        points, _ = _samples(mesh, 12 * count, rng)
        axis = int(np.argmax(np.ptp(points, axis=0)))
        along = (points[:, axis] - points[:, axis].min()) / np.ptp(points[:, axis])
        chance = ratio**-along
        return _cloud(points[rng.choice(len(points), count, replace=False, p=chance / chance.sum())])

    return build


def gridded(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
    """Millimetres on an object of 20 cm: each coordinate on a grid of 1/200 of the longest side."""
    points, _ = _samples(mesh, count, rng)
    step = 0.9 / 200
    return _cloud(np.round(points / step) * step)


def repeated(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
    """Each point four times."""
    points, _ = _samples(mesh, count // 4, rng)
    return _cloud(np.repeat(points, 4, axis=0))


def lines(mesh: Mesh, count: int, rng: np.random.Generator) -> PointCloud:
    """As a spinning sensor sees it: rows 0.02 apart, each 50 times as dense along as across."""
    points, _ = _samples(mesh, 12 * count, rng)
    axis = int(np.argmax(np.ptp(points, axis=0)))
    step = 0.02
    row = np.round(points[:, axis] / step) * step
    near = np.abs(points[:, axis] - row) < step / 50
    return _cloud(points[near][:count])


CASES: dict[str, Callable[..., PointCloud]] = {
    "clean": noisy(0.0),
    "noise 0.25 %": noisy(0.0025),
    "noise 0.5 %": noisy(0.005),
    "noise 1 %": noisy(0.01),
    "noise 0.05 to 1 %": noisy_by_place(0.0005, 0.01),
    "strays 5 %": strays(0.05),
    "strays 20 %": strays(0.2),
    "strays 20 % with normals": strays(0.2, normals=True),
    "clusters 10 %": strays(0.1, clusters=6),
    "three holes": three_holes,
    "density 10:1": uneven(10),
    "density 50:1": uneven(50),
    "millimetre grid": gridded,
    "each four times": repeated,
    "lines": lines,
}
