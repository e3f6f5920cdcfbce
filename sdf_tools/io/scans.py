"""Laser scans: .las and .laz through laspy, .e57 through pye57 (both optional)."""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.io._scan_child import las_arrays
from sdf_tools.io.limits import memory_limit, require_memory

_BYTES = 120  # a point while it is read: three coordinates twice, colours, the record


def read_las(path: Path) -> dict[str, Any]:
    """Points and colours of an airborne or mobile scan.

    Raises:
        ShapeError: damaged, or too large.
        MissingLibraryError: laspy (for .laz also lazrs) is not installed.
    """
    try:
        import laspy
    except ImportError:
        raise MissingLibraryError(
            f"Reading {path.suffix} files needs laspy, which is not installed: pip install 'laspy[lazrs]'"
        ) from None
    try:
        count = _checked_count(path)
        require_memory(_BYTES * count, path.name)
        if path.suffix.lower() == ".laz":
            return _in_child(path, ".laz", _BYTES * count)
        with laspy.open(path, read_evlrs=False) as reader:
            return las_arrays(reader.read())
    except (ShapeError, MissingLibraryError):
        raise
    except Exception as error:  # laspy raises whatever its parsers meet
        raise _unreadable(path, str(error) or type(error).__name__) from None


def _checked_count(path: Path) -> int:
    """The number of points that a LAS header promises, after its other promises were held against the file's size.

    Offsets are those of the public header block of LAS 1.0 to 1.4.
    """
    with open(path, "rb") as file:
        head = file.read(375)
    size = path.stat().st_size
    if head[:4] != b"LASF" or len(head) < 227:
        raise ValueError("it does not start like one")
    (header_size,) = struct.unpack_from("<H", head, 94)
    (start, records) = struct.unpack_from("<II", head, 96)
    (length, count) = struct.unpack_from("<HI", head, 105)
    if head[25] >= 4 and len(head) >= 255:
        (more,) = struct.unpack_from("<Q", head, 247)
        count = max(count, more)
    if not header_size <= start <= size or records * 54 > start - header_size:
        raise ValueError("its header and data do not agree")
    packed = path.suffix.lower() == ".laz" or bool(head[104] & 0x80)
    if (not packed and count * length > size - start) or count > 1000 * size:
        raise ValueError("its header promises more points than it holds")
    return int(count)


def read_e57(path: Path) -> dict[str, Any]:
    """Points of all scans in the coordinates of the file, colours, and which scan each point belongs to.

    Raises:
        ShapeError: damaged, or too large.
        MissingLibraryError: pye57 is not installed.
    """
    try:
        import pye57  # noqa: F401
    except ImportError:
        raise MissingLibraryError(
            f"Reading {path.suffix} files needs pye57, which is not installed: pip install pye57"
        ) from None
    return _in_child(path, ".e57", memory_limit())


def _in_child(path: Path, kind: str, needed: int) -> dict[str, Any]:
    """Read with a native library in a process of its own, which it may end without harm."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "arrays.npz"
        limit = str(needed + (4 << 30))  # the libraries themselves map much that they never touch
        # Neither this folder nor the current one on the path: their modules could stand before the standard library's.
        start = "import sys, runpy; del sys.path[0]; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
        script = str(Path(__file__).with_name("_scan_child.py"))
        command = [sys.executable, "-c", start, script, kind, str(path), str(out), limit]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode:
            lines = done.stderr.strip().splitlines() if done.returncode == 3 else []
            reason = lines[-1] if lines else f"the library that reads it ended with {done.returncode}"
            if "backend" in reason.lower():
                raise MissingLibraryError(f"'{path.name}' is compressed, which needs lazrs: pip install 'laspy[lazrs]'")
            raise _unreadable(path, reason)
        with np.load(out, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}


def _unreadable(path: Path, reason: str) -> ShapeError:
    first = reason.splitlines()[0].rstrip(".")[:150]
    return ShapeError(f"'{path.name}' cannot be read as a {path.suffix} file ({first}); export it again.")
