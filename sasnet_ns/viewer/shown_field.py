"""What the viewer shows of a model: a copy of its field's weights, so that looking and training never meet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks import SASNet, SignedDistanceField
from sdf_tools.chunks import in_chunks

Values = Callable[[Any, Tensor, "int | None"], Tensor]
Coordinates = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Frame:
    """The way from a scene's coordinates to the data's own: ``world = turn^T scene / scale + center``.

    Attributes:
        center: (3,) float64, world coordinates of the scene's origin.
        scale: scene units per world unit.
        turn: (3, 3) float64, orthogonal, from the world's axes to the scene's; None where they are the same.
    """

    center: Float[Tensor, "3"]
    scale: float
    turn: Float[Tensor, "3 3"] | None = None

    @classmethod
    def of(cls, world_to_scene: Float[Tensor, "3 4"]) -> Frame:
        """The frame of a similarity [s R | t]."""
        linear, shift = world_to_scene.double().cpu().split([3, 1], dim=1)
        scale = float(torch.linalg.det(linear).abs() ** (1 / 3))
        return cls(-torch.linalg.solve(linear, shift)[:, 0], scale, linear / scale)

    @property
    def mirrors(self) -> bool:
        """Whether left and right are exchanged on the way, and with them the two sides of a face."""
        return self.turn is not None and float(torch.linalg.det(self.turn)) < 0

    def to_world(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Scene coordinates to the data's own, always float64."""
        points = points.double().cpu()
        if self.turn is not None:
            points = points @ self.turn
        return points / self.scale + self.center.cpu()


class ShownField:
    """A field as the viewer sees it: signed distances and masks of a snapshot of the weights.

    Args:
        source: gives the module that is trained; asked at every snapshot.
        values: (module, (N, 3) scene points, bands or None) to (N,) signed distances in scene units.
        coordinates: (module, points) to the network's own coordinates in [-1, 1].
        network: gives the network inside a module.
        bounds: (2, 3) corners of the box that was trained, scene units.
        frame: gives the way to the shape's own units.
        copies: whether to look at a copy of the weights; False looks at the weights as they are, for pictures that
            the training thread itself asks for.
    """

    def __init__(
        self,
        source: Callable[[], nn.Module],
        values: Values,
        coordinates: Coordinates,
        network: Callable[[Any], nn.Module],
        bounds: Float[Tensor, "2 3"],
        frame: Callable[[], Frame],
        copies: bool = True,
    ) -> None:
        self._source, self._values, self._coordinates, self._network = source, values, coordinates, network
        self.bounds = bounds.detach().cpu().float()
        self._frame = frame
        self._copies = copies
        self.levels = True
        self._copy: nn.Module | None = None
        self._module: nn.Module | None = None

    @property
    def frame(self) -> Frame:
        """The way to the shape's own units; read late, since a checkpoint may bring it."""
        return self._frame()

    @torch.no_grad()
    def take_snapshot(self) -> None:
        """Copy the weights; for the thread that trains, between two steps, or while nothing trains."""
        source = self._source()
        if self._copy is None or self._module is not source:
            self._copy = copy.deepcopy(source).requires_grad_(False).eval()
            self._module = source
            return
        for mine, theirs in zip(self._tensors(self._copy), self._tensors(source), strict=True):
            mine.copy_(theirs)
        if hasattr(source, "bands"):  # which bands of a scene's network are open is no tensor
            self._copy.bands = source.bands  # type: ignore[assignment]

    def frozen(self) -> ShownField:
        """The same with a copy of the weights that no later snapshot changes."""
        other = copy.copy(self)
        other._copy, other._copies = copy.deepcopy(self.module), True
        return other

    @staticmethod
    def _tensors(module: nn.Module) -> list[Tensor]:
        return [*module.parameters(), *module.buffers()]

    @property
    def module(self) -> nn.Module:
        """What is looked at."""
        if not self._copies:
            return self._source()
        if self._copy is None or (self._module is not None and self._module is not self._source()):
            self.take_snapshot()
        assert self._copy is not None
        return self._copy

    @property
    def device(self) -> torch.device:
        """Where points have to be."""
        return next(self.module.parameters()).device

    @property
    def network(self) -> nn.Module:
        """The network of the copy."""
        return self._network(self.module)

    @property
    def band_count(self) -> int:
        """High bands that are worth a slider: 0 unless every one has neurons, since an empty one shows nothing, and
        unless the network was trained so that fewer of them are a level of detail (``levels``)."""
        network = self._network(self._source())
        if not self.levels or not isinstance(network, SASNet) or not all(network.band_sizes[1:]):
            return 0
        return network.config.bands

    @property
    def mask_layers(self) -> dict[int, tuple[str, int]]:
        """Layers with masks: index, and for each a name and its number of groups."""
        network = self._network(self._source())
        counts = network.mask_counts if isinstance(network, SASNet) else ()
        names = ["embedding", *(f"hidden layer {index}" for index in range(1, len(counts)))]
        return {index: (names[index], count) for index, count in enumerate(counts) if count}

    def values(self, points: Float[Tensor, "N 3"], bands: int | None = None) -> Float[Tensor, " N"]:
        """Signed distance in scene units, in parts that fit the caches; differentiable with respect to the points."""
        module = self.module
        return in_chunks(lambda part: self._values(module, part, bands), points)

    def value_and_gradient(
        self, points: Float[Tensor, "N 3"], bands: int | None = None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
        """Signed distance and its gradient, neither with a graph."""
        module = self.module

        def both(part: Tensor) -> Tensor:
            with torch.enable_grad():
                at = part.detach().requires_grad_(True)
                values = self._values(module, at, bands)
                (gradient,) = torch.autograd.grad(values.sum(), at)
            return torch.cat([values.detach()[:, None], gradient], dim=1)

        joined = in_chunks(both, points)
        return joined[:, 0], joined[:, 1:]

    @torch.no_grad()
    def mask(self, points: Float[Tensor, "N 3"], layer: int, group: int) -> Float[Tensor, " N"]:
        """Values in [0, 1] of one mask; zeros if the layer has none."""
        module = self.module

        def one(part: Tensor) -> Tensor:
            network = self._network(module)
            masks = network.masks(self._coordinates(module, part)) if isinstance(network, SASNet) else ()
            found = masks[layer] if layer < len(masks) else None
            return part.new_zeros(len(part)) if found is None else found[:, min(group, found.shape[1] - 1)]

        return in_chunks(one, points)

    @torch.no_grad()
    def group_contribution(self, points: Float[Tensor, "N 3"], layer: int, group: int) -> Float[Tensor, " N"]:
        """What the neurons behind one mask add to the next layer (supplement, Sec. 2), summed over the group."""
        from sasnet_ns.analysis.contribution import neuron_contributions

        module, network = self.module, self.network
        assert isinstance(network, SASNet)
        columns = _group_columns(network, layer, group)
        following = f"hidden.{layer}.weight" if layer < len(network.hidden) else "output.weight"

        def one(part: Tensor) -> Tensor:
            return neuron_contributions(network, self._coordinates(module, part))[following][:, columns].sum(dim=1)

        return in_chunks(one, points)


def _group_columns(network: SASNet, layer: int, group: int) -> slice:
    """The neurons of a layer that one mask multiplies."""
    if layer == 0:
        start = sum(network.band_sizes[: group + 1])
        return slice(start, start + network.band_sizes[group + 1])
    size = network.config.hidden_widths[layer - 1] // network.config.groups[layer - 1]
    return slice(group * size, (group + 1) * size)


def shown_shape(source: Callable[[], SignedDistanceField], copies: bool = True, levels: bool = True) -> ShownField:
    """A signed distance field in box units; ``copies`` as for :class:`ShownField`.

    ``levels``: whether fewer bands are a level of detail, as training with band dropout makes them.
    """

    def values(field: SignedDistanceField, points: Tensor, bands: int | None) -> Tensor:
        if bands is None or not isinstance(field.network, SASNet) or bands >= field.network.config.bands:
            return field(points)
        return field.network(2 * points, bands=bands)[..., 0]

    def frame() -> Frame:
        field = source()
        return Frame(field.center, float(field.scale))

    bounds = torch.tensor([[-0.5] * 3, [0.5] * 3])
    shown = ShownField(source, values, lambda _, points: 2 * points, lambda field: field.network, bounds, frame, copies)
    shown.levels = levels
    return shown


def shown_scene(source: Callable[[], nn.Module], aabb: Float[Tensor, "2 3"], frame: Callable[[], Frame]) -> ShownField:
    """The geometry of a scene that is learned from photographs (``SceneGeometry``), in scene units.

    ``frame``: gives the way to the data set's own units.
    """

    def values(geometry: Any, points: Tensor, bands: int | None) -> Tensor:
        if bands is None:
            return geometry(points)[..., 0]
        before, geometry.bands = geometry.bands, bands
        try:
            return geometry(points)[..., 0]
        finally:
            geometry.bands = before

    def coordinates(geometry: Any, points: Tensor) -> Tensor:
        return geometry.network_points(points).clamp(-1, 1)

    return ShownField(source, values, coordinates, lambda geometry: geometry.network, aabb, frame)
