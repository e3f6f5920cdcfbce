"""Reading pictures and masks of whatever kind into what nerfstudio's datasets hold: 8 bits, three or four channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sdf_tools.errors import ShapeError

_WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of more than 8 bits a channel."""


def open_picture(path: Path) -> Image.Image:
    """A picture whose header is read, and no more of it.

    Raises:
        ShapeError: there is none, or it cannot be read.
    """
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise ShapeError(f"there is no picture '{path}'.") from None
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise ShapeError(f"'{path}' is not a readable picture ({_brief(error)}).") from None


def has_transparency(picture: Image.Image) -> bool:
    """Whether a picture has an alpha channel or a transparent colour."""
    return picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info


def is_transparent(picture: Image.Image) -> bool:
    """Whether any pixel is not opaque: programs write opaque pictures with an alpha channel too."""
    if not has_transparency(picture):
        return False
    alpha = picture
    if picture.mode in _WIDE:
        alpha = _narrow(picture)
    elif picture.mode not in ("RGBA", "LA"):
        alpha = picture.convert("RGBA")
    return bool(np.asarray(alpha.getchannel("A")).min(initial=255) < 255)


def read_picture(path: Path, alpha: bool | None = None, scale_factor: float = 1.0) -> npt.NDArray[np.uint8]:
    """The pixels of a picture: grey, palette and 16-bit pictures as colours of 8 bits.

    Args:
        path: the file.
        alpha: whether there shall be a fourth channel, 255 where the picture has none; as in the file if None.
        scale_factor: resizing.

    Returns:
        (H, W, 3) or (H, W, 4).

    Raises:
        ShapeError: there is no picture, or it is damaged or ends too early.
    """
    with open_picture(path) as picture:
        wanted = has_transparency(picture) if alpha is None else alpha
        try:
            if picture.mode in _WIDE:
                picture = _narrow(picture)
            picture = picture.convert("RGBA" if wanted else "RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ShapeError(f"the picture '{path}' is damaged or ends too early ({_brief(error)}).") from None
    if scale_factor != 1.0:
        size = (int(picture.width * scale_factor), int(picture.height * scale_factor))
        picture = picture.resize(size, resample=Image.Resampling.BILINEAR)
    return np.array(picture, dtype=np.uint8)


def _narrow(picture: Image.Image) -> Image.Image:
    """A grey picture of more than 8 bits in 8, with an alpha channel for a transparent grey."""
    wide = np.asarray(picture)
    values = _eight_bits(wide, scaled=picture.mode.startswith("I;16"))
    clear = picture.info.get("transparency")
    alpha = np.where(wide == clear, 0, 255) if isinstance(clear, int) else np.full_like(values, 255)
    return Image.fromarray(np.stack([values, alpha.astype(np.uint8)], axis=-1))


def read_mask(path: Path, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """A mask as (H, W) values from 0 to 255, resized to a height and width.

    Of colours the brightest channel counts, or the alpha channel if there is one colour only. Of a mask darker than
    half grey with one value beside 0 (a label), that is white.

    Raises:
        ShapeError: there is no mask, or it is damaged.
    """
    values, alpha = _mask_channels(path)
    if _alpha_counts(values, alpha):
        values = alpha
    label = values.max(initial=0)
    if 0 < label < 128 and (values[values > 0] == label).all():
        values = (values > 0) * np.uint8(255)
    if size is not None and values.shape != size:
        values = np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR))
    return values


def mask_in_alpha(path: Path) -> bool:
    """Whether a mask of one colour has its values in the alpha channel.

    Raises:
        ShapeError: there is no mask, or it is damaged.
    """
    with open_picture(path) as picture:
        if not has_transparency(picture):
            return False
    return _alpha_counts(*_mask_channels(path))


def _alpha_counts(values: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> bool:
    """A cut-out's background may be transparent throughout: alpha need not vary."""
    return bool(alpha.min(initial=255) < 255 and values.min() == values.max())


def _mask_channels(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The (H, W) brightest channel and alpha of a mask."""
    with open_picture(path) as picture:
        try:
            if picture.mode in _WIDE:
                values = _eight_bits(np.asarray(picture), scaled=False)
            elif has_transparency(picture):
                pixels = np.asarray(picture.convert("RGBA"))
                return pixels[..., :3].max(axis=-1), pixels[..., 3]
            else:
                values = np.asarray(picture.convert("L" if picture.mode in ("L", "1") else "RGB"))
                values = values if values.ndim == 2 else values.max(axis=-1)
        except (OSError, SyntaxError, ValueError) as error:
            raise ShapeError(f"the mask '{path}' is damaged or ends too early ({_brief(error)}).") from None
    return values, np.full_like(values, 255)


def _eight_bits(values: npt.NDArray[np.generic], scaled: bool) -> npt.NDArray[np.uint8]:
    """Integers of 16 bits by their upper half; floats are taken to lie in [0, 1].

    Args:
        values: of one channel.
        scaled: whether integers below 256 are very dark, else they are 8 bits in a wider field, as in masks.
    """
    if values.dtype.kind == "f":
        return np.rint(np.clip(np.asarray(values, dtype=np.float64), 0, 1) * 255).astype(np.uint8)
    wide = np.asarray(values, dtype=np.int64)
    return (wide if wide.max(initial=0) <= 255 and not scaled else wide >> 8).clip(0, 255).astype(np.uint8)


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
