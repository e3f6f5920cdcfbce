"""What every section gets, and what it yields."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

Row = dict[str, Any]
"""One line of a table: ``name`` first, then its columns; ``ok`` where something was compared."""


def largest(differences: Iterable[float]) -> float:
    """The largest; NaN if one is: ``max`` may pass it over, and what a kernel left unwritten would count as right."""
    found = list(differences)
    return math.nan if any(math.isnan(value) for value in found) else max(found)


@dataclass
class Context:
    """Where and how large.

    Attributes:
        device: to run on.
        tiny: sizes that Triton's interpreter takes seconds for, whose timings say nothing.
    """

    device: torch.device
    tiny: bool

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU, whose work is timed until it is done."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Wall-clock seconds of one call, the device's share included."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started
