"""Nearest neighbours of points, and the order of points that makes searches fast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from sdf_tools.errors import ShapeError, needs
from sdf_tools.spatial._libraries import import_kernels

FEW = 64  # neighbours up to which pykdtree is the faster tree: it keeps what it has found sorted by insertion


def nearest_neighbours(points: np.ndarray) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """A search over (N, 3) points: ``search(queries, k)`` gives (M, k) distances and indices, nearest first.

    Both raise a ShapeError for points that are NaN or infinite, to which pykdtree has wild indices for an answer.

    pykdtree for few neighbours where it is installed (several times faster away from the surface), scipy's KD tree for
    many (200: twice as fast) and otherwise.
    """
    _require_finite(points)
    few = _pykdtree(points)

    @functools.cache
    def many() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        with needs("scipy", "A search for neighbours"):
            from scipy.spatial import cKDTree
        return partial(cKDTree(points).query, workers=torch.get_num_threads())

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        order = morton_order(queries)  # neighbours in sequence share the tree's caches: about twice as fast
        query = many() if few is None or k > FEW else few
        found = query(queries[order], k=k)
        distance, index = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        distance[order], index[order] = (part.reshape(-1, k) for part in found)
        return distance, index

    return search


def _require_finite(points: np.ndarray) -> None:
    if not np.isfinite(points).all():
        raise ShapeError("Points that are NaN or infinite have no neighbours; leave them out.")


def _pykdtree(points: np.ndarray) -> Callable[..., tuple[np.ndarray, np.ndarray]] | None:
    try:
        from pykdtree.kdtree import KDTree
    except ImportError:
        return None
    return KDTree(np.ascontiguousarray(points)).query


def morton_order(points: np.ndarray) -> np.ndarray:
    """The order that visits (N, 3) points along a Z curve, so that neighbours in it share caches.

    Raises:
        ShapeError: points that are NaN or infinite.
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    _require_finite(points)
    low = points.min(0)
    size = float((points.max(0) - low).max())
    return import_kernels().z_order(points, low, 1024 / size if size > 0 else 0.0)
