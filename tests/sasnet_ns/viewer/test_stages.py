"""Stages of ray-traced pictures, and a page that fetches nothing from the web."""

from __future__ import annotations

import functools
import re
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nerfstudio")
from nerfstudio.viewer.render_state_machine import RenderAction
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

from sasnet_ns.viewer.offline_client import MENDED, client_folder, serve_offline, without_analytics
from sasnet_ns.viewer.stages import STAGES, StagedRenderer


def _machine(show: Any, training: bool = False) -> StagedRenderer:
    viewer: Any = SimpleNamespace(ready=True, get_camera_state=lambda _: SimpleNamespace(aspect=1.0))
    return StagedRenderer(viewer, None, show, 10.0, lambda: training)


def _wait(condition: Any, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def _move(machine: StagedRenderer) -> None:
    machine.action(RenderAction("move", None))  # type: ignore[arg-type]


def test_pictures_sharpen_to_the_last_stage_and_then_rest() -> None:
    drawn: list[int] = []
    machine = _machine(lambda _machine, _camera, height, _width: drawn.append(height))
    machine._seconds_per_ray = 1e-4  # only the smallest is quick enough
    _move(machine)
    machine.start()
    try:
        assert _wait(lambda: drawn == list(STAGES))
        time.sleep(0.5)
        assert drawn == list(STAGES)
    finally:
        machine.running = False


def test_a_machine_that_draws_nothing_waits() -> None:
    machine, asked = _machine(lambda *_: None), []

    def enabled() -> bool:
        asked.append(time.monotonic())
        return False

    machine.enabled = enabled
    machine.start()
    try:
        _move(machine)
        time.sleep(0.9)
        assert 2 <= len(asked) <= 10  # not thousands: while the browser draws, this thread has nothing to do
    finally:
        machine.running = False


def test_a_move_drops_the_work_and_starts_small() -> None:
    drawn: list[int] = []
    inside = threading.Event()

    def show(machine: StagedRenderer, _: Any, height: int, _width: int) -> None:
        drawn.append(height)
        machine._seconds_per_ray = 1e-4
        if len(drawn) == 3:
            inside.set()
            while True:  # a picture that would take for ever
                machine.stop_if_outdated()
                time.sleep(0.005)
        time.sleep(1e-4 * height)

    machine = _machine(show)
    machine._seconds_per_ray = 1e-4
    _move(machine)
    machine.start()
    try:
        assert inside.wait(5)
        began = time.monotonic()
        _move(machine)
        assert _wait(lambda: len(drawn) >= 4)
        assert time.monotonic() - began < 1.0
        assert drawn[3] < drawn[2]
    finally:
        machine.running = False


def test_interruptible_stops_inside_plain_python() -> None:
    machine = _machine(lambda *_: None)
    machine._working_on, machine._wanted = 1, 2
    with pytest.raises(IOChangeException), machine.interruptible():
        sum(_count(10))


def test_libraries_and_kernels_are_not_stopped_halfway() -> None:
    """A compilation that ends in the middle would make every later picture fail."""
    import ast

    import sasnet_ns.kernels.step_form as kernel

    machine = _machine(lambda *_: None)
    machine._working_on, machine._wanted = 1, 2
    own_line = types.FunctionType(_count.__code__, {"__name__": "sasnet_ns.models.sdf_model", "range": range})
    in_a_kernel = types.FunctionType(_count.__code__, {"__name__": kernel.__name__, "range": range})
    in_a_library = functools.partial(ast.literal_eval, "[1, {2: 3}]")
    with SetTrace(machine.check_interrupt):
        values = in_a_library(), in_a_kernel(3)
    assert values == ([1, {2: 3}], [0, 1, 2])
    with pytest.raises(IOChangeException), machine.interruptible():
        own_line(3)


def test_the_smallest_picture_is_finished_though_the_camera_moves_on() -> None:
    drawn: list[int] = []

    def show(machine: StagedRenderer, _: Any, height: int, _width: int) -> None:
        for _step in range(20):
            _move(machine)  # somebody drags, faster than this machine draws
            machine.stop_if_outdated()
            time.sleep(0.01)
        drawn.append(height)

    machine = _machine(show)
    machine._seconds_per_ray = 1e-4
    _move(machine)
    machine.start()
    try:
        assert _wait(lambda: len(drawn) >= 2) and set(drawn) == {STAGES[0]}
    finally:
        machine.running = False


def test_a_picture_that_proved_too_dear_is_not_the_first_one_again() -> None:
    begun: list[int] = []

    def show(machine: StagedRenderer, _: Any, height: int, _width: int) -> None:
        begun.append(height)
        if len(begun) == 1:
            time.sleep(0.2)  # another quantity is shown, and costs more than the one before
            machine._wanted += 1
            machine.stop_if_outdated()

    machine = _machine(show)
    machine._seconds_per_ray = 1e-9
    _move(machine)
    machine.start()
    try:
        assert _wait(lambda: len(begun) >= 2)
        assert begun[0] == STAGES[-1] and begun[1] < STAGES[-1]
    finally:
        machine.running = False


def _count(n: int) -> list[int]:
    out = []
    for k in range(n):
        out.append(k)
    return out


def test_heights_by_speed() -> None:
    machine = _machine(lambda *_: None)
    machine._seconds_per_ray = 1e-7
    assert machine.heights(1.3, True) == [STAGES[-1]]
    machine._seconds_per_ray = 1e-3
    assert machine.heights(1.3, True) == list(STAGES)
    training = _machine(lambda *_: None, training=True)
    training._seconds_per_ray = 5e-6
    assert training.heights(1.0, True) == [128, 512]
    assert training.heights(1.0, False) == [128]
    training._seconds_per_ray = 1e-3
    assert training.heights(1.0, True) == [38]  # 128 would hold up training for sixteen seconds


def test_steps_do_not_ask_for_more_than_the_share() -> None:
    drawn: list[int] = []

    def show(_machine: Any, _camera: Any, height: int, _width: int) -> None:
        time.sleep(0.2)
        drawn.append(height)

    machine = _machine(show, training=True)
    machine.start()
    try:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            machine.action(RenderAction("step", None))  # type: ignore[arg-type]
            time.sleep(0.01)
        assert 1 <= len(drawn) <= 2  # 0.2 s of work, then more than a second of rest
    finally:
        machine.running = False


def test_the_page_loads_nothing_from_the_web() -> None:
    import viser

    serve_offline()
    serve_offline()  # twice is once
    page = (client_folder() / "index.html").read_text()
    assert "googletagmanager" not in page and "gtag" not in page
    assert not re.search(r'(?:src|href)="https?:', page)
    assert '<script src="/software_browser.js">' in page and (client_folder() / "software_browser.js").exists()
    ours, theirs = client_folder() / "assets", Path(viser.__file__).parent / "client" / "build" / "assets"
    assert {file.name for file in ours.iterdir()} == {file.name for file in theirs.iterdir()}
    changed = [file.name for file in ours.glob("*.js") if file.read_text() != (theirs / file.name).read_text()]
    assert len(changed) == 1 and changed[0].startswith("index-")
    program = (theirs / changed[0]).read_text()
    assert [len(pattern.findall(program)) for pattern, _ in MENDED] == [1, 2, 1, 1]
    text = "<head><script>let a = 1</script><script async src='https://www.googletagmanager.com/x'></script></head>"
    assert without_analytics(text) == "<head><script>let a = 1</script></head>"


def test_viser_serves_the_cleaned_page() -> None:
    import urllib.request

    import viser

    serve_offline()
    server = viser.ViserServer(host="127.0.0.1", port=18761, verbose=False)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}/", timeout=10) as answer:
            page = answer.read().decode()
    finally:
        server.stop()
    assert '<div id="root">' in page and "googletagmanager" not in page
