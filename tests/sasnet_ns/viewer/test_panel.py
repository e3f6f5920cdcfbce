"""The panel's buttons on viser's own server: every click counts, extraction says how it ended, screenshots stop."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("nerfstudio")
import viser
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.viewer.utils import CameraState, get_camera
from viser import _messages

from sasnet_ns.viewer import control as control_module
from sasnet_ns.viewer import extraction_job
from sasnet_ns.viewer.cameras import CameraMan, default_front
from sasnet_ns.viewer.control import ShapeViewerControl
from sasnet_ns.viewer.panel import Panel
from sasnet_ns.viewer.quantities import ViewSettings
from sasnet_ns.viewer.session import VISER_SCALE, Outdated, Session
from sasnet_ns.viewer.shown_field import Frame, ShownField
from sdf_tools.errors import ShapeError
from sdf_tools.io.loading import load

RADIUS = 0.3
UP = torch.tensor([0.0, 1.0, 0.0])


class _Ball(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(RADIUS))

    def forward(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - self.radius


def _ball(frame: Frame) -> ShownField:
    ball = _Ball()
    bounds = torch.tensor([[-0.5] * 3, [0.5] * 3])
    return ShownField(
        lambda: ball, lambda module, points, _: module(points), lambda _, p: 2 * p, lambda m: m, bounds, lambda: frame
    )


class _Client:
    """A browser that remembers what it was sent."""

    def __init__(self) -> None:
        self.files: list[tuple[str, bytes]] = []
        self.notifications: list[tuple[str, str]] = []
        self.camera = SimpleNamespace(position=np.array([16.0, 16.0, 16.0]))

    def send_file_download(self, name: str, content: bytes) -> None:
        self.files.append((name, content))

    def add_notification(self, title: str, body: str, **_: Any) -> None:
        self.notifications.append((title, body))


class _Fixture:
    def __init__(self, server: Any, frame: Frame, picture: Any = None) -> None:
        viewer: Any = SimpleNamespace(trainer=None, viser_server=server, render_statemachines={}, ready=True)
        self.session = Session(viewer, _ball(frame), ViewSettings(), None)
        self.session.at_step(0)
        cameras = CameraMan(UP, default_front(UP), torch.zeros(3), 1.0, VISER_SCALE)
        self.server, self.client = server, _Client()
        server.get_clients = lambda: {0: self.client}
        self.panel = Panel(server, self.session, cameras, None, list, "ball", picture)

    def click(self, handle: Any, value: str) -> None:
        self.server.gui._handle_gui_updates(0, _messages.GuiUpdateMessage(handle._impl.id, {"value": value}))


@pytest.fixture
def server() -> Iterator[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = viser.ViserServer(host="127.0.0.1", port=port, verbose=False)
    yield server
    server.stop()


SAME = Frame(torch.zeros(3, dtype=torch.float64), 1.0)


def test_every_click_on_an_axis_turns_the_plane(server: Any) -> None:
    fixture = _Fixture(server, SAME)
    fixture.click(fixture.panel.axis, "x")  # the group's first, which viser takes for chosen already
    assert fixture.session.settings.plane_normal == (1.0, 0.0, 0.0)
    fixture.client.camera.position = -fixture.client.camera.position
    fixture.click(fixture.panel.axis, "x")  # from the other side
    assert fixture.session.settings.plane_normal[0] == -1.0
    fixture.click(fixture.panel.axis, "y")
    assert fixture.session.settings.plane_normal[1] == -1.0


def test_an_extraction_says_how_it_ended_and_offers_no_other_mesh(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _Fixture(server, SAME).panel.extraction
    job.resolution.value = "64"

    def run() -> str:
        job.start()
        job.wait()
        assert not job.button.disabled and not job.bar.visible
        return str(job.text.content)

    offers = (job.download_button, job.file_type, job.layer_box)
    assert "faces at 64 cells" in run() and all(handle.visible for handle in offers)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(extraction_job, "extract", fails)
    assert run() == "No mesh: RuntimeError: out of memory"
    assert job.mesh is None and not any(handle.visible for handle in offers)
    with pytest.raises(ShapeError, match="extract one first"):
        job.file()


def test_a_mesh_is_sent_in_the_units_and_axes_of_the_data(server: Any, tmp_path: Path) -> None:
    # A frame that turns, scales and shifts: the ball of radius 0.3 around the scene's origin is one of 0.6 elsewhere.
    turn = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
    center = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    for sign in (1, -1):  # -1: left and right are exchanged as well
        world_to_scene = 0.5 * torch.cat([sign * turn, -(sign * turn @ center)[:, None]], dim=1)
        fixture = _Fixture(server, Frame.of(world_to_scene))
        job = fixture.panel.extraction
        job.resolution.value = "64"
        job.start()
        job.wait()
        job._download(fixture.client)
        ((name, content),) = fixture.client.files
        (tmp_path / name).write_bytes(content)
        mesh: Any = load(tmp_path / name)
        away = mesh.vertices - center
        assert float((away.norm(dim=1) - 2 * RADIUS).abs().max()) < 0.01
        corners = away[mesh.faces]
        volume = torch.linalg.det(corners).sum() / 6
        assert float(volume) == pytest.approx(4 / 3 * torch.pi * (2 * RADIUS) ** 3, rel=0.02)  # faces look outwards
        # A click on the ball's top, seen along the scene's z, which is the data's x.
        text = fixture.panel.read_at((0.0, 0.0, 16.0), (0.0, 0.0, -1.0))
        assert text.startswith(f"position {1 + sign * 2 * RADIUS:.5g}, 2, 3")


def test_a_second_click_stops_a_screenshot(server: Any) -> None:
    begun = threading.Event()

    def picture(_client: Any, height: int, stopped: Any) -> np.ndarray:
        if height > 64:
            begun.set()
            while not stopped():
                stopped_in_time.wait(0.01)
            raise Outdated
        return np.zeros((height, 4, 3), dtype=np.uint8)

    stopped_in_time = threading.Event()
    fixture = _Fixture(server, SAME, picture)
    fixture.panel.rows.value = 8192
    taking = threading.Thread(target=fixture.panel._send_screenshot, args=(fixture.client,))
    taking.start()
    assert begun.wait(5)
    fixture.panel._send_screenshot(fixture.client)
    taking.join(5)
    assert not taking.is_alive() and not fixture.client.files
    fixture.panel.rows.value = 64  # and the next one is taken
    fixture.panel._send_screenshot(fixture.client)
    assert [name for name, _ in fixture.client.files] == ["ball.png"]


def test_a_screenshot_that_fails_is_told_in_the_browser_and_the_next_one_is_taken(server: Any) -> None:
    def picture(_client: Any, height: int, _stopped: Any) -> np.ndarray:
        if height > 64:
            raise MemoryError("no room for the picture")
        return np.zeros((height, 4, 3), dtype=np.uint8)

    fixture = _Fixture(server, SAME, picture)
    fixture.panel._send_screenshot(fixture.client)
    assert fixture.client.notifications == [("No screenshot", "MemoryError: no room for the picture")]
    fixture.panel.rows.value = 64
    fixture.panel._send_screenshot(fixture.client)
    assert [name for name, _ in fixture.client.files] == ["ball.png"]


def _control(color: str) -> tuple[ShapeViewerControl, Any]:
    control: Any = ShapeViewerControl(_ball(SAME), "y")
    pose = torch.eye(4)[:3]
    pose[2, 3] = 1.6
    state = CameraState(fov=0.8, aspect=1.5, c2w=pose, camera_type=CameraType.PERSPECTIVE)
    config = SimpleNamespace(image_format="png", jpeg_quality=33)
    server = SimpleNamespace(scene=None, get_clients=dict)
    control.shown_in = SimpleNamespace(
        trainer=None, viser_server=server, render_statemachines={}, get_camera_state=lambda _: state, config=config
    )
    control.session = Session(control.shown_in, control.field, ViewSettings(draw="rays", color=color), None)  # type: ignore[arg-type]
    control.session.at_step(0)
    control.renderer = control_module.SurfaceRenderer(control.field, UP)
    return control, state


@pytest.mark.parametrize("color", ["shaded", "curvature"])
def test_a_screenshot_in_bands_is_the_picture_at_once(color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    control, state = _control(color)
    settings = control.settings
    whole = control._trace(control.renderer, get_camera(state, 60, 90), range(60), settings, 0, None)[0]
    monkeypatch.setattr(control_module, "_RAYS_AT_ONCE", 7 * 90)
    traced: list[int] = []
    picture = control_module.SurfaceRenderer.picture

    def counted(renderer: Any, origins: Tensor, *options: Any) -> Any:
        traced.append(len(origins))
        return picture(renderer, origins, *options)

    monkeypatch.setattr(control_module.SurfaceRenderer, "picture", counted)
    shot = control._screenshot(None, 60, lambda: False)
    assert shot.shape == (60, 90, 3) and shot.dtype == np.uint8
    assert np.abs(shot.astype(int) - whole.astype(int)).max() <= 2
    assert max(traced[color != "shaded" :]) == 7 * 90  # the first is the small picture that a colour bar is from
    with pytest.raises(Outdated):
        control._screenshot(None, 60, lambda: True)


def test_still_pictures_are_sent_as_the_options_say() -> None:
    import contextlib

    control, state = _control("shaded")
    sent: list[dict[str, Any]] = []
    scene = SimpleNamespace(set_background_image=lambda _, **options: sent.append(options))
    machine: Any = SimpleNamespace(
        client=SimpleNamespace(scene=scene), viewer=control.shown_in, interruptible=contextlib.nullcontext
    )
    for height in (38, 200):
        control._show(machine, state, height, height)
    assert [options["format"] for options in sent] == ["jpeg", "png"]
    assert [options["jpeg_quality"] for options in sent] == [60, 33]


def test_an_interrupted_picture_leaves_the_distance_from_the_input() -> None:
    import contextlib

    from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

    control, state = _control("error")

    def interrupt(*_: Any) -> Any:
        raise IOChangeException

    @contextlib.contextmanager
    def interrupted() -> Iterator[None]:
        with SetTrace(interrupt):
            yield

    built: list[int] = []

    def make() -> Any:
        built.append(1)
        return lambda points: points.norm(dim=-1) - RADIUS

    assert control.session is not None
    control.session._make_reference = make
    machine: Any = SimpleNamespace(client=SimpleNamespace(scene=None), interruptible=interrupted)
    for _ in range(2):
        with pytest.raises(IOChangeException):
            control._show(machine, state, 38, 38)
    assert built == [1] and control.session.reference is not None


def test_an_image_of_a_screenshot_opens(server: Any) -> None:
    from PIL import Image

    control, _ = _control("shaded")
    fixture = _Fixture(server, SAME, control._screenshot)
    fixture.panel.rows.value = 64
    fixture.panel._send_screenshot(fixture.client)
    assert Image.open(io.BytesIO(fixture.client.files[0][1])).size == (96, 64)
