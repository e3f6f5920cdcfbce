"""The panel in nerfstudio's viewer: which surface, a slice plane, the input's points, a mesh on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerCheckbox,
    ViewerControl,
    ViewerDropdown,
    ViewerElement,
    ViewerSlider,
)
from torch import Tensor, nn

from sasnet_ns.data.views import Axis, axis_vector
from sasnet_ns.viewer.rendering import OUTPUTS, ViewSettings

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

_SCALE = 10.0  # nerfstudio shows one unit as ten
_POINTS_SHOWN = 30_000


class ShapeViewerControl(ViewerControl):
    """Turns the scene the right way up and starts each browser with the whole shape in view.

    Args:
        up: the shape's upward axis.
    """

    def __init__(self, up: Axis) -> None:
        self.up = axis_vector(up)
        self.shown_in: Viewer | None = None

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        self.shown_in = viewer
        viewer.viser_server.scene.set_up_direction(tuple(self.up.tolist()))

        @viewer.viser_server.on_client_connect
        def _(client: Any) -> None:
            side = torch.linalg.cross(self.up, self.up.roll(1))
            direction = 0.35 * self.up + math.cos(0.5) * self.up.roll(1) + math.sin(0.5) * side
            client.camera.up_direction = self.up.numpy()
            client.camera.position = (1.25 * _SCALE * direction / direction.norm()).numpy()
            client.camera.look_at = (0.0, 0.0, 0.0)

    def wanted_outputs(self) -> Collection[str]:
        """The pictures that the viewer is showing now; all of them without a viewer."""
        if self.shown_in is None or not self.shown_in.ready:
            return OUTPUTS
        panel = self.shown_in.control_panel
        shown = {panel.output_render, *([panel.split_output_render] if panel.split else [])}
        return shown if shown <= set(OUTPUTS) else OUTPUTS  # before the first picture nothing is chosen


class ViewerPanel(nn.Module):
    """Controls that nerfstudio's viewer finds on the model. It has no parameters and no state worth saving.

    Args:
        up: the shape's upward axis.
        bands: number of high-frequency bands of the network; 0 hides that slider.
        extract: called by the button with a path; writes the mesh there and returns (vertices, faces) in box units.
    """

    surface: Callable[[], tuple[Tensor, Tensor] | None] | None
    """Gives the input's (N, 3) points and normals in box units when they are first shown; the pipeline sets it."""

    def __init__(
        self,
        up: Axis,
        bands: int,
        extract: Callable[[Path], tuple[Tensor, Tensor]],
    ) -> None:
        super().__init__()
        self._bands = bands
        self._extract = extract
        self.surface = None
        self.control = ShapeViewerControl(up)
        self.iso_level = ViewerSlider("Surface at distance", 0.0, -0.05, 0.05, 0.001)
        self.slice_axis: ViewerDropdown[str] = ViewerDropdown("Slice axis", "z", ["x", "y", "z"])
        self.slice_offset = ViewerSlider("Slice offset", 0.0, -0.5, 0.5, 0.01)
        if bands:
            self.frequency_bands = ViewerSlider("Frequency bands", bands, 0, bands, 1)
        self.input_points = ViewerCheckbox("Input points", False, cb_hook=self._toggle_points)
        self.mesh_button = ViewerButton("Extract mesh", cb_hook=self._extract_mesh)
        self._points_handle: Any = None

    def settings(self) -> ViewSettings:
        """What the controls say now."""
        bands = int(self.frequency_bands.value) if self._bands else None
        return ViewSettings(
            level=float(self.iso_level.value),
            slice_axis="xyz".index(self.slice_axis.value),
            slice_offset=float(self.slice_offset.value),
            bands=None if bands == self._bands else bands,
        )

    def _toggle_points(self, element: ViewerElement[bool]) -> None:
        viewer = self.control.shown_in
        if viewer is None:
            return
        if self._points_handle is None:
            surface = self.surface() if self.surface is not None else None
            if surface is None:
                return
            points, normals = (part[:_POINTS_SHOWN].cpu().float().numpy() for part in surface)
            self._points_handle = viewer.viser_server.scene.add_point_cloud(
                "/input_points", points * _SCALE, ((normals + 1) * 127.5).astype("uint8"), point_size=0.02
            )
        self._points_handle.visible = self.input_points.value

    def _extract_mesh(self, element: ViewerElement[bool]) -> None:
        viewer = self.control.shown_in
        if viewer is None:
            return
        path = viewer.log_filename.parent / "viewer_mesh.ply"
        try:
            vertices, faces = self._extract(path)
        except ValueError as error:
            _notify(viewer, "No mesh", str(error))
            return
        viewer.viser_server.scene.add_mesh_simple(
            "/extracted_mesh",
            (vertices * _SCALE).float().cpu().numpy(),
            faces.cpu().numpy(),
            color=(205, 200, 190),
            visible=False,
        )
        _notify(viewer, "Mesh written", f"{faces.shape[0]:,} faces in {path}; show it under Scene, /extracted_mesh.")


def _notify(viewer: Viewer, title: str, body: str) -> None:
    for client in viewer.viser_server.get_clients().values():
        client.add_notification(title, body, auto_close=8000)
