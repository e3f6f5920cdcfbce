"""How quick the viewer is, in a real browser: after a move, while orbiting, and what it costs training.

    python scripts/benchmark.py viewer

Needs playwright and chromium. Steps a second with and without a viewer are measured in one run, in turn, so that what
else the machine does falls on both. The browser draws on the same processors where there is no graphics unit: what the
viewer itself takes from training is the processor time of its threads.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as web

_TRAINING = "training"
_COUNT_FRAMES = """seconds => new Promise(done => {
    let frames = 0; const end = performance.now() + 1000 * seconds;
    const tick = () => { frames += 1; performance.now() < end ? requestAnimationFrame(tick) : done(frames / seconds); };
    requestAnimationFrame(tick);
})"""


def run(output: Path | None = None, quick: bool = False) -> None:
    """Measure and print a table.

    Args:
        output: also write the figures to this file as JSON.
        quick: shorter stretches and fewer moves.
    """
    seconds, rounds, moves = (6.0, 2, 3) if quick else (15.0, 3, 7)
    with tempfile.TemporaryDirectory() as folder, web.chromium("viewer") as browser:
        trainer = _start_training("armadillo", Path(folder))
        try:
            rows = {}
            for name, value in _measure(trainer, browser, seconds, rounds, moves):
                print(f"{name:<52} {value:10.3g}", flush=True)
                rows[name] = value
        finally:
            trainer.stop_training = True
            trainer.training_state = "training"
    if output is not None:
        output.write_text(json.dumps(rows, indent=2) + "\n")


def _start_training(data: str, folder: Path) -> Any:
    from sasnet_ns.methods import sasnet_sdf

    config: Any = copy.deepcopy(sasnet_sdf.config)
    config.viewer.websocket_port = web.free_port()
    config.output_dir, config.timestamp, config.vis = folder, "run", "viewer"
    config.max_num_iterations, config.steps_per_save, config.steps_per_geometry_eval = 10**6, 10**9, 0
    config.pipeline.datamanager.data = Path(data)
    config.pipeline.datamanager.pool_size = 200_000
    config.set_experiment_name()
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    threading.Thread(target=trainer.train, name=_TRAINING, daemon=True).start()
    return trainer


def _measure(trainer: Any, browser: Any, seconds: float, rounds: int, moves: int) -> Iterator[tuple[str, float]]:
    address = f"http://127.0.0.1:{trainer.config.viewer.websocket_port}"
    session = trainer.pipeline.model.viewer_control.session
    _wait(lambda: trainer.completed_steps > 200, 300)
    without, with_page, refreshes, costs = [], [], [], []
    for _ in range(rounds):
        without.append(_steps_a_second(trainer, seconds))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(address)
        _wait(lambda: session.status.shown_step > 0, 120)
        count, before, started = len(session.updates), _viewer_seconds(), time.perf_counter()
        with_page.append(_steps_a_second(trainer, seconds))
        costs.append((_viewer_seconds() - before) / (time.perf_counter() - started))
        refreshes.append((len(session.updates) - count) / seconds)
        page.close()
        time.sleep(1.0)
    alone, watched = statistics.median(without), statistics.median(with_page)
    yield "steps a second, no page open", alone
    yield "steps a second, page open", watched
    yield "steps lost to the page, %", 100 * (1 - watched / alone)
    yield "processor time of the viewer's threads, % of a core", 100 * statistics.median(costs)
    yield "pictures of the run a second", statistics.median(refreshes)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(address)
    _wait(lambda: trainer.viewer_state.viser_server.get_clients(), 60)
    page.get_by_role("button", name="Turntable").click()
    yield "frames a second while orbiting, training", page.evaluate(_COUNT_FRAMES, seconds)
    trainer.training_state = "paused"
    _wait(lambda: session.at_rest, 300)
    yield "frames a second while orbiting, at rest", page.evaluate(_COUNT_FRAMES, seconds)
    page.get_by_role("button", name="Turntable").click()
    first, sharp, spent = _after_moves(trainer, session, page, moves)
    yield "ray traced, drag to first picture, ms", 1000 * statistics.median(first)
    yield "ray traced, drag to 512 rows, ms", 1000 * statistics.median(sharp)
    yield "processor time for that, ms", 1000 * statistics.median(spent)


def _after_moves(trainer: Any, session: Any, page: Any, moves: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds from a drag of the mouse to the first picture and to one of 512 rows, and of processors until then."""
    session.update(draw="rays")
    machine = next(iter(trainer.viewer_state.render_statemachines.values()))
    _wait(lambda: machine.stage_times and machine.stage_times[-1][0] >= 512, 300)
    first, sharp, spent = [], [], []
    for index in range(moves):
        page.mouse.move(400, 400)
        page.mouse.down()
        started, before = time.perf_counter(), time.process_time()
        page.mouse.move(400 + (80, -80)[index % 2], 400)
        page.mouse.up()
        _wait(lambda at=started: any(h >= 512 and when > at for h, _, when in machine.stage_times), 300)
        spent.append(time.process_time() - before)
        done = [(height, when) for height, _, when in machine.stage_times if when > started]
        first.append(done[0][1] - started)
        sharp.append(min(when for height, when in done if height >= 512) - started)
    return first, sharp, spent


def _viewer_seconds() -> float:
    """Processor time so far of the threads that neither train nor measure: comparable on a busy machine as well."""
    others = [t for t in threading.enumerate() if t.name != _TRAINING and t is not threading.main_thread()]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(t.ident)) for t in others if t.ident and t.is_alive())


def _steps_a_second(trainer: Any, seconds: float) -> float:
    before, started = trainer.completed_steps, time.perf_counter()
    time.sleep(seconds)
    return (trainer.completed_steps - before) / (time.perf_counter() - started)


def _wait(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("viewer: the viewer did not answer in time; is the machine busy?")
        time.sleep(0.02)
