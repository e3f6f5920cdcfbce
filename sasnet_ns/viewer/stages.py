"""Ray-traced pictures in stages: a small one at once, sharper ones while nobody moves."""

from __future__ import annotations

import contextlib
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

if TYPE_CHECKING:
    from nerfstudio.viewer.utils import CameraState
    from nerfstudio.viewer.viewer import Viewer

STAGES = (38, 128, 512, 960)
"""Heights of the pictures in pixels; the last one is the largest canvas that is filled."""
FIRST_WITHIN = 0.12
"""Seconds in which the first picture after a move has to be there."""

LONGEST_IN_TRAINING = 2.0
"""Seconds that a picture may take while a run trains, even if somebody waits for it."""

_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_OURS = {"nerfstudio", "sasnet_ns", "sdf_tools"}
"""Packages that are interrupted wherever they are installed."""


class StagedRenderer(RenderStateMachine):
    """One browser's pictures, in place of nerfstudio's renderer.

    nerfstudio makes one picture of at least 30 rows and then the final one, and estimates the interval between two of
    them from the small one's rays a second. Here each stage is timed by itself, all but the smallest are
    dropped as soon as something changes, and while a run trains a new picture costs no more than its share.

    Args:
        viewer: nerfstudio's.
        client: the browser.
        show: makes and sends a picture of (camera, height, width), None to leave the canvas alone; calls
            ``check_interrupt`` or is traced.
        scale: viser units per scene unit.
        share: of the time that pictures may take while training goes on.
        training: whether it does.
    """

    def __init__(
        self,
        viewer: Viewer,
        client: Any,
        show: Callable[[StagedRenderer, CameraState, int, int], None],
        scale: float,
        training: Callable[[], bool],
        share: float = 0.15,
    ) -> None:
        super().__init__(viewer, scale, client)
        self._show, self._training, self._share = show, training, share
        self._wanted = 0
        self._changed = threading.Event()
        self._moved = True
        self._idle_until = 0.0
        self._seconds_per_ray = 2e-5
        self._running_since = 0.0
        self._working_on = -1
        self._must_finish = False
        self.enabled: Callable[[], bool] = lambda: True
        self.has_picture = False
        self.stage_times: list[tuple[int, float, float]] = []
        """(height, seconds, when it was sent) of the last pictures, for measurements."""

    def action(self, action: RenderAction) -> None:
        """nerfstudio's messages: a camera or a control moved, or training made a step."""
        if action.action == "static":
            return
        if action.action == "step" and (self._running_since or time.monotonic() < self._idle_until):
            return
        self._moved = self._moved or action.action != "step"
        self._wanted += 1
        self._changed.set()

    def check_interrupt(self, frame: Any, event: str, argument: Any) -> Any:
        """A trace function that ends the work once something newer is wanted.

        Never on a line of a library or of the kernels: what is being imported or compiled there would stay half done,
        and every later picture would fail.
        """
        if not _may_stop_in(frame):
            return None
        self.stop_if_outdated()
        return self.check_interrupt

    def stop_if_outdated(self) -> None:
        """Raise if the picture in work is not wanted any more, or the browser is gone.

        The smallest is always wanted: where it takes longer than the time between two moves, whoever drags the scene
        would see nothing.
        """
        if not self.running or (self._wanted != self._working_on and not self._must_finish):
            raise IOChangeException

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Every line of Python in here asks whether the picture is still wanted (:meth:`check_interrupt`)."""
        with SetTrace(self.check_interrupt):
            yield

    def run(self) -> None:
        """The thread: wait for a change, then go through the stages."""
        while self.running:
            self._changed.wait(0.2)
            self._changed.clear()  # also where nothing is drawn, or this would go round and round
            if not self.viewer.ready or not self.enabled() or self._wanted == self._working_on:
                continue
            self._working_on = self._wanted
            moved, self._moved = self._moved, False
            self._running_since = started = time.monotonic()
            try:
                self._stages(moved)
            except IOChangeException:
                self._moved = True  # whoever comes next starts from the small picture
            except Exception as error:  # a picture that fails must not end the browser's thread
                CONSOLE.print(f"The viewer could not draw: {type(error).__name__}: {error}")
                time.sleep(1.0)
            finally:
                self._running_since = 0.0
                if self._training():
                    spent = time.monotonic() - started
                    self._idle_until = time.monotonic() + max(1.0 - spent, spent * (1 / self._share - 1))

    def _stages(self, moved: bool) -> None:
        camera = self.viewer.get_camera_state(self.client)
        heights = self.heights(camera.aspect, moved)
        for height in heights:
            self._must_finish = height == STAGES[0]
            self.stop_if_outdated()
            width = max(1, int(height * camera.aspect))
            began = time.perf_counter()
            try:
                self._show(self, camera, height, width)
            except IOChangeException:
                # A stage that proved too dear must not be the first one again.
                self._seconds_per_ray = max(self._seconds_per_ray, (time.perf_counter() - began) / (height * width))
                raise
            seconds = time.perf_counter() - began
            # Small pictures have fixed costs that would make large ones look dearer than they are.
            self._seconds_per_ray = seconds / (height * width)
            self.stage_times = [*self.stage_times[-50:], (height, seconds, time.perf_counter())]

    def heights(self, aspect: float, moved: bool) -> list[int]:
        """Heights of the pictures to make now.

        After a move: the largest stage that is there soon enough, then every sharper one; while training goes on, none
        sharper than 512 or dearer than two seconds. A step of training makes one picture, as large as its share of a
        second allows.
        """
        affordable = [stage for stage in STAGES if stage**2 * aspect * self._seconds_per_ray < FIRST_WITHIN]
        first = affordable[-1] if affordable else STAGES[0]
        if self._training():
            cheap = [s for s in STAGES[:3] if s**2 * aspect * self._seconds_per_ray < LONGEST_IN_TRAINING]
            return [stage for stage in cheap if stage >= first] or [first] if moved else [first]
        return [stage for stage in STAGES if stage >= first]


def _may_stop_in(frame: Any) -> bool:
    name, file = str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename
    if name.startswith(("sasnet_ns.kernels", "nerfstudio.viewer")) or frame.f_code.co_name == "<module>":
        return False
    return name.partition(".")[0] in _OURS or not file.startswith(("<", *_LIBRARIES))


def use_stages(
    viewer: Viewer, make: Callable[[Any], StagedRenderer], connected: Callable[[Any], None] = lambda _: None
) -> None:
    """Replace nerfstudio's renderer of every browser that connects by what ``make(client)`` gives."""

    @viewer.viser_server.on_client_connect
    def _(client: Any) -> None:
        old = viewer.render_statemachines.get(client.client_id)
        if old is not None:
            # Woken without anything to do, it sees that it is to end.
            old.running, old.next_action = False, None
            old.render_trigger.set()
        machine = make(client)
        viewer.render_statemachines[client.client_id] = machine
        connected(client)
        machine.start()
        machine.action(RenderAction("move", viewer.get_camera_state(client)))
