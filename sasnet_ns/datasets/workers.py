"""Processes that stay warm: each fits one shape after the other, and none can harm its neighbours.

A worker is sent a group of shapes at a time through a pipe and answers with their rows. The master watches the clock
and the memory of each; a worker that is over a limit is killed, one that dies is replaced, and both leave a row. Where
that happens with several shapes, nobody knows which is to blame: each is done again as a group of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from sasnet_ns.datasets.listing import Entry
from sasnet_ns.datasets.rows import Row, Status

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from sasnet_ns.datasets.one import FitOptions

Fit = Callable[[Entry, "FitOptions"], Row]
"""What a worker does with a shape; importable by name, as processes are spawned."""

FitTogether = Callable[[list[Entry], "FitOptions"], Iterator[Row]]
"""What a worker does with a group of shapes that have the same options: a row a shape, in any order."""

_ATTEMPTS = 3
"""Deaths of a worker by no fault that can be seen (a signal from outside, a crash) until they are the shape's row."""
_TICK = 0.1  # seconds between two looks at clocks and memory


def fit_entry(entry: Entry, options: FitOptions) -> Row:
    """:func:`fit_one` for an entry of a list; wrong options of the entry become its row."""
    from sasnet_ns.datasets.one import fit_one, one_line

    try:
        own = options.with_overrides(entry.overrides, entry.where)
    except ValueError as error:
        row = _row_without_opening(entry, options)
        row.error = one_line(str(error))
        return row
    return fit_one(entry.file, own, entry.path)


def fit_entries(entries: list[Entry], options: FitOptions) -> Iterator[Row]:
    """:func:`fit_together` for entries of a list with the same options."""
    from sasnet_ns.datasets.one import fit_together

    try:
        own = options.with_overrides(entries[0].overrides, entries[0].where)
    except ValueError:
        yield from (fit_entry(entry, options) for entry in entries)
        return
    yield from fit_together([(entry.file, entry.path) for entry in entries], own)


def configuration_of(entry: Entry, options: FitOptions) -> str:
    """The configuration hash of an entry's row; for options that cannot be used, those options as text."""
    try:
        return options.with_overrides(entry.overrides, entry.where).configuration_hash()
    except ValueError:
        return f"invalid: {sorted(entry.overrides.items())}"


@dataclass(frozen=True)
class Limits:
    """What a shape may take.

    Attributes:
        seconds: wall clock; for a group of shapes that many times, from row to row; 0 for no limit.
        memory: resident bytes of the worker's process, about 0.5 GB of libraries included; 0 for no limit.

    Raises:
        ValueError: one is negative.
    """

    seconds: float = 0.0
    memory: float = 0.0

    def __post_init__(self) -> None:
        if not (self.seconds >= 0 and self.memory >= 0):
            raise ValueError(f"limits of time and memory must be 0 or more, not {self.seconds:g} and {self.memory:g}.")


def fit_in_workers(
    groups: Iterator[list[Entry]],
    options: FitOptions,
    workers: int,
    limits: Limits,
    log: Path,
    fit: Fit = fit_entry,
    together: FitTogether | None = None,
    threads: int | None = None,
) -> Iterator[Row]:
    """Rows of shapes as they are finished, in no order.

    Args:
        groups: of shapes (:func:`grouped`), taken as workers become free.
        options: of every shape.
        workers: processes; the machine's cores are shared out among them.
        limits: see :class:`Limits`.
        log: folder of what workers print, ``worker-N.log``.
        fit: what to do with a shape.
        together: what to do with a group; None does one shape after the other.
        threads: of each worker; None shares out the cores.

    Raises:
        RuntimeError: workers do not start.
    """
    log.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = threads or max(1, cores // workers)
    pool = [_Worker(log / f"worker-{number}.log", options, threads, fit, together) for number in range(workers)]
    exhausted = False
    again: list[list[Entry]] = []
    try:
        while True:
            for worker in pool:
                if worker.ready and not worker.entries:
                    group = again.pop() if again else None if exhausted else next(groups, None)
                    if group is None:
                        exhausted = True
                    else:
                        worker.send(group)
            if exhausted and not again and not any(worker.entries for worker in pool):
                return
            wait([worker.pipe for worker in pool], timeout=_TICK)
            for worker in pool:
                row = worker.poll(limits)
                if row is not None:
                    yield row
                again += [[entry] for entry in worker.parted]
                worker.parted = []
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process and what it is doing, as the master sees it."""

    process: SpawnProcess
    pipe: Connection

    def __init__(
        self, log: Path, options: FitOptions, threads: int, fit: Fit, together: FitTogether | None = None
    ) -> None:
        self.arguments = (log, options, threads, fit, together)
        self.entries: list[Entry] = []
        """Without a row yet."""
        self.parted: list[Entry] = []
        """Of a group that was given up; for the master to give out again."""
        self.attempts = self.failed_starts = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.ready, self.served, self.since = False, 0, 0.0

    def send(self, entries: list[Entry]) -> None:
        """Give it shapes; a worker that has just died notices at the next :meth:`poll`."""
        self.entries, self.since = list(entries), time.monotonic()
        try:
            self.pipe.send(self.entries)
        except OSError:
            self.process.kill()

    def poll(self, limits: Limits) -> Row | None:
        """The row that it has finished, or that its limits or its death make; None while there is none."""
        try:
            if self.pipe.poll():
                return self._received(self.pipe.recv())
        except (EOFError, OSError):
            return self._died()
        if not self.process.is_alive() and not self.pipe.poll():
            return self._died()
        if not self.entries or not self.ready:
            return None
        if limits.seconds and time.monotonic() - self.since > limits.seconds * len(self.entries):
            return self._over("timeout", f"took longer than {limits.seconds:g} s (--time-limit).")
        if limits.memory and (used := resident_bytes(self.process.pid)) > limits.memory:
            if self.served:  # what earlier shapes left behind may be to blame: once more in a fresh process
                self._restart()
                return None
            text = f"took {used / 1e9:.2f} GB, more than {limits.memory / 1e9:.2f} GB (--memory-limit)."
            return self._over("memory", text)
        return None

    def _received(self, message: Row | None) -> Row | None:
        if message is None:
            self.ready, self.failed_starts = True, 0
            if self.entries:
                self.send(self.entries)
            return None
        self.entries = [entry for entry in self.entries if entry.path != message.path]
        self.attempts, self.since = 0, time.monotonic()
        self.served += 1
        return message

    def _died(self) -> Row | None:
        self.process.join()
        code = self.process.exitcode or 0
        if not self.ready:
            self.failed_starts += 1
            if self.failed_starts >= _ATTEMPTS:
                raise RuntimeError(f"worker processes do not start (exit code {code}); see {self.arguments[0]}.")
            self._restart()
            return None
        self.attempts += 1
        if not self.entries or (self.attempts < _ATTEMPTS and len(self.entries) == 1):
            self._restart()
            return None
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return self._over("crashed", f"its process died {self.attempts} times, last with {how}.")

    def _restart(self) -> None:
        """A fresh process; the shapes that the old one had go to it as soon as it is ready."""
        self.kill()
        self._start()

    def _over(self, status: Status, text: str) -> Row | None:
        entries, self.entries, self.attempts = self.entries, [], 0
        self._restart()
        if len(entries) > 1:
            self.parted = entries
            return None
        (entry,) = entries
        row = _row_without_opening(entry, self.arguments[1])
        row.status, row.error = status, f"'{Path(entry.path).name}' {text}"
        return row

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def stop(self) -> None:
        """End the process: nothing that matters is in it while it has no shape."""
        self.kill()


def _row_without_opening(entry: Entry, options: FitOptions) -> Row:
    """What can be known of a shape without opening its file."""
    row = Row(entry.path, configuration_hash=configuration_of(entry, options))
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(entry.file)
        row.input_bytes, row.input_mtime_ns = status.st_size, status.st_mtime_ns
    return row


def resident_bytes(process: int | None) -> float:
    """Resident memory of a process; 0 where it cannot be known (gone, or a system without /proc and psutil)."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return float(pages * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil

        return float(psutil.Process(process).memory_info().rss)
    except Exception:  # not installed, or the process is gone
        return 0.0


def _work(
    pipe: Connection, log: Path, options: FitOptions, threads: int, fit: Fit, together: FitTogether | None
) -> None:
    """A worker's life: ready, then one group of shapes after the other, until the master is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the master decides
    _die_with_master()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    import faulthandler

    faulthandler.enable(sys.__stderr__ or sys.stderr)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)))
    if fit is fit_entry:
        _warm_up(threads)
    pipe.send(None)
    while True:
        try:
            entries: list[Entry] = pipe.recv()
        except EOFError:
            return
        rows = (fit(entry, options) for entry in entries) if together is None else together(entries, options)
        for row in rows:
            pipe.send(row)


def _die_with_master() -> None:
    """End this process as soon as the one that started it is gone, in the middle of a shape too."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _warm_up(threads: int) -> None:
    """Import what a fit needs, so that the first shape's clock does not run for it."""
    import torch

    torch.set_num_threads(threads)
    import sdf_tools.metrics  # noqa: F401
