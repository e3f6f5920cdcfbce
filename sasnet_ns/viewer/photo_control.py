"""The viewer of methods that learn from photographs: nerfstudio's panel with what applies, the surface as a mesh."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.viewer.render_state_machine import RenderAction
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from sasnet_ns.viewer.cameras import CameraMan
from sasnet_ns.viewer.control import run_history, tell_state
from sasnet_ns.viewer.offline_client import serve_offline, warn_if_open
from sasnet_ns.viewer.panel import Panel
from sasnet_ns.viewer.quantities import ViewSettings
from sasnet_ns.viewer.session import VISER_SCALE, Session, Status
from sasnet_ns.viewer.shown_field import ShownField
from sasnet_ns.viewer.stages import StagedRenderer, use_stages

if TYPE_CHECKING:
    from nerfstudio.viewer.utils import CameraState
    from nerfstudio.viewer.viewer import Viewer

_UP = torch.tensor([0.0, 0.0, 1.0])  # nerfstudio turns every data set so


class PhotoRenderer(StagedRenderer):
    """nerfstudio's pictures of the model, in stages of our sizes."""

    def _calculate_image_res(self, aspect_ratio: float) -> tuple[int, int]:
        return self.size

    def draw(self, _: StagedRenderer, camera: CameraState, height: int, width: int) -> None:
        """Render and send one stage."""
        self.size = (height, width)
        outputs = self._render_img(camera)
        self.stop_if_outdated()
        self._send_output_to_viewer(with_sensible_depth(outputs), static_render=height > 200)
        self.has_picture = True


class PhotoViewerControl(ViewerControl):
    """What nerfstudio's viewer shows of a radiance field, and beside it the surface if there is one.

    Args:
        field: the surface; None for methods without.
    """

    def __init__(self, field: ShownField | None) -> None:
        serve_offline()
        self.field = field
        self.shown_in: Viewer | None = None
        self.session: Session | None = None
        self._resolution = ""
        self._cameras_drawn = False

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        warn_if_open(viewer)
        self.shown_in = viewer
        gui, server = viewer.viser_server.gui, viewer.viser_server
        gui.configure_theme(
            control_layout="collapsible", dark_mode=True, show_logo=False, show_share_button=False,
            brand_color=(255, 211, 105),
        )  # fmt: skip
        gui.set_panel_label("SASNet")
        panel = viewer.control_panel
        panel._crop_handle.visible = False
        offer = panel.update_output_options
        panel.update_output_options = lambda names: offer(shown_outputs(names))  # type: ignore
        server.scene.set_up_direction(tuple(_UP.tolist()))
        if self.field is not None:
            self._add_surface(viewer, self.field)
        use_stages(viewer, self._machine, self._first_view)
        viewer.make_stats_markdown = self._stats  # type: ignore
        viewer.update_scene = self._update_scene  # type: ignore[method-assign]
        viewer.training_complete = self._training_complete  # type: ignore[method-assign]
        if viewer.trainer is None:
            self._without_training()
        if self.session is not None:
            self.session.start()

    def _add_surface(self, viewer: Viewer, field: ShownField) -> None:
        field.take_snapshot()
        low, high = field.bounds
        front = torch.tensor([0.0, -1.0, 0.0])
        cameras = CameraMan(_UP, front, (low + high) / 2, float((high - low).max()), VISER_SCALE)
        session = self.session = Session(
            viewer, field, ViewSettings(draw="rays", plane_normal=(0.0, -1.0, 0.0)), None, final_resolution=160
        )
        group = _tab_group(viewer)
        with group.add_tab("Surface"):
            self.panel = Panel(
                viewer.viser_server, session, cameras, None, lambda: run_history(viewer), "surface",
                rays="volume rendering",
            )  # fmt: skip
        session.on_status = self._tell

    def _tell(self) -> None:
        assert self.shown_in is not None
        text = self._stats()
        if text != self.shown_in.stats_markdown.content:
            self.shown_in.stats_markdown.content = text
        self.panel.refresh()

    def _stats(self, step: int | None = None, resolution: str | None = None) -> str:
        """In place of nerfstudio's, which reads the old step back from the page: the run's state and the size."""
        assert self.shown_in is not None
        self._resolution = resolution or self._resolution
        status = self.session.status if self.session is not None else Status(step=self.shown_in.step)
        drawn_here = self.session is None or self.session.settings.draw == "rays"
        size = f"  \n{self._resolution}" if drawn_here and self._resolution else ""
        return tell_state(self.shown_in, status) + size

    def _machine(self, client: Any) -> StagedRenderer:
        assert self.shown_in is not None
        viewer = self.shown_in

        def training() -> bool:
            return viewer.trainer is not None and viewer.trainer.training_state == "training"

        machine = PhotoRenderer(viewer, client, lambda *stage: machine.draw(*stage), VISER_SCALE, training)
        session = self.session
        if session is not None:
            machine.enabled = lambda: self._drawn_here(machine, client)
        return machine

    def _drawn_here(self, machine: StagedRenderer, client: Any) -> bool:
        """Whether pictures are made here; where the browser draws, the last one is taken away."""
        assert self.session is not None
        if self.session.settings.draw == "rays":
            return True
        if machine.has_picture:
            import numpy as np

            machine.has_picture = False
            client.scene.set_background_image(np.full((4, 4, 3), 30, dtype=np.uint8), format="png")
        return False

    def _first_view(self, client: Any) -> None:
        """Stand where the first photograph was taken and see about as much as it does."""
        assert self.shown_in is not None
        import viser.transforms as vtf

        dataset = self.shown_in.pipeline.datamanager.train_dataset
        if dataset is None:
            return
        pose = dataset.cameras[0].camera_to_worlds.cpu().double().numpy().reshape(3, 4)
        turn = vtf.SO3.from_matrix(pose[:, :3]) @ vtf.SO3.from_x_radians(torch.pi)
        with client.atomic():
            client.camera.position = pose[:, 3] * VISER_SCALE
            client.camera.wxyz = turn.wxyz
            client.camera.fov = fov_like(dataset.cameras[0], client.camera.aspect)

    def _hide_cameras(self, viewer: Viewer) -> None:
        """Once nerfstudio has drawn them: whoever stands where one was would look at the back of its photograph."""
        if self._cameras_drawn or not getattr(viewer, "camera_handles", None):
            return
        self._cameras_drawn = True
        viewer.set_camera_visibility(False)
        viewer.toggle_cameravis_button()

    def _update_scene(self, step: int, num_rays_per_batch: int | None = None) -> None:
        """In place of nerfstudio's: true steps, and pictures by the clock instead of by estimates from small ones."""
        viewer = self.shown_in
        assert viewer is not None
        viewer.step = step
        self._hide_cameras(viewer)
        if self.session is not None:
            self.session.at_step(step)
        for client_id, client in viewer.viser_server.get_clients().items():
            machine = viewer.render_statemachines.get(client_id)
            if machine is not None:
                machine.action(RenderAction("step", viewer.get_camera_state(client)))
        if self.session is None and (step % 10 == 0 or viewer.trainer is None):
            viewer.stats_markdown.content = self._stats()

    def _training_complete(self) -> None:
        viewer = self.shown_in
        assert viewer is not None
        self._without_training()
        viewer.stats_markdown.content = self._stats()
        viewer._trigger_rerender()

    def _without_training(self) -> None:
        """Take the controls of training away."""
        viewer = self.shown_in
        assert viewer is not None
        viewer.pause_train.visible = viewer.resume_train.visible = False
        for element in (viewer.control_panel._train_speed, viewer.control_panel._train_util):
            element.set_hidden(True)


def fov_like(camera: Any, aspect: float) -> float:
    """Vertical field of view, radians, at which a canvas of this aspect shows as much as the photograph does."""
    across = float(camera.width.flatten()[0]) / (2 * float(camera.fx.flatten()[0]))
    upright = float(camera.height.flatten()[0]) / (2 * float(camera.fy.flatten()[0]))
    return 2 * math.atan(math.sqrt(upright * across / aspect))


def shown_outputs(names: list[str]) -> list[str]:
    """What the list of pictures offers: no depth buffers, no raw vectors beside the same as colours."""
    raw = {"gl_z_buf_depth", *({"normal"} if "normals" in names else ())}
    return [name for name in names if name not in raw]


def with_sensible_depth(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pictures whose depth ends where the farthest thing is: what a ray misses would flatten all the rest."""
    depth, coverage = outputs.get("depth"), outputs.get("accumulation")
    if depth is None or coverage is None or depth.shape != coverage.shape:
        return outputs
    hit = coverage > 0.5
    if not bool(hit.any()):
        return outputs
    farthest = torch.quantile(depth[hit].float()[:: max(1, int(hit.sum()) // 100_000)], 0.99)
    return {**outputs, "depth": depth.clamp(max=float(farthest))}


def _tab_group(viewer: Viewer) -> Any:
    """nerfstudio's own group of tabs, or a new one."""
    for handle in viewer.viser_server.gui._container_handle_from_id.values():
        parent = getattr(handle, "_parent", None)
        if hasattr(parent, "add_tab"):
            return parent
    return viewer.viser_server.gui.add_tab_group()
