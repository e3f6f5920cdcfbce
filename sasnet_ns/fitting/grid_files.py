"""Arrays out of image files and numpy's: sizes that a file declares are checked before anything is decoded."""

from __future__ import annotations

import math
import struct
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sdf_tools.errors import MissingLibraryError, ShapeError, ShapeWarning
from sdf_tools.io.limits import array_from, require_memory

_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "PPM", "TGA")
"""What Pillow may take a picture for, whatever its name; for some others it starts programs (EPS)."""
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # of PNG's colour types


def read_picture(path: Path) -> np.ndarray:
    """An image file's own numbers, (H, W) or (H, W, C), upright; TIFF files are :func:`read_tiff_image`'s.

    Palettes become colours; an alpha channel stays, a transparent colour becomes one. A picture that is turned as its
    orientation tag says is a ShapeWarning.

    Raises:
        ShapeError: larger than memory allows, cut short, or without pixels.
        MissingLibraryError: a PNG of 16 bits and several channels without OpenCV to read it.
        Exception: whatever the format's library says of a damaged file.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path)
    from PIL import Image

    deep = _deep_png(path) if suffix == ".png" else None
    if deep is not None:
        require_picture_memory(math.prod(deep), 2, path)
        array = _read_deep_png(path)
    with Image.open(path, formats=_FORMATS) as image:
        if deep is not None:
            return _turned(array, image, path)
        require_picture_memory(math.prod(image.size) * len(image.getbands()), 4, path)
        array = np.asarray(_plain(image, path))
        if image.mode.startswith("I") and array.dtype.kind == "i":
            array = array.astype(np.uint16)
        return _turned(array, image, path)


def _plain(image: Any, path: Path) -> Any:
    """The picture in a mode whose numbers are what is seen."""
    clear = "transparency" in image.info
    if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGBA" if clear or image.mode == "PA" else "RGB")
    if clear and image.mode in ("1", "L", "RGB"):
        return image.convert("RGBA" if image.mode == "RGB" else "LA")
    if clear and image.mode.startswith("I"):
        warnings.warn(f"'{path.name}' has a transparent grey value, which is left out.", ShapeWarning, stacklevel=4)
    return image.convert("L") if image.mode == "1" else image


def _turned(array: np.ndarray, image: Any, path: Path) -> np.ndarray:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # damaged tags are no reason to refuse the pixels
        orientation = 1
    if orientation not in range(2, 9):
        return array
    warnings.warn(f"'{path.name}' is turned upright, as its orientation tag says.", ShapeWarning, stacklevel=4)
    return upright(array, orientation)


def upright(array: np.ndarray, orientation: int, rows: int = 0) -> np.ndarray:
    """An array turned and mirrored as the orientation tag of EXIF and TIFF (274) says.

    Args:
        array: with an axis of columns behind that of rows.
        orientation: 1 to 8; others change nothing.
        rows: the axis of rows.
    """
    columns = rows + 1
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(rows, columns)
    if orientation in (3, 4, 7, 8):
        array = np.flip(array, rows)
    return np.flip(array, columns) if orientation in (2, 3, 6, 7) else array


def brief(error: Exception) -> str:
    """What a library says, in a line: some print a whole tag."""
    return textwrap.shorten((str(error).splitlines() or [""])[0], 200) or type(error).__name__


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
