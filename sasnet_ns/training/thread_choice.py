"""How many threads a training step takes, chosen by measuring steps: fewer where other programs want the cores."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

TRIED = 16
"""Steps that are timed with each number of threads in question."""
WATCHED = 32
"""Steps between two looks at whether the threads get their processors."""
FEWEST = 4
"""Steps that do for either where they are slow."""
SLOW = 2.0
"""Seconds after which they do."""
RETRIED_AFTER = 5.0
"""Seconds after a choice before the next one."""
BUSY = 0.85
"""Processor time over time and threads below which something else runs on the cores."""
WORTH = 0.95
"""Time of a step, against the present one, that makes a number of threads worth changing to."""


@contextmanager
def threads_kept() -> Iterator[None]:
    """Training happens inside of this, or of a function that it decorates; then torch has the threads it had before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadChoice:
    """Sets torch's number of threads for the process while it trains on a CPU.

    A step ends when its slowest thread does, and torch's idle threads spin while they wait. Where another program has
    one of two cores, two threads take longer than one does alone (docs/speed.md). Processor time tells: once the
    threads get less than they could use, half as many (or twice, up to those at the start) are tried for a few steps
    and the fastest stays. The bits of a compiled step (:class:`sasnet_ns.kernels.FusedStep`) do not depend on it; those
    of autograd's may. Who sets ``OMP_NUM_THREADS`` has chosen: nothing is changed then.

    Args:
        device: that trains; on a GPU nothing is changed either.
        clock: seconds.
        processor_clock: seconds of processor time of all threads of this process.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
        processor_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._processor_clock = clock, processor_clock
        self.threads = torch.get_num_threads()
        fixed = torch.device(device).type != "cpu" or "OMP_NUM_THREADS" in os.environ
        self.most = 1 if fixed else self.threads
        self._waiting: list[int] = []
        self._means: dict[int, float] = {}
        self._times: list[float] = []
        self._last = self._began = clock()
        self._chosen_at = 0.0
        self._processor_began = processor_clock()

    def after_step(self) -> None:
        """To be called after every step."""
        if self.most == 1:
            return
        now = self._clock()
        self._times.append(now - self._last)
        self._last = now
        if self._means or self._waiting:
            if self._seen(TRIED):
                self._end_trial(now)
        elif self._seen(WATCHED):
            spent = self._processor_clock() - self._processor_began
            crowded = spent < BUSY * self.threads * (now - self._began)
            # After a choice both wait for a while: what a crowd leaves does not change from step to step.
            due = now > self._chosen_at + RETRIED_AFTER or not self._chosen_at
            if due and ((crowded and self.threads > 1) or self.threads < self.most):
                neighbours = (2 * self.threads, self.threads // 2)
                self._waiting = [self.threads, *(n for n in neighbours if 1 <= n <= self.most)]
                self._take(self._waiting.pop(0))
            self._restart(now)

    def _seen(self, steps: int) -> bool:
        return len(self._times) >= steps or (len(self._times) >= FEWEST and sum(self._times) >= SLOW)

    def _end_trial(self, now: float) -> None:
        # The first steps with other threads still wake them up. The mean: on crowded cores a few steps take most of the
        # time, which a median does not see.
        self._means[self.threads] = statistics.fmean(self._times[2:])
        if self._waiting:
            self._take(self._waiting.pop(0))
        else:
            present = next(iter(self._means))
            best = min(self._means, key=lambda threads: self._means[threads])
            worth = self._means[best] < WORTH * self._means[present]
            self._take(best if worth else present)
            self._means, self._chosen_at = {}, now
        self._restart(now)

    def _take(self, threads: int) -> None:
        self.threads = threads
        torch.set_num_threads(threads)

    def _restart(self, now: float) -> None:
        self._times = []
        self._began, self._processor_began = now, self._processor_clock()
