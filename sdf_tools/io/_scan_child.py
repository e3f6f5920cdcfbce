"""Reads a .laz or .e57 file in a process of its own: their native libraries end the process on some damaged files.

Run as a script with the kind, the file, the .npz to write and a limit in bytes. It imports nothing of this package, so
that it starts quickly, and ends with exit code 3 and one line where the file is at fault.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np


def read_laz(path: str) -> dict[str, np.ndarray]:
    """Points, and colours where there are some."""
    import laspy

    with laspy.open(path, read_evlrs=False) as reader:
        cloud = reader.read()
    return las_arrays(cloud)


def las_arrays(cloud: Any) -> dict[str, np.ndarray]:
    """The same of a cloud that laspy has read, without the points that LAS calls withheld: not to be processed."""
    kept = np.asarray(cloud.withheld) == 0
    arrays = {"points": np.stack([np.asarray(cloud[axis], np.float64)[kept] for axis in "xyz"], 1)}
    if {"red", "green", "blue"} <= set(cloud.point_format.dimension_names):
        colors = np.stack([np.asarray(cloud[c])[kept] for c in ("red", "green", "blue")], 1)
        if colors.any():  # all zero: the format has a place for colours, the scanner had none
            arrays["colors"] = colors
    if not kept.all():
        arrays["notes"] = np.array([f"left out {int((~kept).sum()):,} of {len(kept):,} points marked as withheld"])
    return arrays


def read_e57(path: str) -> dict[str, np.ndarray]:
    """Points of all scans in the file's coordinates, colours, and the scan of each point if there are several."""
    import pye57

    points, colors, scans = [], [], []
    file = pye57.E57(path)
    for index in range(file.scan_count):
        scan = file.read_scan(index, ignore_missing_fields=True, colors=True)
        points.append(np.stack([np.asarray(scan[f"cartesian{axis}"], np.float64) for axis in "XYZ"], 1))
        channels = [f"color{c}" for c in ("Red", "Green", "Blue")]
        if all(c in scan for c in channels):
            colors.append(np.stack([np.asarray(scan[c]) for c in channels], 1))
        scans.append(np.full(len(points[-1]), index))
    if not points:
        raise ValueError("there are no scans in it")
    arrays = {"points": np.concatenate(points)}
    if len(colors) == len(points):
        arrays["colors"] = np.concatenate(colors)
    if len(scans) > 1:
        arrays["scan_ids"] = np.concatenate(scans)
    return arrays


def main() -> None:
    """See the module."""
    kind, path, out, limit = sys.argv[1:]
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        arrays = {".laz": read_laz, ".e57": read_e57}[kind](path)
        np.savez(out, **arrays)  # type: ignore[arg-type]
    except BaseException as error:  # a panic of Rust is no Exception
        print((str(error).splitlines() or [type(error).__name__])[0][:200], file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
