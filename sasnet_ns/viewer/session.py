"""One open viewer: the thread that keeps the surface, the slice and the numbers up to date."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from sasnet_ns.viewer import live_surface
from sasnet_ns.viewer.live_surface import Budget, Surface
from sasnet_ns.viewer.quantities import Reference, Scale, ViewSettings
from sasnet_ns.viewer.scene_nodes import SceneNodes
from sasnet_ns.viewer.shown_field import ShownField
from sasnet_ns.viewer.slices import paint_slice, plane_axes
from sdf_tools.errors import ShapeError

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

VISER_SCALE = 10.0
"""nerfstudio shows one scene unit as ten."""
TRAINING_SHARE = 0.1
"""Of one processor's time that the live surface may take while a run trains."""
_REFRESH = 0.75  # seconds between two pictures of a run that trains
_TELL = 1.0  # seconds between two changes of the numbers beside it, in training
_FOLLOW_SECONDS = 0.06  # the dearest refresh during training: more would not fit into its share of a second
_RESOLUTIONS = (48, 64, 96, 128)  # while training
_SLICE_SIZES = (96, 320)


class Outdated(Exception):
    """What is being computed is not wanted any more."""


@dataclass
class Status:
    """What the panel tells about the picture.

    Attributes:
        step: training steps of the weights that are trained, or were.
        shown_step: of those in the picture; -1 before the first.
        message: why there is no surface, or nothing.
        input_trouble: why there is no distance from the input, or nothing.
        vertices: of the live surface.
        resolution: cells along the box of the live surface.
        scale: colour bar of the surface.
        slice_scale: and of the slice.
    """

    step: int = 0
    shown_step: int = -1
    message: str = ""
    input_trouble: str = ""
    vertices: int = 0
    resolution: int = 0
    scale: Scale | None = None
    slice_scale: Scale | None = None


class Session:
    """Keeps the scene in step with the field and the panel, in a thread of its own.

    While a run trains, vertices follow the field about once a second and the surface is extracted anew as often as its
    share of the time allows; a field at rest gets finer and finer extractions.

    Args:
        viewer: nerfstudio's.
        field: what is shown.
        settings: where the panel starts.
        reference: builds the distance from the input; raises ShapeError where there is none. Called in the thread.
        final_resolution: cells along the box of the surface of a field at rest.
    """

    def __init__(
        self,
        viewer: Viewer,
        field: ShownField,
        settings: ViewSettings,
        reference: Callable[[], Reference] | None,
        final_resolution: int = 192,
    ) -> None:
        self.viewer, self.field, self.settings = viewer, field, settings
        self.status = Status()
        self.nodes = SceneNodes(viewer.viser_server.scene, VISER_SCALE)
        self.on_status: Callable[[], None] = lambda: None
        self.updates: list[tuple[str, int, float]] = []
        """(kind, step, when) of the last changes of the picture, for measurements."""
        self._final = final_resolution
        self._make_reference = reference
        self._reference: Reference | None = None
        self._reference_lock, self._settings_lock = threading.Lock(), threading.Lock()
        self._surface: Surface | None = None
        self._surface_settings: tuple[Any, ...] = ()
        self._surface_step = -1
        self._empty: tuple[Any, ...] = ()  # level, bands and step of which there is no surface
        self._drawn: tuple[Any, ...] = ()
        self._slice_drawn: tuple[Any, ...] = ()
        self._budget = Budget(TRAINING_SHARE)
        self._extract_budget = Budget(0.4 * TRAINING_SHARE)
        self._last_update = self._last_told = 0.0
        self._seconds_per_point = 4e-6
        self._wake = threading.Event()
        self._ask, self._given = threading.Event(), threading.Event()
        self._snapshot_lock = threading.Lock()
        self._snapshot_step = -1
        self._stepping = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="sasnet-viewer", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wake.set()

    def update(self, **changes: Any) -> None:
        """Change settings and draw what they say; for any thread, viser calls back on many."""
        with self._settings_lock:
            settings = replace(self.settings, **changes)
            if settings == self.settings:
                return
            self.settings = settings
        self._wake.set()
        for client_id, machine in list(self.viewer.render_statemachines.items()):
            client = self.viewer.viser_server.get_clients().get(client_id)
            if client is not None:
                from nerfstudio.viewer.render_state_machine import RenderAction

                machine.action(RenderAction("rerender", self.viewer.get_camera_state(client)))

    @property
    def training(self) -> bool:
        """Whether weights are changing now; not before the first step, though nerfstudio calls that training too."""
        trainer = self.viewer.trainer
        return trainer is not None and trainer.training_state == "training" and self._stepping

    @property
    def at_rest(self) -> bool:
        """Whether live surface and slice are drawn as the settings say and as fine as they become."""
        settings, step = self.settings, self._snapshot_step
        surface = (step, self._final, settings) if settings.draw == "mesh" else ()
        if self.training or step != self.status.step or self._drawn != surface:
            return False
        return not settings.slice or self._slice_drawn == (_slice_key(settings), step, _SLICE_SIZES[-1])

    @property
    def reference(self) -> Reference | None:
        """Distance from the input, built when it is first asked for; None if it cannot be read.

        Not to be asked for where a trace function may raise: that could leave the lock taken.
        """
        with self._reference_lock:
            if self._make_reference is not None:
                try:
                    self._reference = self._make_reference()
                except (ShapeError, SystemExit) as error:
                    self.status.input_trouble = f"The input cannot be shown: {error}"
                self._make_reference = None  # whatever else is raised leaves it for the next time
            return self._reference

    def at_step(self, step: int) -> None:
        """Called by the training thread between two steps: the only moment at which weights can be copied."""
        self.status.step = step
        self._stepping = self.viewer.trainer is not None
        if self._ask.is_set():
            self._ask.clear()
            self._copy(step)
            self._given.set()

    def _copy(self, step: int) -> None:
        with self._snapshot_lock:
            self.field.take_snapshot()
        self._snapshot_step = step

    def snapshot(self) -> int:
        """Bring the copy of the weights up to date; the step that they are of."""
        if not self.training:
            self._copy(self.status.step)
            return self._snapshot_step
        self._given.clear()
        self._ask.set()
        # A step may take long, and training may end meanwhile.
        while not self._given.wait(0.05):
            if self._stopped:
                raise Outdated
            if not self.training:
                self._copy(self.status.step)
                break
        return self._snapshot_step

    def frozen_field(self) -> tuple[ShownField, int]:
        """The field as it is now, for work that goes on beside the live picture, and the step of its weights."""
        step = self.snapshot()
        with self._snapshot_lock:
            return self.field.frozen(), step

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(0.1)
            self._wake.clear()
            if not self.viewer.ready or not self.viewer.viser_server.get_clients():
                continue
            if self.field.device.type == "cpu":
                # Beside training, more threads than one would make both wait for each other.
                torch.set_num_threads(1 if self.training else max(1, self._threads))
            try:
                self._draw()
            except Outdated:
                self._wake.set()
            except ShapeError as error:
                self.status.message = f"No surface yet ({error})" if self.training else str(error)
                self._last_update = time.monotonic()
                self._budget.spend(0.5)
            except Exception as error:  # drawing must never end with a traceback in the middle of training
                CONSOLE.print(f"The viewer could not draw: {type(error).__name__}: {error}")
                time.sleep(1.0)
            self._tell()

    def _tell(self) -> None:
        if self.training and time.monotonic() < self._last_told + _TELL:
            return
        self._last_told = time.monotonic()
        with contextlib.suppress(Exception):
            self.on_status()

    _threads = torch.get_num_threads()

    def _draw(self) -> None:
        settings, training = self.settings, self.training
        changed = self._surface is None or self._drawn[2:] != (settings,)
        fresh = self.status.step == self.status.shown_step
        if not training:
            self._budget.reset()
            self._extract_budget.reset()
        due = time.monotonic() >= self._last_update + _REFRESH and self._budget.due()
        if (training and not fresh and (due or changed)) or (not training and not fresh):
            self.snapshot()
        step = self._snapshot_step
        if step < 0:
            return
        started = time.thread_time()
        if settings.draw == "mesh":
            self._draw_surface(settings, step, training, due)
        else:
            self.nodes.show_surface(False)
            self._drawn = ()
            self.status.shown_step, self.status.vertices = step, 0
        if training:
            self._budget.spend(min(time.thread_time() - started, _FOLLOW_SECONDS))
        self._draw_slice(settings, step, training)

    def _draw_surface(self, settings: ViewSettings, step: int, training: bool, due: bool) -> None:
        if self._surface is None and not self.status.message:
            self.status.message = "Extracting the first surface (on a new machine kernels are compiled first)"
            self._tell()
        kind = self._new_surface(settings, step, training, due)
        drawn = (self._surface_step, self._surface and self._surface.resolution, settings)
        if self._surface is None or (not kind and drawn == self._drawn):
            return
        shown = self._surface
        if settings.cut:
            shown = live_surface.cut(shown, settings.plane_point, settings.plane_normal)
        wants_reference = settings.color == "error"
        colors, scale = live_surface.colors(self.field, shown, settings, self.reference if wants_reference else None)
        open_ = settings.cut or live_surface.reaches(shown, self.field.bounds)
        self.nodes.send_surface(shown, colors, both_sides=open_)
        self._drawn = drawn
        self._last_update = time.monotonic()
        self.updates = [*self.updates[-200:], (kind or "colours", self._surface_step, time.perf_counter())]
        status = self.status
        status.shown_step, status.scale, status.message = self._surface_step, scale, ""
        status.vertices, status.resolution = len(self._surface.vertices), self._surface.resolution

    def _new_surface(self, settings: ViewSettings, step: int, training: bool, due: bool) -> str:
        """Extract or follow, if the field or the level has changed; says which, or nothing."""
        wanted, old = (settings.level, settings.bands), self._surface
        changed = step != self._surface_step
        if old is None or wanted != self._surface_settings:
            again = self._empty[:1] == (wanted,)
            if again and (self._empty[1] == step or (training and not (due and self._extract_budget.due()))):
                self._drawn = (step, self._final, settings)
                return ""
            try:
                self._extract(settings, self._affordable() if training else _RESOLUTIONS[1], training)
            except ShapeError:
                self._empty, self._surface = (wanted, step), None
                self.nodes.show_surface(False)
                raise
        elif training and not (changed and due):
            return ""
        elif training and not self._extract_budget.due():
            self._surface, self._surface_step = live_surface.follow(self.field, old, settings), step
            return "following"
        elif training:
            self._extract(settings, self._affordable(), training)
        elif changed or old.resolution < self._final:
            finer = (resolution for resolution in (64, 128, self._final) if resolution > old.resolution)
            self._extract(settings, _RESOLUTIONS[1] if changed else next(finer, self._final), training)
            self._wake.set()
        else:
            return ""
        self._surface_settings, self._surface_step = wanted, step
        return "extraction"

    def _affordable(self) -> int:
        """The finest resolution whose vertices can follow the field once a second beside training."""
        # A surface of usual size has two vertices a squared cell, each evaluated once or twice.
        costs = {resolution: self._seconds_per_point * 3.0 * resolution**2 for resolution in _RESOLUTIONS}
        return max([r for r, cost in costs.items() if cost < _FOLLOW_SECONDS], default=_RESOLUTIONS[0])

    def _extract(self, settings: ViewSettings, resolution: int, training: bool) -> None:
        evaluated = 0

        def progress(stage: str, evaluations: int) -> None:
            nonlocal evaluated
            evaluated = evaluations
            # While training, a picture of a moment ago is better than none.
            if not training and (self.settings.level, self.settings.bands) != (settings.level, settings.bands):
                raise Outdated
            if self._stopped:
                raise Outdated

        started = time.thread_time()
        try:
            self._surface = live_surface.extract(self.field, resolution, settings, progress)
        finally:
            seconds = time.thread_time() - started
            if evaluated and self.field.device.type == "cpu":
                self._seconds_per_point = 0.5 * self._seconds_per_point + 0.5 * seconds / evaluated
            if training:
                self._extract_budget.spend(seconds)

    def _draw_slice(self, settings: ViewSettings, step: int, training: bool) -> None:
        if not settings.slice:
            if self._slice_drawn:
                self.nodes.hide_slice()
                self._slice_drawn, self.status.slice_scale = (), None
            return
        axes = plane_axes(settings.plane_normal)
        key = _slice_key(settings)
        for size in _SLICE_SIZES[:1] if training else _SLICE_SIZES:
            if self._slice_drawn == (key, step, size) or (
                self._slice_drawn[:2] == (key, step) and size < self._slice_drawn[2]
            ):
                continue
            if self.settings != settings:
                raise Outdated
            started = time.thread_time()
            with torch.no_grad():
                wants = settings.slice_color == "error"
                picture = paint_slice(self.field, settings, axes, size, self.reference if wants else None)
            self.nodes.send_slice(picture, settings.plane_point, axes)
            self.status.slice_scale = picture.scale
            self._slice_drawn = (key, step, size)
            if training:
                self._budget.spend(time.thread_time() - started)


def _slice_key(settings: ViewSettings) -> tuple[Any, ...]:
    """What a picture of the plane depends on."""
    return (settings.plane_point, settings.plane_normal, settings.slice_color, settings.bands, settings.level,
            settings.mask_layer, settings.mask_group, settings.band)  # fmt: skip


def run_folder(viewer: Viewer) -> Path:
    """Where the run that is shown keeps its files."""
    return viewer.log_filename.parent
