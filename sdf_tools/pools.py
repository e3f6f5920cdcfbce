"""Pools of points with signed distances, drawn once and then served to training without touching a tree again.

Memory: about 90 bytes per point while a pool is drawn and 17 afterwards, besides what ``SignedDistance`` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sdf_tools.cloud.thinning import MOST_POINTS
from sdf_tools.distance.signed_distance import Sign, SignedDistance
from sdf_tools.errors import ShapeError, nothing_inside
from sdf_tools.geometry import Mesh, PointCloud, Shape, for_numpy, positions
from sdf_tools.io.loading import validate_for_fitting
from sdf_tools.losses import COARSE, FINE, UNIFORM
from sdf_tools.ranges import LARGEST_SEED, require
from sdf_tools.sampling import near_surface, surface_points
from sdf_tools.topology import drop_unreferenced, is_watertight, signed_volume, vertex_normals

__all__ = ["COARSE", "FINE", "UNIFORM", "PoolConfig", "RenewedPool", "SDFBatch", "SDFPool", "build_sdf_pool"]

GOLDEN_RATIO = (1 + 5**0.5) / 2


@dataclass(frozen=True)
class SDFBatch:
    """One training batch.

    Attributes:
        points: (B, 3) float32, box units.
        sdf: (B,) float32 signed distance, box units.
        kind: (B,) uint8: 0 fine, 1 coarse, 2 uniform. Always in this order, so slices are fixed.
        counts: how many of each kind.
    """

    points: Float[Tensor, "B 3"]
    sdf: Float[Tensor, " B"]
    kind: UInt8[Tensor, " B"]
    counts: tuple[int, int, int]


@dataclass(frozen=True)
class SDFPool:
    """Sampled signed distances, in box units, sorted by kind and in random order within each kind.

    Attributes:
        points: (N, 3) float32.
        sdf: (N,) float32, negative inside.
        kind: (N,) uint8: 0 fine, 1 coarse, 2 uniform.
        counts: how many of each kind.
    """

    points: Float[Tensor, "N 3"]
    sdf: Float[Tensor, " N"]
    kind: UInt8[Tensor, " N"]
    counts: tuple[int, int, int]

    def __len__(self) -> int:
        return self.points.shape[0]

    def to(self, device: torch.device | str) -> SDFPool:
        """The pool on another device."""
        return replace(self, points=self.points.to(device), sdf=self.sdf.to(device), kind=self.kind.to(device))

    def batch_counts(self, count: int) -> tuple[int, int, int]:
        """How many points of each kind a batch of ``count`` has: the pool's own proportions."""
        total = sum(self.counts)
        coarse, uniform = (round(count * part / total) for part in self.counts[1:])
        if self.counts[FINE] == 0:
            coarse = count - uniform
        return count - coarse - uniform, coarse, uniform

    def batch(self, count: int, step: int) -> SDFBatch:
        """The ``count`` points of a training step, in the pool's fixed proportions.

        The pool is dealt like a shuffled deck: a step takes the next points of each kind, so that all are seen about
        equally often, and a batch depends on its step alone. Slices of the pool cost neither a gather nor a random
        number.

        Args:
            count: points of a batch; the same in every step.
            step: which batch, any integer.
        """
        spans = self.spans(count, step)
        points, sdf, kind = (
            torch.cat([values[span] for span in spans]) for values in (self.points, self.sdf, self.kind)
        )
        return SDFBatch(points, sdf, kind, self.batch_counts(count))

    def spans(self, count: int, step: int) -> list[slice]:
        """The slices of the pool that :meth:`batch` puts together; they depend on the pool's counts alone."""
        spans, begin = [], 0
        for wanted, held in zip(self.batch_counts(count), self.counts, strict=True):
            spans += [slice(begin + first, begin + last) for first, last in _deal(wanted, held, step)]
            begin += held
        return spans

    def batches(self, count: int, step: int, steps: int) -> Float[Tensor, "steps count 4"]:
        """What :meth:`batch` gives for consecutive steps, as one block in which each batch is one slice.

        For loops that may not leave the device between steps; made by one gather.

        Args:
            count: points of a batch.
            step: the first.
            steps: how many.

        Returns:
            ``[i, :, :3]`` are the points of step ``step + i``, ``[i, :, 3]`` their signed distances.
        """
        rows, begin = [], 0
        for wanted, held in zip(self.batch_counts(count), self.counts, strict=True):
            if wanted:
                firsts = torch.tensor([_first_card(wanted, held, s) for s in range(step, step + steps)])
                cards = firsts.to(self.points.device)[:, None] + torch.arange(wanted, device=self.points.device)
                rows.append(begin + cards % held)
            begin += held
        return torch.cat([self.points, self.sdf[:, None]], dim=1)[torch.cat(rows, dim=1)]


class RenewedPool:
    """Pools one after the other, each drawn in a thread while the one before is dealt, so that no point comes twice.

    A step's batch depends on its number alone, as with one pool; where drawing is slower than training, training waits.

    Args:
        first: the first pool.
        draw: number of a pool, from 1, to the pool; called in a thread.
    """

    def __init__(self, first: SDFPool, draw: Callable[[int], SDFPool]) -> None:
        self._pool, self._number, self._draw = first, 0, draw
        self._thread = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[SDFPool]] | None = None

    def batch(self, count: int, step: int) -> SDFBatch:
        """The ``count`` points of a training step, as :meth:`SDFPool.batch`; steps count from 0."""
        wanted = zip(self._pool.batch_counts(count), self._pool.counts, strict=True)
        number, own = divmod(step, max(1, min(held // part for part, held in wanted if part)))
        if number != self._number:
            self._pool, self._number = self._drawn(number), number
        if self._next is None or self._next[0] != number + 1:
            self._next = number + 1, self._thread.submit(self._draw, number + 1)
        return self._pool.batch(count, own)

    def _drawn(self, number: int) -> SDFPool:
        if self._next is not None and self._next[0] == number:
            return self._next[1].result()
        return self._draw(number)


def _first_card(wanted: int, held: int, step: int) -> int:
    turn, first = divmod(step * wanted, held)
    # Each turn of the deck begins elsewhere, or every turn would deal the same hands.
    return (first + round(turn * held / GOLDEN_RATIO)) % held


def _deal(wanted: int, held: int, step: int) -> list[tuple[int, int]]:
    """Ranges of a deck of ``held`` cards that a step gets when each gets the next ``wanted``."""
    if wanted == 0:
        return []
    first = _first_card(wanted, held, step)
    ranges = [(first, min(first + wanted, held))]
    while (missing := wanted - sum(last - first for first, last in ranges)) > 0:
        ranges.append((0, min(missing, held)))
    return ranges


def build_sdf_pool(
    shape: Shape,
    count: int,
    *,
    coarse_scale: float | Sequence[float] = 0.1,
    fine_scale: float = 0.001,
    uniform_share: float = 0.1,
    seed: int = 0,
    sign: Sign = "auto",
    method: Literal["imls", "knn_mean"] = "imls",
    distance: SignedDistance | None = None,
    progress: Callable[[float], None] | None = None,
) -> SDFPool:
    """Sample a shape given in box units (see ``sdf_tools.geometry.normalize``) for training.

    A share ``uniform_share`` of the points is uniform in the domain [-0.5, 0.5]^3; the rest is half fine, half coarse:
    surface points plus Laplace noise of scale ``fine_scale`` and ``coarse_scale`` per axis, as in BACON, FINER and
    the paper (Supp. 1). The uniform points are not in the paper; without them the coarse samples hardly reach the
    corners of the domain, and stray sheets of surface appear there. Noise that leaves the domain is drawn again, not
    wrapped round (FINER) nor clamped: wrapping puts samples on the other side of the shape.

    A cloud's points are drawn by :meth:`~sdf_tools.distance.signed_distance.SignedDistance.point_weights`, which
    weighs the loss: surface counts by its area however densely it was scanned, and doubtful points less.

    >>> from sdf_tools import build_sdf_pool, extract_mesh
    >>> ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=32)
    >>> pool = build_sdf_pool(ball, 10_000)
    >>> batch = pool.batch(1000, step=0)
    >>> batch.points.shape, batch.counts
    (torch.Size([1000, 3]), (450, 450, 100))

    Args:
        shape: mesh, or point cloud with normals (``sign="unsigned"``: with or without), box units.
        count: size of the pool; 20 to 100 batches is plenty.
        coarse_scale: Laplace scale of the coarse half, box units; several share the coarse half equally. The paper's
            single 0.1 leaves the distances from 0.003 to 0.03 almost unsampled.
        fine_scale: Laplace scale of the fine half, box units.
        uniform_share: share of points uniform in the domain.
        seed: same seed, same pool.
        sign: see :class:`~sdf_tools.distance.signed_distance.SignedDistance`; ``unsigned`` for sign-agnostic losses.
        method: for point clouds, ``imls`` or ``knn_mean`` (the paper's).
        distance: a ready ``SignedDistance`` of this shape, to save building another.
        progress: called with the finished fraction, 0 to 1.

    Raises:
        ValueError: a number out of range, or the shape reaches beyond [-0.5, 0.5]^3.
        ShapeError: the shape cannot be fitted, or encloses nothing.
    """
    coarse_scales = np.atleast_1d(np.asarray(coarse_scale, dtype=np.float64))
    if count < 1 or not 0 <= uniform_share <= 1 or (coarse_scales <= 0).any() or fine_scale <= 0:
        raise ValueError("count and the scales must be positive, and uniform_share between 0 and 1.")
    validate_for_fitting(shape)
    shape = for_numpy(shape)
    reach = float(positions(shape).abs().max())
    if reach > 0.5:
        raise ValueError(
            f"'{shape.name}' reaches {reach:.3g} from the origin, outside the domain [-0.5, 0.5]^3; normalize it first."
        )
    distance = distance or SignedDistance(shape, sign=sign, method=method)
    uniform = round(count * uniform_share)
    coarse = (count - uniform) // 2
    counts = (count - uniform - coarse, coarse, uniform)
    rng = np.random.default_rng(seed)
    weights = distance.point_weights()
    parts = [near_surface(surface_points(shape, counts[FINE], rng, weights), fine_scale, rng)]
    for index, scale in enumerate(coarse_scales):
        size = coarse * (index + 1) // len(coarse_scales) - coarse * index // len(coarse_scales)
        parts.append(near_surface(surface_points(shape, size, rng, weights), float(scale), rng))
    parts = [parts[0], rng.permutation(np.concatenate(parts[1:]))]  # batches are slices: the scales must be mixed
    parts.append(rng.uniform(-0.5, 0.5, (uniform, 3)))
    # Distances belong to the points as float32 holds them.
    points = torch.from_numpy(np.concatenate(parts).astype(np.float32))
    sdf = torch.empty(count)
    step = 1 << 17
    for start in range(0, count, step):
        sdf[start : start + step] = distance(points[start : start + step].double()).float()
        if progress is not None:
            progress(min(1.0, (start + step) / count))
    if distance.sign != "unsigned" and count >= 1000 and int((sdf < 0).sum()) < 1e-4 * count:
        raise ShapeError(nothing_inside(shape.name))
    kind = torch.repeat_interleave(torch.arange(3, dtype=torch.uint8), torch.tensor(counts))
    return SDFPool(points, sdf, kind, counts)


@dataclass
class PoolConfig:
    """How a shape is sampled for training: one set of options for every way to train."""

    points_per_batch: int = 2_500
    """Points in an optimisation step (paper: 10,000)."""
    pool_size: int = 1_000_000
    """Points whose signed distance is computed before training; batches are drawn from them."""
    coarse_scales: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Laplace scales that share the coarse samples around the surface, in box units (paper: 0.1 alone)."""
    fine_scale: float = 0.001
    """Laplace scale of the fine samples around the surface, in box units (paper: 0.001)."""
    uniform_share: float = 0.15
    """Share of each batch drawn uniformly from the box instead, which keeps stray sheets out of empty space."""
    max_points: int = MOST_POINTS
    """Points of a cloud that are kept: a larger one is thinned evenly before anything else is done to it."""
    renewed: bool = False
    """Draw a new pool in a thread while one is dealt, so that no point comes twice (the paper has new points in every
    step). Takes a core of its own; where drawing is slower than training, training waits."""
    distances: Literal["exact", "nearest_points"] = "exact"
    """Where distances come from: a mesh's triangles, or a cloud's smooth surface (IMLS); or, as in the data of BACON,
    FINER and the paper, the nearest points, the vertices of a mesh: the offset from the nearest one along the mean
    normal of the nearest three. That estimate is not the distance far away and across thin parts."""
    seed: int = 0
    """Seed of the samples; a step's batch depends on it and the step alone."""

    def check(self) -> None:
        """Refuse what no samples can be drawn by.

        Raises:
            ValueError: a number is out of range.
        """
        require("points_per_batch", self.points_per_batch, 1)
        require("pool_size", self.pool_size, 1)
        if not self.coarse_scales:
            raise ValueError("coarse_scales must hold at least one scale.")
        for scale in (*self.coarse_scales, self.fine_scale):
            require("fine_scale and each of coarse_scales", scale, 0, above=True)
        require("uniform_share", self.uniform_share, 0, 1)
        require("seed", self.seed, 0, LARGEST_SEED)

    def build_pool(
        self,
        shape: Shape,
        *,
        sign: Sign = "auto",
        distance: SignedDistance | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> SDFPool:
        """The pool of a shape in box units; arguments and errors as for :func:`build_sdf_pool`."""
        nearest = self.distances == "nearest_points"
        if nearest:
            if distance is not None and distance.sign == "unsigned":
                sign = "unsigned"
            shape, distance = _oriented_points(shape), None
        return build_sdf_pool(
            shape,
            self.pool_size,
            coarse_scale=self.coarse_scales,
            fine_scale=self.fine_scale,
            uniform_share=self.uniform_share,
            seed=self.seed,
            sign=sign,
            method="knn_mean" if nearest else "imls",
            distance=distance,
            progress=progress,
        )

    def dealer(
        self, pool: SDFPool, shape: Shape, *, sign: Sign = "auto", distance: SignedDistance | None = None
    ) -> SDFPool | RenewedPool:
        """What deals the batches: the pool itself, or with ``renewed`` one pool after the other from it on.

        Args:
            pool: what :meth:`build_pool` made of the shape.
            shape: in box units.
            sign: as given to :meth:`build_pool`.
            distance: a ready ``SignedDistance`` of it.
        """
        if not self.renewed:
            return pool
        # Far apart: the seeds of two runs must not give the one's second pool to the other as its first.
        return RenewedPool(
            pool,
            lambda number: (
                replace(self, seed=self.seed + 1_000_003 * number)
                .build_pool(shape, sign=sign, distance=distance)
                .to(pool.points.device)
            ),
        )


def _oriented_points(shape: Shape) -> PointCloud:
    """A mesh's vertices with their normals; clouds as they are."""
    if not isinstance(shape, Mesh):
        return shape
    shape = drop_unreferenced(for_numpy(shape))
    vertices, faces = shape.vertices.numpy(), shape.faces.numpy()
    if is_watertight(faces) and signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    normals = torch.from_numpy(vertex_normals(vertices, faces))
    return PointCloud(shape.vertices, normals, name=shape.name)
