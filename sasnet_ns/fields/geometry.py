"""A network of the registry as the geometry of a scene: signed distance and features at scene coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.networks import HashGridMLP, Network, SASNet, SignedDistanceField, build_network, network_values

Distortion = Callable[[Tensor], Tensor]


def similarity_scale(transform: Float[Tensor, "3 4"]) -> float:
    """The scale s of a similarity ``[s R | t]``."""
    return float(torch.linalg.det(transform[:, :3].double()).abs() ** (1 / 3))


class SceneGeometry(nn.Module):
    """Signed distance in scene units, negative inside, and a vector of features for the colours.

    The network lives on a cube [-1, 1]^3 that ``to_network`` cuts out of the scene: the scene box at first, the box of
    the shape after :meth:`start_from`. What lies outside the cube has the distance of the nearest point of the cube
    plus the way there, so nothing repeats with the period of a sinusoidal network. A distortion, where there is one,
    maps all of space to [-2, 2]^3 instead.

    Geometric initialisation adds the distance to a sphere and starts the network's own distance at zero: the field is
    a sphere exactly, whatever the network (sphere initialisation: Atzmon and Lipman, SAL, CVPR 2020).

    Args:
        aabb: (2, 3) corners of the scene box, scene units.
        feature_dim: features beside the distance.
        network: name in the registry.
        network_config: its options.
        distortion: maps (..., 3) scene coordinates to [-2, 2]; None takes the scene box.
        sphere_radius: radius of the initial sphere around the box's centre, scene units; None starts without one.
        inside_out: the scene is a room: cameras are inside the sphere, and outside it is solid.

    Raises:
        ValueError: the network or an option of it is unknown.
    """

    to_network: Tensor
    units: Tensor
    sphere: Tensor
    center: Tensor

    def __init__(
        self,
        aabb: Float[Tensor, "2 3"],
        feature_dim: int,
        network: str = "sasnet",
        network_config: dict[str, Any] | None = None,
        distortion: Distortion | None = None,
        sphere_radius: float | None = None,
        inside_out: bool = False,
    ) -> None:
        super().__init__()
        self.network = build_network(network, in_dim=3, out_dim=1 + feature_dim, **dict(network_config or {}))
        self.distortion = distortion
        self.sign = -1.0 if inside_out else 1.0
        self.bands: int | None = None

        center = aabb.float().mean(dim=0)
        half_side = float((aabb[1] - aabb[0]).max()) / 2
        self.register_buffer("to_network", torch.cat([torch.eye(3), -center[:, None]], dim=1) / half_side)
        self.register_buffer("units", torch.tensor(half_side))
        self.register_buffer("sphere", torch.tensor([0.0, 1.0] if sphere_radius is None else [1.0, sphere_radius]))
        self.register_buffer("center", center)
        self._silence(distance=sphere_radius is not None)

    def _silence(self, distance: bool) -> None:
        """Let every band that opens later begin from nothing, and the distance, to which that of a sphere is added."""
        with torch.no_grad():
            if distance:
                output = output_layer(self.network)
                output.weight[0].zero_()
                output.bias[0].zero_()
            if isinstance(self.network, SASNet) and self.network.config.bands:
                hidden = self.network.hidden[0]
                assert isinstance(hidden, nn.Linear)
                hidden.weight[:, self.network.band_sizes[0] :].zero_()

    def network_points(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Coordinates of the network at (..., 3) scene coordinates; beyond [-1, 1] outside its cube."""
        if self.distortion is not None:
            return self.distortion(points) / 2
        with torch.autocast(points.device.type, enabled=False):  # in half precision cells of the grid would be steps
            return points.to(self.to_network.dtype) @ self.to_network[:, :3].T + self.to_network[:, 3]

    def forward(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1+features"]:
        """Signed distance in scene units, then the features, at (..., 3) scene coordinates."""
        u = self.network_points(points)
        inside = u.clamp(-1, 1)
        values = network_values(self.network, inside, self.bands if isinstance(self.network, SASNet) else None)
        sdf = self.units * values[..., :1]
        if self.distortion is None:
            sdf = sdf + self.sign * _length(u - inside) / self.to_network[0, :3].norm()
        if self.sphere[0] > 0:
            nearest = points
            if self.distortion is None:
                turn = self.to_network[:, :3]  # scale times rotation: its inverse is its transpose by the square
                with torch.autocast(points.device.type, enabled=False):
                    nearest = points - (u - inside) @ turn / turn[0].square().sum()
            sdf = sdf + self.sign * self._sphere_distance(nearest)
        return torch.cat([sdf, values[..., 1:]], dim=-1)

    def _sphere_distance(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Distance to the initial sphere, with its kink at the centre rounded off: no surface can pass a kink."""
        radius = self.sphere[1]
        rounding = (0.1 * radius).square()
        square = (points - self.center).square().sum(dim=-1, keepdim=True)
        return (square + rounding).sqrt() - (radius.square() + rounding).sqrt()

    def masks(self, points: Float[Tensor, "N 3"]) -> list[Float[Tensor, "N groups"]]:
        """The masks of a SASNet at (N, 3) scene coordinates, open bands only; empty for other networks."""
        if not isinstance(self.network, SASNet):
            return []
        masks = list(self.network.masks(self.network_points(points).clamp(-1, 1)))
        if masks[0] is not None and self.bands is not None:
            masks[0] = masks[0][:, : self.bands]
        return [mask for mask in masks if mask is not None and mask.shape[-1]]

    def start_from(self, field: SignedDistanceField, world_to_scene: Float[Tensor, "3 4"] | None = None) -> None:
        """Take over the surface of a fitted field, exactly; only the features are still to be learned.

        The network's cube becomes the field's box, so all of its capacity stays with the shape.

        Args:
            field: a field in the units and position of the shape it was fitted to ("world").
            world_to_scene: similarity [s R | t] from there to scene coordinates; None is the identity.

        Raises:
            ValueError: the field's network is not of the kind and size of this one, or space is distorted.
        """
        if self.distortion is not None:
            raise ValueError("a running start needs a bounded scene; switch the spatial distortion off.")
        own = self.network.state_dict()
        given = field.network.state_dict()
        head = {name for name in own if name in output_names(self.network)}
        mismatch = [
            name
            for name, value in own.items()
            if name not in given or (given[name].shape[1:] if name in head else given[name].shape)
            != (value.shape[1:] if name in head else value.shape)
        ]  # fmt: skip
        if mismatch or type(field.network) is not type(self.network):
            raise ValueError(
                f"the field to start from is a {field.description['network']} of another size than this field's "
                f"{type(self.network).__name__} (they differ in {', '.join(mismatch[:3]) or 'kind'}); give both the "
                "same network options."
            )
        with torch.no_grad():
            for name, value in given.items():
                target = own[name]
                (target[:1] if name in head else target).copy_(value)
            transform = torch.eye(4, dtype=torch.float64)
            if world_to_scene is not None:
                transform[:3] = world_to_scene.double()
            back = transform.inverse()[:3].to(field.center)
            scale = 2 * field.scale
            self.to_network.copy_(torch.cat([scale * back[:, :3], scale * (back[:, 3:] - field.center[:, None])], 1))
            self.units.copy_(similarity_scale(transform[:3]) / field.scale)
            self.sphere[0] = 0.0
            if self.sign < 0:
                output = output_layer(self.network)
                output.weight[0].neg_()
                output.bias[0].neg_()

    def contains(self, points: Float[Tensor, "N 3"]) -> Tensor:
        """Whether (N, 3) scene points lie in the network's cube, (N,) bool; everywhere with a distortion."""
        return (self.network_points(points).abs() <= 1).all(dim=-1)


def output_layer(network: Network) -> nn.Linear:
    """The last linear layer.

    Raises:
        ValueError: the network does not end in one.
    """
    last = network.mlp[-1] if isinstance(network, HashGridMLP) else getattr(network, "output", None)
    if not isinstance(last, nn.Linear):
        raise ValueError(f"{type(network).__name__} does not end in a linear layer; use another network.")
    return last


def output_names(network: Network) -> set[str]:
    """Names of the last linear layer's parameters in the network's ``state_dict``."""
    last = output_layer(network)
    return {name for name, value in network.named_parameters() if value is last.weight or value is last.bias}


def _length(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
    """Euclidean length whose derivatives of every order are zero, not NaN, at zero."""
    square = vectors.square().sum(dim=-1, keepdim=True)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), 0.0)
