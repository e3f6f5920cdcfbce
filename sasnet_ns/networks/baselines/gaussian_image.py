"""GaussianImage: an image as a sum of 2-D Gaussians, rendered tile by tile."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sasnet_ns.networks.base import Network

_CUT = 1 / 255  # smallest weight that counts, as in the authors' rasteriser
_REACH = math.sqrt(-2 * math.log(_CUT))  # where a Gaussian falls to it, in standard deviations
_PAIRS = {"cpu": 2**18, "cuda": 2**25}  # pairs of points and Gaussians at a time; the former stay in the cache


class GaussianImage(Network):
    """A sum of anisotropic Gaussians without order or opacity (Zhang et al., ECCV 2024, Eqs. 3 and 8).

    ``f(x) = clamp(sum_n c_n exp(-|L_n^-1 (x - tanh(p_n))|^2 / 2), 0, 1)``, weights below 1/255 left out. L is lower
    triangular, in pixels; 0.5 is added to the diagonal's two parameters. Initial values: positions uniform over the
    image, colours and Cholesky parameters uniform in [0, 1]. A Gaussian has 5 + out_dim parameters.

    The gradient with respect to the coordinates does not see the jumps that the cut leaves at the Gaussians' borders;
    the SASNet paper gives no noisiness for this method.

    Args:
        in_dim: number of coordinates, 2.
        out_dim: number of output channels.
        gaussians: number of Gaussians.
        pixels: rows and columns of the image, whose pixel is the unit of L; :meth:`initialize_from` sets them to the
            signal's.
        tile: side of a tile in pixels; affects speed and memory alone.

    Raises:
        ValueError: ``in_dim`` is not 2.
    """

    pixels: Tensor
    output_range: Tensor

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        gaussians: int = 16_640,
        pixels: tuple[int, int] = (512, 512),
        tile: int = 8,
    ) -> None:
        if in_dim != 2:
            raise ValueError(f"GaussianImage is for images, with 2 coordinates, got {in_dim}.")
        super().__init__(in_dim, out_dim)
        self.tile = tile
        self.position = nn.Parameter(torch.atanh(torch.rand(gaussians, 2) * 2 - 1))
        self.cholesky = nn.Parameter(torch.rand(gaussians, 3))
        self.color = nn.Parameter(torch.rand(gaussians, out_dim))
        self.register_buffer("pixels", torch.tensor(pixels, dtype=torch.float32))
        self.register_buffer("output_range", torch.tensor([0.0, 1.0]))

    def initialize_from(self, signal: Float[Tensor, "*sizes out"]) -> None:
        """Take the pixel from the signal, and its range of values: [-1, 1] if some are negative, otherwise [0, 1]."""
        self.pixels.copy_(torch.tensor(signal.shape[:2]))
        self.output_range[0] = -1.0 if bool((signal < 0).any()) else 0.0

    def gaussians(self) -> tuple[Float[Tensor, "G 2"], Float[Tensor, "G 3"]]:
        """Centres in pixels from the corner of the image, (row, column), and the entries l_11, l_21, l_22 of L."""
        center = (torch.tanh(self.position) + 1) / 2 * self.pixels
        return center, self.cholesky + self.cholesky.new_tensor([0.5, 0.0, 0.5])

    def forward(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., 2) coordinates in [-1, 1], (row, column)."""
        points = (x.reshape(-1, 2).to(self.position.dtype) + 1) / 2 * self.pixels
        center, cholesky = self.gaussians()
        total = render_gaussians(points, center, cholesky, self.color, self.tile)
        low, high = self.output_range
        return (low + (high - low) * total.clamp(0, 1)).reshape(*x.shape[:-1], self.out_dim)


def render_gaussians(
    points: Float[Tensor, "N 2"],
    center: Float[Tensor, "G 2"],
    cholesky: Float[Tensor, "G 3"],
    color: Float[Tensor, "G C"],
    tile: int = 8,
) -> Float[Tensor, "N C"]:
    """Sum of Gaussians at points, differentiable in all of them.

    Points are sorted into square tiles; a Gaussian meets the points of the tiles that the bounding box of its 1/255
    contour touches. Memory and time go with these pairs, not with N times G.

    Args:
        points: (N, 2).
        center: (G, 2), in the points' units.
        cholesky: (G, 3) entries l_11, l_21, l_22 of the covariance's lower triangular factor; a Gaussian with a zero on
            the diagonal is left out.
        color: (G, C) values at the centres.
        tile: side of a tile in the points' units.

    Returns:
        (N, C) sums; a Gaussian counts where its weight is at least 1/255.
    """
    if points.shape[0] == 0:
        return points.new_zeros(0, color.shape[1])
    corner, slots, (tiles_taken, most), tile_index = _sort_points(points.detach(), tile)
    padded = points.new_zeros(tiles_taken * most, 2).index_copy(0, slots, points).reshape(tiles_taken, most, 2)
    gaussian, owner = _intersections(center.detach(), cholesky.detach(), corner, tile, tile_index)
    per_tile = torch.bincount(owner, minlength=tiles_taken)
    sums = []
    first_pair = 0
    for tiles in _chunks(per_tile * most, _PAIRS.get(points.device.type, 2**25)):
        count = int(per_tile[tiles].sum())
        pair = slice(first_pair, first_pair + count)
        first_pair += count
        which, local = gaussian[pair], owner[pair] - tiles.start
        offset = padded[tiles][local] - center[which][:, None]
        l11, l21, l22 = cholesky[which][:, None].unbind(-1)
        u = offset[..., 0] / l11
        v = (offset[..., 1] - l21 * u) / l22
        weight = torch.exp(-0.5 * (u.square() + v.square()))
        weight = torch.where(weight < _CUT, torch.zeros_like(weight), weight)
        contribution = weight[..., None] * color[which][:, None]
        total = contribution.new_zeros(tiles.stop - tiles.start, *contribution.shape[1:])
        sums.append(total.index_add(0, local, contribution))
    return torch.cat(sums).flatten(0, 1)[slots]


def _sort_points(
    points: Float[Tensor, "N 2"], tile: int
) -> tuple[Float[Tensor, "2"], Int[Tensor, "N"], tuple[int, int], Int[Tensor, "rows columns"]]:
    """Put points into tiles.

    Returns:
        The corner of the grid of tiles; each point's slot in a table of occupied tiles by the most points in a tile;
        the shape of that table; and its row for every tile of the grid, -1 for tiles without points.
    """
    corner = points.amin(0)
    cell = ((points - corner) / tile).floor().long()
    rows, columns = (cell.amax(0) + 1).tolist()
    flat = cell[:, 0] * columns + cell[:, 1]
    counts = torch.bincount(flat, minlength=rows * columns)
    occupied = counts > 0
    tile_index = torch.where(occupied, occupied.cumsum(0) - 1, -1)
    order = flat.argsort(stable=True)
    rank = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[flat[order]]
    most = int(counts.max())
    slots = torch.empty_like(flat)
    slots[order] = tile_index[flat[order]] * most + rank
    return corner, slots, (int(occupied.sum()), most), tile_index.reshape(rows, columns)


def _intersections(
    center: Float[Tensor, "G 2"],
    cholesky: Float[Tensor, "G 3"],
    corner: Float[Tensor, "2"],
    tile: int,
    tile_index: Int[Tensor, "rows columns"],
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """Pairs of a Gaussian and an occupied tile that its bounding box touches, sorted by tile."""
    l11, l21, l22 = cholesky.unbind(-1)
    reach = _REACH * torch.stack((l11.abs(), torch.hypot(l21, l22)), dim=1)
    limits = center.new_tensor(tile_index.shape) - 1
    first = ((center - reach - corner) / tile).floor()
    last = ((center + reach - corner) / tile).floor()
    seen = ((last >= 0) & (first <= limits)).all(1) & (l11 * l22 != 0) & torch.isfinite(reach).all(1)
    first = torch.minimum(first.clamp(min=0), limits)[seen].long()
    last = torch.minimum(last.clamp(min=0), limits)[seen].long()
    sides = last - first + 1
    counts = sides.prod(1)
    of = torch.repeat_interleave(torch.arange(len(counts), device=center.device), counts)
    nth = torch.arange(len(of), device=center.device) - (counts.cumsum(0) - counts)[of]
    row, column = nth // sides[of, 1], nth % sides[of, 1]
    owner = tile_index[first[of, 0] + row, first[of, 1] + column]
    gaussian = seen.nonzero()[:, 0][of]
    gaussian, owner = gaussian[owner >= 0], owner[owner >= 0]
    order = owner.argsort(stable=True)
    return gaussian[order], owner[order]


def _chunks(work: Int[Tensor, "tiles"], limit: int) -> list[slice]:
    """Consecutive tiles with about ``limit`` of work together, at least one tile each."""
    batch = (work.cumsum(0) // limit).tolist()
    starts = [0, *(i for i in range(1, len(batch)) if batch[i] != batch[i - 1])]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(batch)], strict=True)]
