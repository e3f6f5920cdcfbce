"""What a benchmark prints and writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from sdf_tools.io.writing import write_json

T = TypeVar("T")


def best_time(work: Callable[[], T], repeats: int = 3, enough: float = math.inf) -> tuple[float, T]:
    """Seconds of the fastest of a few calls, and the last answer; no further call after ``enough`` seconds in all."""
    times: list[float] = []
    while True:
        started = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - started)
        if len(times) == repeats or sum(times) > enough:
            return min(times), answer


def print_table(title: str, words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table: columns of words to the left, of numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*words, title=title or None, title_justify="left")
    for name in numbers:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=200).print(table)


def print_machine(machine: dict[str, float], product: str) -> None:
    """What ``benchmarks.kernels.measure_machine`` found."""
    rate, copy = machine["gemm_gflop_per_s"], machine["copy_gb_per_s"]
    print(f"{machine['threads']:.0f} threads; torch.mm {product}: {rate:.0f} GFLOP/s; copy {copy:.1f} GB/s")


def write_rows(path: Path | None, rows: Sequence[Any], machine: dict[str, float] | None = None) -> None:
    """The rows, which are dataclasses, as JSON, where a path was given."""
    if path is not None:
        found = [asdict(row) for row in rows]
        write_json(path, found if machine is None else {"machine": machine, "rows": found})
