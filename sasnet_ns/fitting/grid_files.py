"""Arrays out of image files and numpy's: sizes that a file declares are checked before anything is decoded."""

from __future__ import annotations

import contextlib
import logging
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeError, needs
from sdf_tools.io.limits import array_from, require_memory

_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "PPM", "TGA")
"""What Pillow may take a picture for, whatever its name; for some others it starts programs (EPS)."""
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # of PNG's colour types


def read_picture(path: Path) -> np.ndarray:
    """An image file's own numbers, (H, W) or (H, W, C).

    Palettes become colours; an alpha channel stays.

    Raises:
        ShapeError: larger than memory allows, cut short, or without pixels.
        MissingLibraryError: a PNG of 16 bits and several channels without OpenCV to read it.
        Exception: whatever the format's library says of a damaged file.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path)
    if suffix in (".tif", ".tiff"):
        return read_tiff(path)
    if suffix == ".png" and (head := _deep_png(path)) is not None:
        require_picture_memory(math.prod(head), 2, path)
        return _read_deep_png(path)
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as image:
        require_picture_memory(math.prod(image.size) * len(image.getbands()), 4, path)
        if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
        elif image.mode == "1":
            image = image.convert("L")
        array = np.asarray(image)
    if image.mode.startswith("I") and array.dtype.kind == "i":
        array = array.astype(np.uint16)
    return array


def require_picture_memory(values: int, size: int, path: Path) -> None:
    """Refuse what would not fit decoded, as float32 and once more on the way.

    Args:
        values: numbers in the picture.
        size: bytes of each when decoded.
        path: of the file.

    Raises:
        ShapeError: too large, or nothing at all.
    """
    if values <= 0:
        raise ShapeError(f"'{path.name}' has no pixels; save it again.")
    require_memory((size + 8) * values, path.name)


def read_npy(path: Path) -> np.ndarray:
    """An array in numpy's own format.

    Raises:
        ShapeError: damaged, of objects, cut short or too large.
    """
    with path.open("rb") as stream:
        return array_from(stream, path.stat().st_size, path.name)


def read_tiff(path: Path) -> np.ndarray:
    """The first series of a TIFF file: one page, or all that are alike.

    Only this file is read: series that go on in others (OME, Micro-Manager) are taken page by page.

    Raises:
        ShapeError: larger than memory allows, or without pixels.
        MissingLibraryError: tifffile is not installed.
        Exception: whatever tifffile says of a damaged file.
    """
    with needs("tifffile", f"'{path.name}'"):
        import tifffile

    _check_pages(path)
    with _silent("tifffile"), tifffile.TiffFile(path, is_ome=False, is_mmstack=False) as file:
        if not file.series:
            raise ShapeError(f"'{path.name}' has no pixels; save it again.")
        first = file.series[0]
        require_picture_memory(math.prod(first.shape), np.dtype(first.dtype).itemsize, path)
        array = file.asarray(series=0)
    if array.size == 0:  # what was declared is not there
        raise ShapeError(f"'{path.name}' has no pixels; save it again.")
    return array


def _check_pages(path: Path) -> None:
    """Refuse a chain of pages that comes back to one of them, which tifffile would follow for ever.

    What is no TIFF, and a chain that leads out of the file, are tifffile's to complain about. Layouts: TIFF 6.0,
    section 2, and BigTIFF.

    Raises:
        ShapeError: it does, or there are more sub-pages (tag 330) than the file has room for.
    """
    size, seen, inner = path.stat().st_size, set(), 0
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return
        big = struct.unpack(f"{order}H", head[2:4])[0] == 43
        number, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
        wide, count_at = struct.calcsize(number), "Q" if big else "I"
        (at,) = struct.unpack_from(order + pointer, head, 8 if big else 4)
        while 0 < at < size:
            if at in seen:
                raise ShapeError(f"'{path.name}' is damaged: its pages go round in a circle; save it again.")
            seen.add(at)
            file.seek(at)
            (tags,) = struct.unpack(order + number, file.read(wide).ljust(wide, b"\0"))
            table = file.read(min(tags, size // entry) * entry + struct.calcsize(pointer))
            if len(table) < tags * entry + struct.calcsize(pointer):
                return
            for place in range(0, tags * entry, entry):
                code, _, count = struct.unpack_from(f"{order}HH{count_at}", table, place)
                inner += count if code == 330 else 0
            if inner * 18 > size:
                raise ShapeError(f"'{path.name}' is damaged: it names {inner:,} sub-pages; save it again.")
            (at,) = struct.unpack_from(order + pointer, table, tags * entry)


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Nothing is logged meanwhile: of a damaged file one sentence is enough."""
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _deep_png(path: Path) -> tuple[int, int, int] | None:
    """Rows, columns and channels of a PNG with 16 bits and several channels, of which Pillow keeps only 8 bits."""
    with path.open("rb") as file:
        head = file.read(26)
    if len(head) < 26 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[24] != 16 or head[25] == 0:
        return None
    columns, rows = struct.unpack(">II", head[16:24])
    return rows, columns, _CHANNELS.get(head[25], 4)


def _read_deep_png(path: Path) -> np.ndarray:
    try:
        import cv2
    except ImportError:
        raise MissingLibraryError(
            f"'{path.name}' is a PNG of 16 bits and several channels, which needs OpenCV: "
            "pip install opencv-python-headless (or save it as .tif)."
        ) from None
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("damaged PNG")
    order = [2, 1, 0, 3][: array.shape[-1]]
    return array[..., order]
