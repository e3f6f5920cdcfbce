"""The viewer's panel for a surface: a few folders of controls, each with a hint, and only what applies."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch

from sasnet_ns.viewer.cameras import PRESETS, CameraMan
from sasnet_ns.viewer.curves import Row, curve
from sasnet_ns.viewer.extraction_job import ExtractionJob, told
from sasnet_ns.viewer.quantities import HINTS, color_bar, offered
from sasnet_ns.viewer.session import VISER_SCALE, Outdated, Session
from sasnet_ns.viewer.slices import SLICE_COLORS, plane_axes
from sdf_tools.geometry import Shape

_PLANES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


class Panel:
    """Controls of one viewer; what they say goes to the session.

    Args:
        server: viser's.
        session: what they control.
        cameras: moves the browsers' cameras.
        shape: reads the input, or None if it cannot be read; None where there is no input.
        history: the run's numbers so far.
        name: of extracted files.
        picture: (client, height, whether to stop) to a ray-traced picture of what that browser sees, or Outdated if it
            was stopped; None leaves the button away.
        rays: what the panel calls pictures that are computed here.
    """

    def __init__(
        self,
        server: Any,
        session: Session,
        cameras: CameraMan,
        shape: Callable[[], Shape | None] | None,
        history: Callable[[], list[Row]],
        name: str,
        picture: Callable[[Any, int, Callable[[], bool]], Any] | None = None,
        rays: str = "ray tracing",
    ) -> None:
        self._server, self._session, self._cameras = server, session, cameras
        self._shape, self._history, self._picture = shape, history, picture
        self._name, self._rays = name, rays
        self._input_layer: Any = None
        self._box_layer: Any = None
        self._last_curves: tuple[int, int] = (-1, -1)
        self._taking, self._stop_taking = threading.Lock(), threading.Event()
        gui = server.gui
        self.view_controls(gui)
        self.slice_controls(gui)
        if session.field.mask_layers:
            self.mask_controls(gui)
        if session.field.band_count:
            self.band_controls(gui)
        self.layer_controls(gui)
        self.camera_controls(gui)
        with gui.add_folder("Extract"):
            self.extraction = ExtractionJob(gui, session, name)
        with gui.add_folder("Metrics"):
            self.metrics = gui.add_markdown("")
            self.curves = gui.add_markdown("")

    def view_controls(self, gui: Any) -> None:
        """What is coloured, by whom it is drawn."""
        session, field = self._session, self._session.field
        side = float((field.bounds[1] - field.bounds[0]).max())
        with gui.add_folder("View"):
            names = offered(field, self._shape is not None)
            hints = "  ".join(f"{name}: {HINTS[name]}" for name in names)
            self.color = gui.add_dropdown("Colour", names, "shaded", hint=hints)
            self.color.on_update(lambda _: session.update(color=self.color.value))
            self.legend = gui.add_markdown("", visible=False)
            first = "browser" if session.settings.draw == "mesh" else self._rays
            self.draw = gui.add_dropdown(
                "Drawn by",
                ("browser", self._rays),
                first,
                hint=f"browser: a mesh of the surface, smooth to move.  {self._rays}: the field itself, slower.",
            )
            self.draw.on_update(lambda _: session.update(draw="mesh" if self.draw.value == "browser" else "rays"))
            self.level = gui.add_slider(
                "Level, ‰", -50, 50, 1, 0, hint="Show the points at this signed distance, in thousandths of the box."
            )
            self.level.on_update(lambda _: session.update(level=int(self.level.value) * side / 1000))
            self.read = gui.add_checkbox(
                "Click reads values", False, hint="Click on the slice or the surface: position, distance and error."
            )
            self.reading = gui.add_markdown("", visible=False)
            self.read.on_update(lambda _: self._set_reading())

    def slice_controls(self, gui: Any) -> None:
        """A plane through the field."""
        session = self._session
        with gui.add_folder("Slice"):
            self.slice = gui.add_checkbox("Show slice", False, hint="A plane through the field; drag its arrows.")
            names = [c for c in SLICE_COLORS if c == "distance" or c in offered(session.field, self._shape is not None)]
            self.slice_color = gui.add_dropdown(
                "Slice colour", names, "distance", hint="distance has level lines, the surface is black."
            )
            self.slice_legend = gui.add_markdown("", visible=False)
            self.axis = gui.add_button_group("Across", tuple(_PLANES), hint="Turn the plane across an axis.")
            self.offset = gui.add_slider(
                "Position, %", -50, 50, 1, 0, hint="Where the plane lies along its normal, from the middle of the box."
            )
            self.cut = gui.add_checkbox("Cut away", True, hint="Hide the part of the surface in front of the plane.")
        self.gizmo = self._server.scene.add_transform_controls(
            "/plane", scale=2.0, disable_sliders=True, visible=False, depth_test=False
        )
        self.slice.on_update(lambda event: self._begin_slice(event.client))
        self.cut.on_update(lambda _: self._set_slice())
        self.slice_color.on_update(lambda _: session.update(slice_color=self.slice_color.value))
        _on_every_click(self.axis, lambda event: self._set_axis(event.client, _PLANES[event.target.value]))
        self.offset.on_update(lambda _: self._set_plane(session.settings.plane_normal))
        self.gizmo.on_update(lambda _: self._gizmo_moved())

    def mask_controls(self, gui: Any) -> None:
        """Which mask is shown."""
        session, layers = self._session, self._session.field.mask_layers
        names = {f"{name} ({count})": index for index, (name, count) in layers.items()}
        with gui.add_folder("Masks"):
            # The mask of the highest frequencies: where the network lets detail act.
            first, (index, (_, group)) = next(iter(names)), next(iter(layers.items()))
            self.layer = gui.add_dropdown(
                "Layer", tuple(names), first, hint="Layer of the network, and how many masks it has."
            )
            most = max(count for _, count in layers.values())
            self.group = gui.add_slider("Group", 1, most, 1, group, hint="Which group of neurons' mask is shown.")
            self.show_mask = gui.add_button("Colour by mask", hint="Show this mask on the surface and on the slice.")
        session.settings = _with(session.settings, mask_layer=index, mask_group=group - 1)

        def choose(_: Any) -> None:
            index = names[self.layer.value]
            count = layers[index][1]
            if self.group.value > count:
                self.group.value = count
            session.update(mask_layer=index, mask_group=int(self.group.value) - 1)

        def show(_: Any) -> None:
            self.color.value = "mask"
            session.update(color="mask")

        self.layer.on_update(choose)
        self.group.on_update(choose)
        self.show_mask.on_click(show)

    def band_controls(self, gui: Any) -> None:
        """Levels of detail."""
        session, count = self._session, self._session.field.band_count
        with gui.add_folder("Bands"):
            self.bands = gui.add_slider(
                "Detail", 0, count, 1, count, hint="How many high-frequency bands the surface is made with."
            )
            self.band = gui.add_slider("Band", 1, count, 1, 1, hint="Which band the colour 'band' shows.")

        def choose(_: Any) -> None:
            value = int(self.bands.value)
            session.update(bands=None if value == count else value, band=int(self.band.value))

        self.bands.on_update(choose)
        self.band.on_update(choose)

    def layer_controls(self, gui: Any) -> None:
        """What else stands in the scene."""
        with gui.add_folder("Layers"):
            if self._shape is not None:
                self.input = gui.add_checkbox("Input", False, hint="The mesh or points that the field is fitted to.")
                self.input.on_update(lambda _: self._toggle_input())
            self.box = gui.add_checkbox("Bounding box", False, hint="The box in which the field was trained.")
            self.box.on_update(lambda _: self._toggle_box())
            self.cameras_box = gui.add_checkbox(
                "Cameras", False, hint="Where the pictures of training and evaluation are taken from."
            )
            self.cameras_box.on_update(lambda _: self.show_cameras(self.cameras_box.value))

    def camera_controls(self, gui: Any) -> None:
        """Presets, turntable, screenshot."""
        with gui.add_folder("Camera"):
            for label, names in (("Look from", PRESETS[:3]), ("or", PRESETS[3:])):
                buttons = gui.add_button_group(label, names, hint="Put the camera there, the whole box in view.")
                _on_every_click(buttons, lambda event: self._cameras.place(event.client, event.target.value))
            self.turntable = gui.add_button("Turntable", hint="Walk around the shape; click again to stop.")
            self.turntable.on_click(lambda event: self._cameras.toggle_turntable(event.client))
            if self._picture is not None:
                self.rows = gui.add_number(
                    "Rows", 1080, min=64, max=8192, step=1, hint="Height of the screenshot in pixels."
                )
                self.screenshot = gui.add_button(
                    "Screenshot",
                    hint="Download the surface from here as a .png: ray traced at any size; click again to stop.",
                )
                self.screenshot.on_click(lambda event: self._send_screenshot(event.client))

    def show_cameras(self, visible: bool) -> None:
        """Show or hide the virtual cameras, once nerfstudio has drawn them."""
        for handle in list(getattr(self._session.viewer, "camera_handles", {}).values()):
            handle.visible = visible

    def refresh(self) -> None:
        """Bring legends and numbers up to date; called by the session's thread."""
        status = self._session.status
        for legend, scale in ((self.legend, status.scale), (self.slice_legend, status.slice_scale)):
            content = "" if scale is None else color_bar(scale)
            if content != legend.content:
                legend.content, legend.visible = content, bool(content)
        rows = self._history()
        key = (len(rows), status.step)
        if key != self._last_curves:
            self._last_curves = key
            self.metrics.content = _numbers(rows)
            curves = [
                curve(rows, name) for name in ("loss", "iou", "surface_error") if any(name in row for row in rows)
            ]
            self.curves.content = "\n\n".join(part for part in curves if part)

    def _set_slice(self) -> None:
        on = bool(self.slice.value)
        self.gizmo.visible = on
        self._session.update(slice=on, cut=on and bool(self.cut.value))

    def _begin_slice(self, client: Any) -> None:
        if self.slice.value and client is not None:
            self._set_axis(client, self._session.settings.plane_normal)
        self._set_slice()

    def _set_axis(self, client: Any, normal: tuple[float, ...]) -> None:
        """A plane across the normal that faces the camera, so that what is cut away is what hides it."""
        low, high = self._session.field.bounds
        towards = torch.as_tensor(client.camera.position).float() / VISER_SCALE - (low + high) / 2
        facing = float(towards @ torch.tensor(normal)) >= 0
        self._set_plane(normal if facing else tuple(-c for c in normal))

    def _set_plane(self, normal: tuple[float, ...]) -> None:
        low, high = self._session.field.bounds
        # Percentages count along the axis itself, whichever way the plane faces.
        sign = 1.0 if max(normal, key=abs) > 0 else -1.0
        way = sign * int(self.offset.value) / 100 * float((high - low).max())
        point = tuple(float(m) + way * c for m, c in zip((low + high) / 2, normal, strict=True))
        self._place_gizmo(point, normal)
        self._session.update(plane_point=point, plane_normal=tuple(normal))

    def _place_gizmo(self, point: tuple[float, ...], normal: tuple[float, ...]) -> None:
        import viser.transforms as vtf

        self.gizmo.position = tuple(VISER_SCALE * c for c in point)
        self.gizmo.wxyz = vtf.SO3.from_matrix(plane_axes(normal).numpy()).wxyz  # type: ignore[arg-type]

    def _gizmo_moved(self) -> None:
        import viser.transforms as vtf

        normal = vtf.SO3(self.gizmo.wxyz).as_matrix()[:, 2]
        point = self.gizmo.position / VISER_SCALE
        self._session.update(plane_point=tuple(float(c) for c in point), plane_normal=tuple(float(c) for c in normal))

    def _set_reading(self) -> None:
        scene = self._server.scene
        self.reading.visible = bool(self.read.value)
        if not self.read.value:
            scene.remove_pointer_callback()
            return
        self.reading.content = "Click on the slice or the surface."

        @scene.on_pointer_event(event_type="click")
        def _(event: Any) -> None:
            self.reading.content = self.read_at(event.ray_origin, event.ray_direction)

    def read_at(self, origin: Any, direction: Any) -> str:
        """Position, distance and error where a ray (viser's units) meets the slice or the surface."""
        from sasnet_ns.viewer.reading import read_value

        session = self._session
        start = torch.tensor(origin, dtype=torch.float32) / VISER_SCALE
        ray = torch.nn.functional.normalize(torch.tensor(direction, dtype=torch.float32), dim=0)
        return read_value(session.field, session.settings, start, ray, session.reference)

    def _toggle_input(self) -> None:
        if self._input_layer is None:
            shape = self._shape() if self._shape is not None else None
            if shape is None:
                self.input.value = False
                return
            self._input_layer = self._session.nodes.add_input(shape)
        self._input_layer.visible = bool(self.input.value)

    def _toggle_box(self) -> None:
        if self._box_layer is None:
            self._box_layer = self._session.nodes.add_box(self._session.field.bounds)
        self._box_layer.visible = bool(self.box.value)

    def _send_screenshot(self, client: Any) -> None:
        import io

        from PIL import Image

        assert self._picture is not None
        if not self._taking.acquire(blocking=False):
            self._stop_taking.set()
            return
        try:
            self._stop_taking.clear()
            picture = self._picture(client, int(self.rows.value), self._stop_taking.is_set)
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, format="PNG")
            client.send_file_download(f"{self._name}.png", buffer.getvalue())
        except Outdated:
            pass
        except Exception as error:  # a thread's traceback reaches the terminal alone
            client.add_notification("No screenshot", told(error), color="red")
        finally:
            self._taking.release()


def _on_every_click(buttons: Any, act: Callable[[Any], None]) -> None:
    """viser passes over a click on the button of a group that was clicked last, at first on the group's first one."""
    buttons._impl.is_button = True
    buttons.on_click(act)


def _with(settings: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(settings, **changes)


def _numbers(rows: list[Row]) -> str:
    """The newest value of each quantity as a short table."""
    newest: dict[str, tuple[float, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "seconds") and math.isfinite(value):
                newest[name] = (value, row["step"])
    if not newest:
        return "No numbers yet."
    lines = [f"| {name.replace('_', ' ')} | {value:.4g} | step {step:,.0f} |" for name, (value, step) in newest.items()]
    return "\n".join(["| | | |", "|---|---|---|", *lines])
