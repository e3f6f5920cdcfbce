"""Meshes, point clouds, and the similarity transform that puts either into the unit box.

Their tensors may be on any device and carry gradients. What is computed in numpy is computed from :func:`for_numpy`'s
copies, and shapes that come out of it are on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdf_tools.errors import ShapeError


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: (V, 3) float64, in the units of the file it came from.
        faces: (F, 3) int64 indices into ``vertices``; counter-clockwise seen from outside.
        vertex_normals: (V, 3) unit normals, or None.
        vertex_colors: (V, 3) in [0, 1], or None.
        name: what messages call it.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    vertex_normals: Float[Tensor, "V 3"] | None = None
    vertex_colors: Float[Tensor, "V 3"] | None = None
    name: str = "mesh"


@dataclass(frozen=True)
class PointCloud:
    """Points on a surface.

    Attributes:
        points: (N, 3) float64, in the units of the file it came from.
        normals: (N, 3) outward unit normals, or None.
        scan_ids: (N,) int64, which range scan each point belongs to, or None.
        name: what messages call it.
        colors: (N, 3) in [0, 1], or None.
        confidence: (N,) in (0, 1], how much each point counts against the others, or None where all count the same.
    """

    points: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"] | None = None
    scan_ids: Int[Tensor, " N"] | None = None
    name: str = "point cloud"
    colors: Float[Tensor, "N 3"] | None = None
    confidence: Float[Tensor, " N"] | None = None


Shape = Mesh | PointCloud
AnyShape = TypeVar("AnyShape", bound=Shape)


def for_numpy(shape: AnyShape) -> AnyShape:
    """The shape with its tensors on the CPU and without gradients, the same object if they are; checked to fit.

    Raises:
        ShapeError: a face names a vertex that is not there, or a mesh or cloud has not one normal, colour, scan id or
            confidence for each of its points.
    """
    parts = ((field.name, getattr(shape, field.name)) for field in fields(shape))
    tensors: dict[str, Any] = {name: part for name, part in parts if isinstance(part, Tensor)}
    if any(part.requires_grad or part.device.type != "cpu" for part in tensors.values()):
        tensors = {name: part.detach().cpu() for name, part in tensors.items()}
        shape = replace(shape, **tensors)
    count = len(positions(shape))
    faces = tensors.pop("faces", None)
    if faces is not None and faces.numel():
        low, high = (int(end) for end in faces.aminmax())
        if low < 0 or high >= count:
            raise ShapeError(
                f"'{shape.name}' has a face of vertex {low if low < 0 else high}, which is not one of its {count:,} "
                "vertices (the first is 0); leave that face out."
            )
    for name, part in tensors.items():
        if len(part) != count:
            what = name.replace("_", " ")
            raise ShapeError(f"'{shape.name}' has {count:,} points but {len(part):,} {what}; give one for each point.")
    return shape


def require_finite(shape: Shape, normals: bool = False) -> None:
    """Refuse a shape that is not at definite places.

    Args:
        shape: any.
        normals: look at a cloud's normals too, which are estimated elsewhere where they are missing.

    Raises:
        ShapeError: coordinates, or normals that are looked at, which are NaN or infinite.
    """
    given = shape.normals if normals and isinstance(shape, PointCloud) else None
    for what, rows in (("coordinates", positions(shape)), ("normals", given)):
        if rows is not None and not bool(torch.isfinite(rows).all()):
            raise ShapeError(f"'{shape.name}' has {what} that are NaN or infinite; remove those points first.")


def like(values: Tensor, points: Tensor) -> Tensor:
    """``values`` in the dtype (torch's default where that is whole numbers) and on the device of ``points``."""
    return values.to(points.device, points.dtype if points.is_floating_point() else torch.get_default_dtype())


def select_points(cloud: PointCloud, rows: Tensor) -> PointCloud:
    """The points ``rows`` ((K,) indices or (N,) boolean) of a cloud, with everything that belongs to each."""

    def part(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    return replace(
        cloud,
        points=cloud.points[rows],
        normals=part(cloud.normals),
        scan_ids=part(cloud.scan_ids),
        colors=part(cloud.colors),
        confidence=part(cloud.confidence),
    )


def positions(shape: Shape) -> Float[Tensor, "N 3"]:
    """The (N, 3) vertices of a mesh or points of a cloud."""
    return shape.vertices if isinstance(shape, Mesh) else shape.points


def with_positions(shape: Shape, moved: Float[Tensor, "N 3"]) -> Shape:
    """The same shape with its (N, 3) vertices or points replaced."""
    if isinstance(shape, Mesh):
        return replace(shape, vertices=moved)
    return replace(shape, points=moved)


@dataclass(frozen=True)
class NormalizedShape:
    """A shape in box units, with the similarity that leads back to its own units.

    ``box = (world - center) * scale``. The bounding box is centred on the origin and its longest side is
    ``longest_side`` (0.9, as BACON and FINER use, inside the domain [-0.5, 0.5]^3).

    Attributes:
        shape: the shape in box units.
        center: (3,) float64, the centre of the bounding box, world units.
        scale: box units per world unit.
        noise: standard deviation of a cloud's points from their surface as they came, box units; 0 for meshes.
    """

    shape: Shape
    center: Float[Tensor, "3"]
    scale: float
    noise: float = 0.0

    def to_box(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """World coordinates to box coordinates, in the dtype and on the device of ``points``.

        Whole numbers give torch's default dtype.
        """
        return like((points.double() - self.center.to(points.device)) * self.scale, points)

    def to_world(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Box coordinates to world coordinates, always float64: far from the origin float32 would lose the shape."""
        return points.double() / self.scale + self.center.to(points.device)

    def mesh_to_world(self, mesh: Mesh) -> Mesh:
        """A mesh extracted in box units, in the units and position of the input."""
        return replace(mesh, vertices=self.to_world(mesh.vertices))


def normalize(shape: Shape, longest_side: float = 0.9) -> NormalizedShape:
    """Centre a shape's bounding box on the origin and scale its longest side to ``longest_side``.

    >>> import torch
    >>> from sdf_tools import PointCloud, normalize
    >>> frame = normalize(PointCloud(torch.tensor([[10.0, 0, 0], [14, 2, 0]])))
    >>> frame.scale, frame.center.tolist()
    (0.225, [12.0, 1.0, 0.0])
    >>> frame.to_world(torch.zeros(3)).tolist()
    [12.0, 1.0, 0.0]

    Raises:
        ShapeError: the shape is empty, has coordinates that are not finite, or no extent.
    """
    points = positions(shape).detach()
    if points.shape[0] == 0:
        raise ShapeError(
            f"'{shape.name}' has no points; give a shape with at least one triangle or a few hundred points."
        )
    require_finite(shape)
    low, high = points.amin(0), points.amax(0)
    extent = float((high - low).max())
    center = ((low + high) / 2).double()
    # A spread that float64 cannot resolve at this distance from the origin is no extent either.
    if extent <= 1e-12 * max(1e-30, float(points.abs().max())):
        raise ShapeError(f"'{shape.name}' has zero size: all its points coincide; there is no surface to fit.")
    scale = longest_side / extent
    return NormalizedShape(with_positions(shape, (positions(shape).double() - center) * scale), center, scale)
