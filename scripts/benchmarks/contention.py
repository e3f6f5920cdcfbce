"""Training, evaluation, extraction and distances beside other busy programs, which the benchmark starts itself.

Rows: 0, 1 and 4 processes that do nothing but count, on top of whatever else the machine does. Columns: as many threads
as there are cores (``OMP_NUM_THREADS``, which is taken as given), one thread, and the number that training chooses by
measuring its steps (:class:`sasnet_ns.training.thread_choice.ThreadChoice`). Wall-clock medians of several short
processes; the last columns are against the same work with nothing beside it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

BUSY = (0, 1, 4)
WORK = {
    "training step, ms": "default network, 2,500 points",
    "evaluation, ms": "100,000 points",
    "extraction, ms": "128^3",
    "distances, ms": "100,000 exact ones",
}


@dataclass
class Row:
    """One kind of work beside a number of busy processes; milliseconds."""

    work: str
    busy: int
    threads: str
    milliseconds: float
    over_quiet: float


def run(json_path: Path | None, quick: bool) -> None:
    """Measure every cell; ``--quick``: one process a cell instead of three."""
    from benchmarks.report import print_table, write_rows

    cores = os.cpu_count() or 1
    modes = {f"{cores} threads": str(cores), "1 thread": "1", "chosen": None}
    rows: list[Row] = []
    quiet: dict[tuple[str, str], float] = {}
    for busy in BUSY:
        found: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
        with busy_processes(busy):
            for _ in range(1 if quick else 3):
                for mode, threads in modes.items():
                    found[mode].append(measure(threads))
        for mode, times in found.items():
            for work in WORK:
                spent = statistics.median(each[work] for each in times)
                quiet.setdefault((mode, work), spent)
                best = min(quiet[(other, work)] for other in modes if (other, work) in quiet)
                rows.append(Row(work, busy, mode, spent, spent / (quiet[(mode, work)] if busy == 0 else best)))
        write_rows(json_path, rows)
    print_table(
        "Beside busy processes",
        ("work", "threads"),
        [f"{busy} busy" for busy in BUSY] + [f"{busy} busy, against the fastest quiet" for busy in BUSY[1:]],
        [
            (
                f"{work} ({WORK[work]})",
                mode,
                *(f"{row.milliseconds:.1f}" for row in cells),
                *(f"{row.over_quiet:.2f}" for row in cells[1:]),
            )
            for work in WORK
            for mode in modes
            for cells in [[row for row in rows if (row.work, row.threads) == (work, mode)]]
        ],
    )


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that keep a core busy each, as far as they get one."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(threads: str | None) -> dict[str, float]:
    """Milliseconds of each kind of work in a process of its own; None for torch's default number of threads."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = threads
    root = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
    output = subprocess.run([sys.executable, __file__], env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def work() -> dict[str, float]:
    """The same in this process."""
    from sasnet_ns.networks import SignedDistanceField
    from sasnet_ns.shapes import prepare_shape
    from sasnet_ns.training import Recipe, SDFObjective
    from sasnet_ns.training.loop import train
    from sasnet_ns.training.objective import SDFStep
    from sdf_tools import extract_mesh
    from sdf_tools.distance import SignedDistance
    from sdf_tools.geometry import Mesh
    from sdf_tools.pools import PoolConfig

    steps, warm = 400, 150
    shape = prepare_shape("armadillo").shape
    assert isinstance(shape, Mesh)
    pool = PoolConfig(pool_size=200_000).build_pool(shape)
    field = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    losses = SDFStep(field, SDFObjective(), steps)
    began: list[float] = []

    def loss_at(step: int) -> Tensor:
        began.append(time.perf_counter())
        terms, _ = losses.losses(pool.batch(2_500, step), step)
        return functools.reduce(torch.add, terms.values())

    train(field.network, Recipe(steps=steps), loss_at, report_every=steps)
    training = (time.perf_counter() - began[warm]) / (steps - warm)
    points = torch.rand(100_000, 3) - 0.5
    distance = SignedDistance(shape)

    def evaluate() -> None:
        with torch.no_grad():
            field(points)

    def timed(job: object) -> float:
        assert callable(job)
        job()
        spent = []
        for _ in range(3):
            started = time.perf_counter()
            job()
            spent.append(time.perf_counter() - started)
        return statistics.median(spent)

    values = (training, timed(evaluate), timed(lambda: extract_mesh(field, 128)), timed(lambda: distance(points)))
    return {name: 1e3 * value for name, value in zip(WORK, values, strict=True)}


if __name__ == "__main__":
    print(json.dumps(work()))
