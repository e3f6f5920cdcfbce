"""What stands in the browser's scene: the live surface, a slice, the input, a box, an extracted mesh."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.viewer.live_surface import Surface
from sasnet_ns.viewer.slices import Slice
from sdf_tools.geometry import Mesh, Shape

_MOST_INPUT_FACES, _MOST_INPUT_POINTS = 400_000, 100_000  # what a browser takes without a pause


class SceneNodes:
    """Named parts of the scene, in viser's units.

    Args:
        scene: viser's.
        scale: viser units per scene unit.
    """

    def __init__(self, scene: Any, scale: float) -> None:
        self._scene, self._scale = scene, scale
        self._surface: Any = None
        self._slice: Any = None
        self._surface_visible = True

    def send_surface(self, surface: Surface, colors: Float[Tensor, "V 3"], both_sides: bool = True) -> None:
        """Replace the live surface; one that is closed is drawn in half the time without its inner side."""
        side = "double" if both_sides else "front"
        self._surface_visible = True
        self._surface = self.send_mesh("/surface", surface.vertices, surface.faces, colors, side=side)

    def show_surface(self, visible: bool) -> None:
        """Show or hide the live surface."""
        if self._surface is not None and visible != self._surface_visible:
            self._surface.visible = self._surface_visible = visible

    def send_mesh(
        self, name: str, vertices: Tensor, faces: Tensor, colors: Tensor | None, visible: bool = True, **options: Any
    ) -> Any:
        """A mesh with a colour for each vertex, which viser's own methods send as a textured file or not at all."""
        from viser import _messages
        from viser._scene_handles import MeshHandle

        painted = None if colors is None else (colors.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        message = _messages.MeshMessage(
            name=name,
            vertices=(vertices * self._scale).float().cpu().numpy(),
            faces=faces.cpu().numpy().astype(np.uint32),
            color=0xFFFFFF if colors is not None else options.pop("color", 0xCCC9C2),
            vertex_colors=painted,
            wireframe=options.pop("wireframe", False),
            opacity=options.pop("opacity", None),
            flat_shading=False,
            side=options.pop("side", "double"),
            material="standard",
        )
        self._scene._websock_interface.queue_message(message)
        return MeshHandle._make(self._scene, name, (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), visible)

    def send_slice(self, picture: Slice, point: tuple[float, ...], axes: Float[Tensor, "3 3"]) -> None:
        """Replace the picture of the plane."""
        import viser.transforms as vtf

        side = picture.side * self._scale
        self._slice = self._scene.add_image(
            "/slice",
            picture.image,
            side,
            side,
            format="png",
            wxyz=vtf.SO3.from_matrix(axes.numpy()).wxyz,
            position=tuple(self._scale * c for c in point),
        )

    def hide_slice(self) -> None:
        """Take it away."""
        if self._slice is not None:
            self._slice.remove()
            self._slice = None

    def add_input(self, shape: Shape) -> Any:
        """The input, as a wire-thin mesh if a browser can take it, else as points."""
        if isinstance(shape, Mesh) and len(shape.faces) <= _MOST_INPUT_FACES:
            return self.send_mesh("/input", shape.vertices, shape.faces, None, color=0x4A90D9, opacity=0.45)
        points = shape.vertices if isinstance(shape, Mesh) else shape.points
        rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_MOST_INPUT_POINTS]
        return self._scene.add_point_cloud(
            "/input", (points[rows] * self._scale).float().numpy(), colors=(74, 144, 217), point_size=0.015
        )

    def add_box(self, bounds: Float[Tensor, "2 3"]) -> Any:
        """The twelve edges of the box that was trained, under one name."""
        root = self._scene.add_frame("/box", show_axes=False)
        for index, (start, end) in enumerate(_edges(bounds)):
            self._scene.add_spline_catmull_rom(
                f"/box/{index}", (self._scale * start, self._scale * end), line_width=1.5, color=(120, 120, 120)
            )
        return root


def _edges(bounds: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    corners = [bounds.numpy()[list(pick), range(3)] for pick in itertools.product((0, 1), repeat=3)]
    return [(a, b) for a, b in itertools.combinations(corners, 2) if int((a != b).sum()) == 1]
