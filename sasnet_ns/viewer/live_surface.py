"""The surface as a mesh that follows the field while it is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sasnet_ns.viewer.quantities import Reference, Scale, ViewSettings, color_values, evaluate
from sasnet_ns.viewer.shading import CLAY
from sasnet_ns.viewer.shown_field import ShownField
from sdf_tools.topology import vertex_normals

_COARSE, _PROBES = 32, 2048
"""Extraction's first lattice and random probes: what a picture needs, a quarter of a final mesh's."""


@dataclass(frozen=True)
class Surface:
    """A mesh of the field in scene units, with what its colours need.

    Attributes:
        vertices: (V, 3) float32.
        faces: (F, 3) int64.
        normals: (V, 3) unit normals of the mesh.
        resolution: cells along the box that it was extracted with.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    normals: Float[Tensor, "V 3"]
    resolution: int

    @property
    def cell(self) -> float:
        """Rough distance between two vertices, from the mean edge."""
        first = self.vertices[self.faces[:, 0]] - self.vertices[self.faces[:, 1]]
        return float(first.norm(dim=-1).mean()) if len(self.faces) else 0.0


def extract(
    field: ShownField,
    resolution: int,
    settings: ViewSettings,
    progress: Callable[[str, int], None] | None = None,
    thorough: bool = False,
) -> Surface:
    """The surface at the settings' level and bands.

    Args:
        field: what is shown.
        resolution: cells along the longest side of the box.
        settings: level and bands.
        progress: called as ``progress(stage, evaluations)``; may raise to stop.
        thorough: search for small pieces as ``extract_mesh`` does by itself; pictures do with less.

    Raises:
        ShapeError: there is none.
    """
    from sdf_tools.extraction import extract_mesh

    low, high = (tuple(corner.tolist()) for corner in field.bounds)
    mesh = extract_mesh(
        lambda points: field.values(points, settings.bands),
        resolution,
        (low, high),  # type: ignore[arg-type]
        settings.level,
        **({} if thorough else {"coarse_resolution": min(_COARSE, resolution), "probes": _PROBES}),  # type: ignore[arg-type]
        device=field.device,
        progress=progress,
    )
    return Surface(mesh.vertices.float(), mesh.faces, _normals(mesh.vertices.float(), mesh.faces), resolution)


@torch.no_grad()
def follow(field: ShownField, surface: Surface, settings: ViewSettings) -> Surface:
    """Move a surface's vertices onto the field as it is now: a tenth of an extraction's evaluations.

    Two Newton steps along the mesh's normals, no further than a cell: a part that moved further, or a new one, waits
    for the next extraction.
    """
    points, normals, reach = surface.vertices.to(field.device), surface.normals.to(field.device), surface.cell
    moved = torch.zeros_like(points[:, 0])
    for _ in range(2):
        ahead = field.values(points + moved[:, None] * normals, settings.bands) - settings.level
        moved = (moved - ahead.clamp(-reach, reach)).clamp(-reach, reach)
        if float(ahead.abs().mean()) < 0.05 * reach:
            break
    vertices = (points + moved[:, None] * normals).cpu()
    return replace(surface, vertices=vertices, normals=_normals(vertices, surface.faces))


def cut(surface: Surface, point: tuple[float, ...], normal: tuple[float, ...]) -> Surface:
    """What lies behind a plane, seen from where its normal points; triangles on the plane are cut exactly."""
    from trimesh.intersections import slice_faces_plane

    vertices, faces, _ = slice_faces_plane(
        surface.vertices.double().numpy(), surface.faces.numpy(), -np.asarray(normal), np.asarray(point)
    )
    vertices, faces = torch.from_numpy(np.asarray(vertices)).float(), torch.from_numpy(np.asarray(faces)).long()
    return replace(surface, vertices=vertices, faces=faces, normals=_normals(vertices, faces))


def reaches(surface: Surface, bounds: Float[Tensor, "2 3"]) -> bool:
    """Whether a surface comes to the sides of the box, where it is open."""
    low, high = bounds.cpu()
    margin = 0.5 * (high - low).max() / surface.resolution
    return bool(((surface.vertices < low + margin) | (surface.vertices > high - margin)).any())


def colors(
    field: ShownField, surface: Surface, settings: ViewSettings, reference: Reference | None = None
) -> tuple[Float[Tensor, "V 3"], Scale | None]:
    """Colours of the vertices, and the bar that explains them if they stand for a quantity."""
    vertices = surface.vertices
    if settings.color == "shaded" or not len(vertices):
        return torch.tensor(CLAY).expand(len(vertices), 3), None
    if settings.color == "normals":
        return (surface.normals + 1) / 2, None
    values, title, kind = evaluate(field, settings.color, vertices.to(field.device), settings, reference)
    painted, scale = color_values(values, title, kind)
    return painted.cpu(), scale


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    return torch.from_numpy(vertex_normals(vertices.double().numpy(), faces.numpy())).float()


class Budget:
    """Keeps the viewer's share of the time: ``spend`` what work took, ``due`` says when more is affordable.

    Args:
        share: of one processor's time.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._free_at = 0.0

    def spend(self, seconds: float) -> None:
        """Work of so many seconds is done; nothing more until it has become no more than the share."""
        self._free_at = max(time.monotonic(), self._free_at) + seconds * (1 / self.share - 1)

    def due(self) -> bool:
        """Whether there may be work now."""
        return time.monotonic() >= self._free_at

    def reset(self) -> None:
        """Forget what was spent: nobody is disturbed any more."""
        self._free_at = 0.0
