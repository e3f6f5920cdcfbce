"""The middle of a run on disk: what a training loop needs to go on to the same bits after any end of its process."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sasnet_ns.networks.weights import read_weights, save_weights
from sasnet_ns.training.options import differences
from sdf_tools.io.limits import require_space

_FORMAT = "sasnet-training-1"
_SHARE = 50  # a file that takes a second to write is written every 50 seconds at most: 2 % of the time


@dataclass(frozen=True)
class Checkpoint:
    """Where a training loop keeps its state, and how often.

    Give it to :func:`sasnet_ns.training.loop.train` (or to ``fit_grid``, ``fit_shape``, which fill in ``options``), and
    call :meth:`remove` once the run's results are written. The same call then goes on where the file ends.
    """

    path: Path
    """The file, of weights and plain values only."""
    every_seconds: float = 60.0
    """Seconds between two savings; 0 for every step. A file that is slow to write is written less often."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the run is (plain numbers, words, lists, mappings); another run is refused."""

    def read(self) -> dict[str, Any] | None:
        """What was kept, or None where there is nothing.

        Raises:
            ValueError: the file is damaged, or belongs to a run with other options.
        """
        advice = "or remove the file to begin anew"
        try:
            content = read_weights(self.path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{str(error).removesuffix('.')}; remove it to begin anew.") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"'{self.path}' is not the middle of a run that this version reads; remove it.")
        changed = differences(content["options"], self.options)
        if changed or content["options"] != self.options:
            what = "; ".join(changed[:5]) or "options that one of them does not have"
            raise ValueError(
                f"'{self.path}' is the middle of another run ({what}): repeat its options to go on, give another "
                f"folder, {advice}."
            )
        return content

    def write(self, state: dict[str, Any]) -> None:
        """Keep a state, whole or not at all.

        Raises:
            OSError: the disk is full, or the folder cannot be written; what was kept before stays.
        """
        save_weights(self.path, {"format": _FORMAT, "options": self.options, **state})

    def remove(self) -> None:
        """The run is over, and what it made is written."""
        self.path.unlink(missing_ok=True)

    def require_room(self, parameters: list[torch.nn.Parameter]) -> None:
        """Refuse to begin what could not be kept: weights, two moments, all of it twice, and the file before.

        Raises:
            ShapeError: the disk has less room.
        """
        size = sum(p.numel() * p.element_size() for p in parameters)
        require_space(self.path, 12 * size + (1 << 16), "checkpoints")


class Keeper:
    """Decides when a state is due, and lets Ctrl-C and SIGTERM wait for the end of a step.

    Args:
        checkpoint: where states go; None keeps nothing, and signals stay as they are.
    """

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.checkpoint = checkpoint
        self._signal: int | None = None
        self._next = time.monotonic() + (checkpoint.every_seconds if checkpoint else 0.0)

    def due(self, last: bool) -> bool:
        """Whether the state after this step, perhaps the last one, has to be kept."""
        if self.checkpoint is None:
            return False
        return last or self._signal is not None or time.monotonic() >= self._next

    def keep(self, state: dict[str, Any]) -> None:
        """Write a state; ends the run if a signal asked for that.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM, with the code 143.
            OSError: the disk is full.
        """
        assert self.checkpoint is not None
        began, pause = time.monotonic(), self.checkpoint.every_seconds
        self.checkpoint.write(state)
        now = time.monotonic()
        self._next = now + (max(pause, _SHARE * (now - began)) if pause else 0.0)
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def forget(self) -> None:
        """Remove what is kept."""
        if self.checkpoint is not None:
            self.checkpoint.remove()

    @contextlib.contextmanager
    def signals_wait(self) -> Iterator[None]:
        """For the length of a ``with``: the first signal is kept for :meth:`keep`, a second one ends at once."""
        if self.checkpoint is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: Any) -> None:
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def on_cpu(value: Any) -> Any:
    """A copy of nested plain values whose tensors are on the CPU, in memory of their own."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    return [on_cpu(item) for item in value] if isinstance(value, list | tuple) else value
