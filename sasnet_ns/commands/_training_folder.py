"""The folder of a run: one process at a time, and the middle of the run in it until the run is over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sasnet_ns.training.checkpoint import Checkpoint

FILE = "training.pt"
GOES_ON = "interrupted: what was learned so far is written; the same command goes on from here"


@contextlib.contextmanager
def training_in(folder: Path, every_seconds: float) -> Iterator[Checkpoint]:
    """Claim a folder for the length of a ``with`` and give the checkpoint in it.

    Args:
        folder: made if it is missing, and removed again if nothing was written to it.
        every_seconds: between two savings.

    Raises:
        ValueError: another process is training there, or the seconds are negative.
    """
    from sasnet_ns.models.run_lock import claim, release
    from sasnet_ns.training.checkpoint import Checkpoint

    if not every_seconds >= 0:
        raise ValueError(f"--checkpoint-seconds must be 0 or more, not {every_seconds:g}.")
    claim(folder)
    try:
        yield Checkpoint(folder / FILE, every_seconds)
    finally:
        release(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
