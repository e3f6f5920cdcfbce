"""What a file may claim: declared sizes are checked before anything is allocated, and decompression is bounded."""

from __future__ import annotations

import io
import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from sdf_tools.errors import ShapeError

RATIO = 200  # no shape compresses further than this; zeros do, a thousandfold
SMALL = 64 << 20  # bytes that any file may unpack to, whatever its ratio
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def allow_memory(amount: str | None) -> None:
    """Set how much memory one file may ask for in this process and those that it starts; None changes nothing.

    Args:
        amount: as ``SDF_TOOLS_MAX_MEMORY`` takes it.

    Raises:
        ShapeError: no such amount.
    """
    if amount is not None:
        os.environ["SDF_TOOLS_MAX_MEMORY"] = amount
        memory_limit()


def memory_limit() -> int:
    """Bytes that one file may ask for: ``SDF_TOOLS_MAX_MEMORY`` ("4G", "500M"), else half of what is free now.

    Raises:
        ShapeError: the variable is set to something else.
    """
    given = os.environ.get("SDF_TOOLS_MAX_MEMORY", "").strip().upper().removesuffix("B")
    if given:
        unit = given[-1] if given[-1] in "KMGT" else ""
        try:
            amount = float(given.removesuffix(unit)) * _UNITS[unit]
            if not 0 < amount < math.inf:
                raise ValueError
            return int(amount)
        except ValueError:
            raise ShapeError(
                "the memory that a file may take (--max-memory, SDF_TOOLS_MAX_MEMORY) must be a number of bytes such "
                f"as 4G or 500M, not '{given}'."
            ) from None
    try:
        with open("/proc/meminfo") as file:
            free = int(next(line for line in file if line.startswith("MemAvailable")).split()[1]) << 10
    except (OSError, StopIteration, ValueError):
        free = 8 << 30
    return free // 2


def require_memory(needed: int, where: str) -> None:
    """Refuse what would not fit.

    Raises:
        ShapeError: ``needed`` bytes are more than :func:`memory_limit`.
    """
    limit = memory_limit()
    if needed > limit:
        raise ShapeError(
            f"'{where}' needs {size_text(needed)} of memory, more than the {size_text(limit)} it may take; "
            "allow more (--max-memory, SDF_TOOLS_MAX_MEMORY), or give a smaller file."
        )


def require_space(path: Path, needed: int, what: str) -> None:
    """Refuse to begin what could not be written: the disk of ``path`` (which need not exist yet) has to have room.

    Args:
        path: a file or folder to come.
        needed: bytes.
        what: the subject of the sentence, in the plural ("checkpoints").

    Raises:
        ShapeError: fewer bytes are free.
    """
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:  # some network file systems do not say
        return
    if free < needed:
        raise ShapeError(
            f"'{path}': {what} need about {size_text(needed)} of disk space, and {size_text(free)} are free there; "
            "free some, or give another folder."
        )


def size_text(number: float) -> str:
    """A number of bytes as people write it."""
    if number < 1 << 20:
        return f"{number / 2**10:.0f} KiB"
    return f"{number / 2**30:.1f} GiB" if number >= 1 << 30 else f"{number / 2**20:.0f} MiB"


def read_bytes(path: Path, factor: float = 3.0) -> bytes:
    """The content of a plain file, if ``factor`` times its size fits into memory.

    Raises:
        ShapeError: a device, pipe or socket, or too large.
    """
    if not path.is_file():
        raise ShapeError(f"'{path.name}' is not a plain file (a device, a pipe or a socket); give a file.")
    require_memory(int(factor * path.stat().st_size), path.name)
    return path.read_bytes()


def array_from(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """An array in numpy's own format from ``size`` bytes of a stream, whose header is checked against that size.

    Raises:
        ShapeError: damaged, an array of objects, or not as long as its header says.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, fortran, dtype = read(stream)
        if any(not isinstance(n, int) or n < 0 for n in shape) or dtype.hasobject:
            raise ValueError
        count = math.prod(shape)
        if dtype.itemsize * count > size:
            raise ShapeError(f"'{where}' is cut short or damaged: its header promises more values than it holds.")
        require_memory(2 * dtype.itemsize * count, where)
        data = stream.read(dtype.itemsize * count)
        flat = np.frombuffer(bytearray(data), dtype, count) if dtype.itemsize else np.zeros(count, dtype)
        return flat.reshape(shape, order="F" if fortran else "C")
    except ShapeError:
        raise
    except Exception:  # a header is parsed as a Python literal, with whatever that raises
        raise ShapeError(f"'{where}' cannot be read as a numpy array; save it again with numpy.save.") from None


def header_of(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and type that a numpy stream declares, or None if it is no array."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, _, dtype = read(stream)
        return shape, dtype
    except Exception:
        return None


class Archive:
    """The arrays of a .npz file, each unpacked when it is asked for and never beyond what it may take.

    Raises:
        ShapeError: no such archive.
    """

    def __init__(self, path: Path) -> None:
        self.where = path.name
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(read_bytes(path, 1.5)))
            self._members = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}
        except ShapeError:
            raise
        except Exception:  # zipfile raises whatever a damaged directory leads it to
            raise ShapeError(
                f"'{path.name}' cannot be read as a .npz archive; save it again with numpy.savez."
            ) from None

    @property
    def names(self) -> list[str]:
        """What there is, in the order of the archive."""
        return list(self._members)

    def declared(self, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
        """Shape and type of a member by its header alone."""
        try:
            with self._zip.open(self._members[name]) as stream:
                return header_of(stream)
        except Exception:
            return None

    def read(self, name: str) -> np.ndarray:
        """One array.

        Raises:
            ShapeError: damaged, too large, no array of numbers, or packed so tightly that only a trap is.
        """
        info = self._members[name]
        where = f"{self.where}: {name}"
        if info.file_size > SMALL and info.file_size > RATIO * max(1, info.compress_size):
            raise ShapeError(
                f"'{where}' would unpack from {size_text(info.compress_size)} to {size_text(info.file_size)}, as no "
                "shape does; save it again with numpy.savez."
            )
        require_memory(2 * info.file_size, where)
        try:
            with self._zip.open(info) as stream:
                return array_from(stream, info.file_size, where)
        except ShapeError:
            raise
        except Exception:
            raise ShapeError(f"'{where}' is damaged; save it again with numpy.savez.") from None
