"""A ball and 40 small spheres, as every kind of field people bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

BALL = 0.25


def sphere_centers(count: int, gap: float, seed: int) -> np.ndarray:
    """Centres in the unit box, ``gap`` from the ball and from each other at least."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while len(found) < count:
        point = rng.uniform(-0.45, 0.45, 3)
        if np.linalg.norm(point) > BALL + gap and all(np.linalg.norm(point - other) > gap for other in found):
            found.append(point)
    return np.array(found)


def resolved(centers: np.ndarray, radius: float, resolution: int) -> int:
    """How many of the spheres hold a node of a lattice of the unit box: the others no marching cubes can see."""
    near = np.stack(np.meshgrid(*[np.arange(-2, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    nodes = (np.floor((centers + 0.5) * resolution)[:, None] + near) / resolution - 0.5
    return int((np.linalg.norm(nodes - centers[:, None], axis=2).min(1) < radius).sum())


def ball_and_spheres(kind: str, radius: float, seed: int = 0, gap: float = 0.06) -> tuple[Callable, dict[str, Any]]:
    """The field and the options of ``extract_mesh`` that belong to it.

    ``kind``: distance; truncated T; tanh W; density K; occupancy; steep F (spheres F times steeper than the ball).
    """
    name, _, number = kind.partition(" ")
    size = float(number or 0)
    tree = cKDTree(sphere_centers(40, gap, seed))
    steep = size if name == "steep" else 1.0

    def distance(points: np.ndarray) -> np.ndarray:
        points = np.asarray(points, dtype=np.float64)
        return np.minimum(np.linalg.norm(points, axis=1) - BALL, steep * (tree.query(points)[0] - radius))

    if name in ("distance", "steep"):
        return distance, {}
    if name == "truncated":
        return lambda p: np.clip(distance(p), -size, size), {}
    if name == "tanh":
        return lambda p: np.tanh(distance(p) / size), {}
    if name == "density":
        return lambda p: 100 / (1 + np.exp(np.clip(size * distance(p), -80, 80))), {"level": 50.0, "inside": "above"}
    return lambda p: (distance(p) < 0).astype(np.float32), {"level": 0.5, "inside": "above"}
