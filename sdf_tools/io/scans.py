"""Laser scans: .las and .laz through laspy, .e57 through pye57 (both optional)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.io.limits import require_memory

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
        require_memory(_BYTES * _checked_count(path), path.name)
        with laspy.open(path, read_evlrs=False) as reader:
            cloud = reader.read()
        names = set(cloud.point_format.dimension_names)
        fields: dict[str, Any] = {"points": np.stack([np.asarray(cloud[axis], np.float64) for axis in "xyz"], 1)}
        if {"red", "green", "blue"} <= names:
            colors = np.stack([np.asarray(cloud[c], np.float64) for c in ("red", "green", "blue")], 1)
            if colors.any():  # all zero: the format has a place for colours, the scanner had none
                fields["colors"] = colors
    except ShapeError:
        raise
    except laspy.errors.LaspyException as error:
        if "backend" in str(error).lower():
            raise MissingLibraryError(
                f"'{path.name}' is compressed, which needs lazrs: pip install 'laspy[lazrs]'"
            ) from None
        raise _unreadable(path, error) from None
    except BaseException as error:  # laspy and lazrs raise whatever their parsers meet; a panic of Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _unreadable(path, error) from None
    return fields


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
        import pye57
    except ImportError:
        raise MissingLibraryError(
            f"Reading {path.suffix} files needs pye57, which is not installed: pip install pye57"
        ) from None
    points, colors, scans = [], [], []
    try:
        file = pye57.E57(str(path))
        counts = [int(file.get_header(index).point_count) for index in range(file.scan_count)]
        require_memory(_BYTES * sum(counts), path.name)
        for index in range(len(counts)):
            scan = file.read_scan(index, ignore_missing_fields=True, colors=True)
            points.append(np.stack([np.asarray(scan[f"cartesian{axis}"], np.float64) for axis in "XYZ"], 1))
            channels = [f"color{c}" for c in ("Red", "Green", "Blue")]
            found = all(c in scan for c in channels)
            colors.append(np.stack([np.asarray(scan[c], np.float64) for c in channels], 1) if found else None)
            scans.append(np.full(len(points[-1]), index))
        file.close()
    except ShapeError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None
    if not points:
        raise ShapeError(f"'{path.name}' holds no geometry: there are no scans in it.")
    fields: dict[str, Any] = {"points": np.concatenate(points)}
    there = [c for c in colors if c is not None]
    if len(there) == len(colors):
        fields["colors"] = np.concatenate(there)
    if len(scans) > 1:
        fields["scan_ids"] = np.concatenate(scans)
    return fields


def _unreadable(path: Path, error: BaseException) -> ShapeError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:150]
    return ShapeError(f"'{path.name}' cannot be read as a {path.suffix} file ({reason}); export it again.")
