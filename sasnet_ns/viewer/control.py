"""Where nerfstudio's viewer meets ours: the hook that it calls on the model, in ns-train and in ns-viewer alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.viewer.utils import get_camera
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from sasnet_ns.data.views import Axis, axis_vector
from sasnet_ns.viewer.cameras import CameraMan, default_front
from sasnet_ns.viewer.curves import Row, read_history
from sasnet_ns.viewer.offline_client import serve_offline, warn_if_open
from sasnet_ns.viewer.panel import Panel
from sasnet_ns.viewer.quantities import Reference, Scale, ViewSettings
from sasnet_ns.viewer.rendering import MISS_DEPTH, SurfaceRenderer
from sasnet_ns.viewer.session import VISER_SCALE, Outdated, Session, Status, run_folder
from sasnet_ns.viewer.shown_field import ShownField
from sasnet_ns.viewer.stages import StagedRenderer, use_stages
from sdf_tools.geometry import Shape

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.viewer.utils import CameraState
    from nerfstudio.viewer.viewer import Viewer

_RAYS_AT_ONCE = 1 << 18
_MOST_SECONDS = 4.0  # for one ray-traced picture; what is not found by then is left blank
_BAR_ROWS = 512  # of the picture whose colour bar a screenshot has
_DEPTH_STRIDE_ABOVE = 200  # rows beyond which depths are sent at half the resolution


class ShapeViewerControl(ViewerControl):
    """Replaces nerfstudio's panel and its renderer by this package's, for a model with a surface.

    Args:
        field: what is shown; a copy of the weights is made when a viewer opens.
        up: the shape's upward axis.
    """

    front: Float[Tensor, "3"] | None
    """Unit vector towards whoever looks at the shape's front; None for the usual one, see ``cameras.default_front``."""
    shape: Callable[[], Shape | None] | None
    """Reads the input in box units; the pipeline sets it."""
    name: str
    """Of extracted files."""

    def __init__(self, field: ShownField, up: Axis) -> None:
        serve_offline()
        self.field, self.up = field, axis_vector(up)
        self.front, self.shape, self.name = None, None, "surface"
        self.shown_in: Viewer | None = None
        self.session: Session | None = None
        self.panel: Panel | None = None
        self._cameras_seen = 0

    @property
    def settings(self) -> ViewSettings:
        """What the panel says now; the defaults without a viewer."""
        return ViewSettings() if self.session is None else self.session.settings

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        warn_if_open(viewer)
        self.shown_in = viewer
        server = viewer.viser_server
        front = default_front(self.up) if self.front is None else self.front
        low, high = self.field.bounds
        self.cameras = CameraMan(self.up, front, (low + high) / 2, float((high - low).max()), VISER_SCALE)
        self.field.take_snapshot()
        reference = None if self.shape is None else self._reference
        normal = tuple(float(c) for c in front)
        self.session = session = Session(viewer, self.field, ViewSettings(plane_normal=normal), reference)  # type: ignore[arg-type]
        self.renderer = SurfaceRenderer(self.field, self.up)
        server.scene.set_up_direction(tuple(self.up.tolist()))
        self._replace_panel(viewer)
        session.on_status = self._tell
        use_stages(viewer, self._machine, lambda client: self.cameras.place(client, "oblique"))
        # nerfstudio calls these on the instance.
        viewer.update_scene = self._update_scene  # type: ignore[method-assign]
        viewer.training_complete = self._training_complete  # type: ignore[method-assign]
        session.start()

    def _replace_panel(self, viewer: Viewer) -> None:
        from nerfstudio.viewer.render_panel import populate_render_tab

        server = viewer.viser_server
        gui = server.gui
        viewer.control_panel._crop_handle.visible = False  # nerfstudio hides it only once its panel has been used
        gui.reset()
        gui.set_panel_label("SASNet")
        gui.configure_theme(
            control_layout="collapsible", control_width="medium", dark_mode=False, show_logo=False,
            show_share_button=False, brand_color=(47, 111, 176),
        )  # fmt: skip
        self.header = gui.add_markdown("")
        self.pause = gui.add_button("Pause training", hint="Stop after this step; click again to go on.", visible=False)
        self.pause.on_click(viewer._toggle_training_state)
        tabs = gui.add_tab_group()
        with tabs.add_tab("Look"):
            assert self.session is not None
            self.panel = Panel(
                server, self.session, self.cameras, self.shape, self._history, self.name, self._screenshot
            )
        config = run_folder(viewer) / "config.yml"
        with tabs.add_tab("Film"):
            viewer.render_tab_state = populate_render_tab(server, config, viewer.datapath, viewer.control_panel)

    def _reference(self) -> Reference:
        """Distance from the input in its own units; ShapeError if it cannot be read."""
        from sdf_tools.distance.signed_distance import SignedDistance
        from sdf_tools.errors import ShapeError

        shape = self.shape() if self.shape is not None else None
        if shape is None:
            raise ShapeError("it cannot be read any more.")
        distance, frame = SignedDistance(shape, sign="unsigned"), self.field.frame

        def measure(world: Tensor) -> Tensor:
            return distance((world - frame.center.cpu()) * frame.scale) / frame.scale

        return measure

    def _history(self) -> list[Row]:
        assert self.shown_in is not None
        return run_history(self.shown_in)

    def _tell(self) -> None:
        """Bring the header and the panel up to date."""
        assert self.session is not None and self.panel is not None and self.shown_in is not None
        text = tell_state(self.shown_in, self.session.status)
        if text != self.header.content:
            self.header.content = text
        trainer = self.shown_in.trainer
        self.pause.visible = trainer is not None and trainer.training_state != "completed"
        cameras = len(getattr(self.shown_in, "camera_handles", ()))
        if cameras != self._cameras_seen:  # nerfstudio adds them one by one, all visible
            self._cameras_seen = cameras
            self.panel.show_cameras(bool(self.panel.cameras_box.value))
        self.panel.refresh()

    def _update_scene(self, step: int, num_rays_per_batch: int | None = None) -> None:
        """In place of nerfstudio's: note the step, and copy the weights if the session has asked for them."""
        assert self.shown_in is not None and self.session is not None
        self.shown_in.step = step
        self.session.at_step(step)
        if self.session.settings.draw == "rays" and self.session.training:
            from nerfstudio.viewer.render_state_machine import RenderAction

            for client_id, client in self.shown_in.viser_server.get_clients().items():
                machine = self.shown_in.render_statemachines.get(client_id)
                if machine is not None:
                    machine.action(RenderAction("step", self.shown_in.get_camera_state(client)))

    def _training_complete(self) -> None:
        assert self.shown_in is not None
        self.shown_in._trigger_rerender()

    def _machine(self, client: Any) -> StagedRenderer:
        assert self.shown_in is not None and self.session is not None
        session = self.session
        machine = StagedRenderer(self.shown_in, client, self._show, VISER_SCALE, lambda: session.training)
        machine.enabled = lambda: session.settings.draw == "rays" or machine.has_picture
        return machine

    def _show(self, machine: StagedRenderer, camera_state: CameraState, height: int, width: int) -> None:
        """Draw one stage, or take the last picture away where the browser draws by itself."""
        assert self.session is not None
        settings = self.session.settings
        scene = machine.client.scene
        if settings.draw == "mesh":
            scene.set_background_image(np.full((4, 4, 3), 255, dtype=np.uint8), format="png")
            machine.has_picture = False
            return
        camera = get_camera(camera_state, height, width)
        # Built before: whatever interrupts the picture would lose it.
        reference = self.session.reference if settings.color == "error" else None
        step, deadline = self.session.status.step, time.monotonic() + _MOST_SECONDS
        with machine.interruptible():
            colors, depth, scale = self._trace(
                self.renderer, camera, range(height), settings, step, reference, deadline
            )
        stride = 2 if height > _DEPTH_STRIDE_ABOVE else 1
        needs_depth = settings.slice or self._has_layers()
        config, in_motion = machine.viewer.config, height < 200
        scene.set_background_image(
            colors,
            format="jpeg" if in_motion else config.image_format,
            jpeg_quality=60 if in_motion else config.jpeg_quality,
            depth=depth[::stride, ::stride, None] * VISER_SCALE if needs_depth else None,
        )
        machine.has_picture = True
        if height >= 100 or scale is None:  # a handful of pixels has no percentiles worth a legend
            self.session.status.scale = scale

    def _has_layers(self) -> bool:
        panel = self.panel
        return (
            panel is not None
            and any(
                getattr(panel, name, None) is not None and getattr(panel, name).value
                for name in ("input", "box", "cameras_box")
            )
        ) or bool(panel and panel.extraction.layer_box.value)

    def _trace(
        self,
        renderer: SurfaceRenderer,
        camera: Cameras,
        rows: range,
        settings: ViewSettings,
        step: int,
        reference: Reference | None,
        deadline: float = math.inf,
        scale: Scale | None = None,
    ) -> tuple[np.ndarray, np.ndarray, Scale | None]:
        """(R, W, 3) bytes, (R, W) depths along the camera's axis, and the colour bar, of R rows of a picture."""
        camera = camera.to(self.field.device)
        width = int(camera.width.flatten()[0])
        # In bands: a camera's rays carry much that is not needed here.
        across = torch.arange(width) + 0.5
        pixels = [torch.cartesian_prod(torch.arange(b.start, b.stop) + 0.5, across) for b in _bands(rows, width)]
        bands = [camera.generate_rays(camera_indices=0, coords=band.to(camera.device)) for band in pixels]
        origins = torch.cat([band.origins for band in bands])
        directions = torch.cat([band.directions for band in bands])
        tolerance = min(2e-3, max(1e-4, 0.25 / float(camera.fx.flatten()[0])))
        with torch.no_grad():
            colors, depth, scale = renderer.picture(
                origins, directions, settings, step, tolerance, reference, deadline, scale
            )
        ahead = -camera.camera_to_worlds.reshape(-1, 3, 4)[0, :3, 2]
        along = depth * (directions @ ahead)
        along = torch.where(depth >= MISS_DEPTH, torch.full_like(along, 16.0), along)
        picture = (colors.clamp(0, 1) * 255).round().to(torch.uint8).reshape(len(rows), width, 3).cpu().numpy()
        return picture, along.reshape(len(rows), width).cpu().numpy(), scale

    def _screenshot(self, client: Any, height: int, stopped: Callable[[], bool]) -> np.ndarray:
        """What a browser sees, (H, W, 3) bytes, ray traced at any size: band by band, of which only colours are kept.

        Raises:
            Outdated: ``stopped`` said so between two bands.
        """
        assert self.shown_in is not None and self.session is not None
        state, settings = self.shown_in.get_camera_state(client), self.session.settings
        reference = self.session.reference if settings.color == "error" else None
        field, step = self.session.frozen_field()
        renderer = SurfaceRenderer(field, self.up)

        def camera(rows: int) -> Cameras:
            return get_camera(state, rows, max(1, round(rows * state.aspect)))

        scale = None
        if settings.color not in ("shaded", "normals"):  # one colour bar for all bands, from a small picture
            few = min(height, _BAR_ROWS)
            scale = self._trace(renderer, camera(few), range(few), settings, step, reference)[2]
        whole = camera(height)
        width = int(whole.width.flatten()[0])
        picture = np.empty((height, width, 3), dtype=np.uint8)
        for rows in _bands(range(height), width):
            if stopped():
                raise Outdated
            band, _, _ = self._trace(renderer, whole, rows, settings, step, reference, scale=scale)
            picture[rows.start : rows.stop] = band
        return picture


def _bands(rows: range, width: int) -> list[range]:
    """Rows of a picture in parts of not too many rays."""
    step = max(1, _RAYS_AT_ONCE // width)
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def run_history(viewer: Viewer) -> list[Row]:
    """The run's numbers: the trainer's, or those beside a finished run's checkpoints."""
    if viewer.trainer is not None:
        return list(getattr(viewer.trainer, "history", ()))
    rows: list[Row] | None = getattr(viewer, "_finished_history", None)
    if rows is None:
        rows = viewer._finished_history = read_history(run_folder(viewer))  # type: ignore[attr-defined]
    return rows


def tell_state(viewer: Viewer, status: Status) -> str:
    """Where the run stands, and of which step the picture is, as markdown."""
    trainer = viewer.trainer
    state = "completed" if trainer is None else trainer.training_state
    total, done = getattr(trainer, "total_steps", 0), status.step + 1
    text = {
        "training": f"**Training**, step {done:,} of {total:,}{_time_left(trainer, done)}",
        "paused": f"**Paused** at step {done:,} of {total:,}",
        "completed": f"**{'Finished run' if trainer is None else 'Training done'}**, step {done:,}",
    }[state]
    surface = status.message
    if not surface and status.vertices and status.shown_step >= 0:
        surface = f"Surface of step {status.shown_step + 1:,}, {status.vertices:,} vertices"
    return "  \n".join(line for line in (text, surface, status.input_trouble) if line)


def _time_left(trainer: Any, done: int) -> str:
    started, first = getattr(trainer, "_started", None), getattr(trainer, "_start_step", 0)
    if started is None or done - first < 10:
        return ""
    per_step = (time.perf_counter() - started) / (done - first)
    seconds = per_step * max(0, trainer.total_steps - done)
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f", {1e3 * per_step:.0f} ms a step, {minutes}:{rest:02d} left"
