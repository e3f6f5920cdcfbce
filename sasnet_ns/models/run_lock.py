"""One process trains in a folder at a time."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import IO

LOCK = ".lock"
_held: dict[Path, IO[str]] = {}


def claim(folder: Path) -> None:
    """Take a folder for this process until :func:`release` or its end, however that comes.

    The system holds the lock, not the file: what a killed process left says nothing. Does nothing on systems and disks
    without locks.

    Raises:
        ValueError: another process is training there.
    """
    try:
        import fcntl
    except ImportError:
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    if folder in _held:
        return
    while True:
        file = open(folder / LOCK, "a+")  # noqa: SIM115 (held open for as long as the lock)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            file.close()
            raise ValueError(
                f"{owner} is training in '{folder}'; wait for it, or choose another folder (ns-train: another "
                "--timestamp)."
            ) from None
        except OSError:
            file.close()
            return
        # Its owner may have given it back between the two: then the next one locks another file of that name.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                break
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    _held[folder] = file


def release(folder: Path) -> None:
    """Give a folder back; nothing if it was not claimed."""
    folder = folder.resolve()
    file = _held.pop(folder, None)
    if file is not None:
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink()
        file.close()
