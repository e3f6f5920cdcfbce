"""NeuRBF: adaptive radial basis functions beside a coarse hash grid, decoded by a small network."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sasnet_ns.kernels import HashGridLayout, Implementation, hash_grid
from sasnet_ns.kernels._choose import recorded, transformed
from sasnet_ns.networks.base import Network, ParameterRole


class NeuRBF(Network):
    """Neural fields with adaptive radial basis functions (Chen et al., ICCV 2023).

    Anisotropic inverse quadratic kernels ``r_k = 1 / (1 + (x - c_k)^T S_k (x - c_k))`` are frozen after
    :meth:`initialize_from` has put them where the signal changes. The responses of the nearest kernels, divided by
    their sum, become ``sum_k w_k * sin(m r_k)`` with multipliers m from 2^-3 to 2^12 and trainable w. With the features
    of a hash grid and a bias they enter an MLP, whose first layer is ``z + sin(n z)`` with n over ``sine_range``, the
    second ReLU, the third affine.

    The published program chooses the number of kernels so that the total equals an instant-ngp's; here it is an option,
    and the default makes the size of the SASNet paper's image networks. Only trained values count as parameters: a
    kernel has ``features`` of them, and d + d(d+1)/2 frozen ones.

    Args:
        in_dim: number of coordinates.
        out_dim: number of output channels.
        kernels: number of kernels.
        features: trainable weights of a kernel.
        neighbors: kernels that a point looks at.
        grid_levels: levels of the hash grid.
        grid_log2_entries: base-2 logarithm of the largest table of a level (published: 24).
        grid_min: resolution of the coarsest level.
        grid_max: resolution of the finest level; the published program takes half the image's longer side.
        width: neurons of the MLP's two hidden layers.
        sine_range: smallest and largest n; published: 10 and 100 for one image, 1 and 1,000 for DIV2K.
        implementation: kernel backend, see :func:`sasnet_ns.kernels.hash_grid`.

    Raises:
        ValueError: ``sine_range`` is not two numbers.
    """

    centers: Tensor
    shapes: Tensor

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 3,
        kernels: int = 2776,
        features: int = 32,
        neighbors: int = 4,
        grid_levels: int = 2,
        grid_log2_entries: int = 14,
        grid_min: int = 16,
        grid_max: int = 256,
        width: int = 64,
        sine_range: tuple[float, float] = (10.0, 100.0),
        implementation: Implementation = "auto",
    ) -> None:
        if len(sine_range) != 2:
            raise ValueError(f"sine_range takes two numbers, the smallest and the largest n, not {sine_range}.")
        super().__init__(in_dim, out_dim)
        self.sine_range, self.width = sine_range, width
        self.neighbors = min(neighbors, kernels)
        self.implementation = implementation
        self.layout = HashGridLayout.geometric(
            in_dim,
            levels=grid_levels,
            min_resolution=grid_min,
            max_resolution=grid_max,
            log2_table_size=grid_log2_entries,
            feature_dim=2,
        )
        encoding = 2 * grid_levels + features
        self.table = nn.Parameter(torch.empty(self.layout.total_entries, 2).uniform_(-1e-4, 1e-4))
        self.kernel_weight = nn.Parameter(torch.empty(kernels, features).uniform_(-1e-4, 1e-4))
        self.bias = nn.Parameter(torch.empty(encoding).uniform_(-1e-4, 1e-4))
        self.layers = nn.ModuleList([nn.Linear(encoding, width), nn.Linear(width, width), nn.Linear(width, out_dim)])
        # Without a signal to look at: evenly spread, as wide as their distance, round.
        spread = torch.quasirandom.SobolEngine(in_dim).draw(kernels + 1)[1:] * 2 - 1
        spacing = 2 / kernels ** (1 / in_dim)
        self.register_buffer("centers", spread)
        self.register_buffer("shapes", torch.eye(in_dim).repeat(kernels, 1, 1) * (2 / spacing) ** 2)
        self._nearest: tuple[Tensor, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_nearest": None}  # points of a call are no part of the network

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        return "masks" if name in ("table", "kernel_weight") else "backbone"

    def initialize_from(self, signal: Float[Tensor, "*sizes out"]) -> None:
        """Put the kernels by k-means on the grid, weighted by the signal's gradient; shapes from the clusters."""
        seed = int(torch.randint(2**31, ()))
        centers, shapes = fit_kernels(signal.detach().cpu().double().numpy(), len(self.centers), seed=seed)
        self.centers.copy_(torch.from_numpy(centers))
        self.shapes.copy_(torch.from_numpy(shapes))

    # Made in each call and no buffers: a file of weights does not hold them.
    @property
    def multipliers(self) -> Float[Tensor, " features"]:
        """m of the responses' sines."""
        count, bias = self.kernel_weight.shape[1], self.bias
        return torch.logspace(-3, 12, count, base=2, dtype=torch.float32, device=bias.device).to(bias.dtype)

    @property
    def sine_scale(self) -> Float[Tensor, " width"]:
        """n of the first layer's neurons."""
        (low, high), bias = map(math.log10, self.sine_range), self.bias
        return torch.logspace(low, high, self.width, dtype=torch.float32, device=bias.device).to(bias.dtype)

    def responses(self, x: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N neighbors"], Int[Tensor, "N neighbors"]]:
        """Normalised responses of the nearest kernels, and which these are."""
        index = self._neighbors_of(x.detach())
        offset = x[:, None, :] - self.centers[index]
        distance = (offset[..., None] * self.shapes[index] * offset[..., None, :]).sum((-1, -2))
        response = 1 / (1 + distance)
        return response / (response.sum(-1, keepdim=True) + 1e-8), index

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """Evaluate at (..., in_dim) coordinates in [-1, 1]."""
        points = x.reshape(-1, self.in_dim).to(self.bias.dtype)
        response, index = self.responses(points)
        local = (self.kernel_weight[index] * torch.sin(response[..., None] * self.multipliers)).sum(1)
        grid = hash_grid(points, self.table, self.layout, implementation=self.implementation).to(points.dtype)
        first, second, last = self.layers
        h = first(torch.cat((grid, local), dim=1) + self.bias)
        h = h + torch.sin(self.sine_scale * h)
        return last(torch.relu(second(h))).reshape(*x.shape[:-1], self.out_dim)

    def _neighbors_of(self, x: Float[Tensor, "N d"]) -> Int[Tensor, "N neighbors"]:
        """The nearest kernels; remembered for the last points, because fitting asks for the same ones in every step."""
        followed = torch.compiler.is_compiling() or recorded() or type(x) is not Tensor
        if followed or transformed(x, self.centers):  # no numbers to look at
            apart = torch.cdist(x, self.centers, compute_mode="donot_use_mm_for_euclid_dist")
            return apart.topk(self.neighbors, largest=False).indices
        # Compared with copies: torch does not see what numpy writes into its memory.
        if self._nearest is not None:
            points, centers, index = self._nearest
            if _same(points, x) and _same(centers, self.centers):
                return index
        from scipy.spatial import cKDTree

        tree = cKDTree(self.centers.cpu().double().numpy())
        found = tree.query(x.cpu().double().numpy(), k=self.neighbors)[1].reshape(len(x), self.neighbors)
        index = torch.from_numpy(found).to(x.device)
        self._nearest = (x.clone(), self.centers.clone(), index)
        return index


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def fit_kernels(
    signal: Float[np.ndarray, "*sizes channels"], kernels: int, *, seed: int, iterations: int = 10, shrink: float = 0.5
) -> tuple[Float[np.ndarray, "kernels d"], Float[np.ndarray, "kernels d d"]]:
    """Centres and shapes of kernels from a signal: k-means weighted by its gradient, and the clusters' covariances.

    Args:
        signal: (n_1, ..., n_d, channels) values at the cell centres of a regular grid over [-1, 1]^d.
        kernels: how many, at most the number of cells.
        seed: of the initial centres.
        iterations: of k-means.
        shrink: the inverse of a shape is the cluster's covariance divided by this.

    Returns:
        Centres and inverse squared widths S, in coordinates of [-1, 1].

    Raises:
        ValueError: more kernels than cells.
    """
    from scipy.spatial import cKDTree

    sizes = signal.shape[:-1]
    if kernels > np.prod(sizes):
        raise ValueError(
            f"{kernels:,} kernels are too many for a signal of {int(np.prod(sizes)):,} cells; lower 'kernels'."
        )
    axes = [(np.arange(n) + 0.5) * 2 / n - 1 for n in sizes]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(sizes))
    slopes = [np.gradient(signal, axis=k) for k in range(len(sizes)) if sizes[k] > 1]
    weight = np.sqrt(sum(np.square(slope).sum(-1) for slope in slopes)).reshape(-1)
    # A little everywhere, so that flat signals and empty regions have their share of centres to draw from.
    weight = weight + 1e-6 * (weight.max() or 1.0)
    rng = np.random.default_rng(seed)
    centers = points[rng.choice(len(points), kernels, replace=False, p=weight / weight.sum())]
    for _ in range(iterations):
        label = cKDTree(centers).query(points)[1]
        mass = np.bincount(label, weight, kernels)
        moved = np.stack([np.bincount(label, weight * axis, kernels) for axis in points.T], 1)
        centers = np.where(mass[:, None] > 0, moved / np.maximum(mass, 1e-300)[:, None], centers)
    label = cKDTree(centers).query(points)[1]
    mass = np.maximum(np.bincount(label, weight, kernels), 1e-300)
    offset = points - centers[label]
    covariance = np.zeros((kernels, len(sizes), len(sizes)))
    for i, j in itertools.product(range(len(sizes)), repeat=2):
        covariance[:, i, j] = np.bincount(label, weight * offset[:, i] * offset[:, j], kernels) / mass
    # A cell is not a point: its own spread keeps clusters of one cell from being singular.
    covariance += np.diag([(2 / n) ** 2 / 12 for n in sizes])
    return centers, np.linalg.inv(covariance / shrink)
