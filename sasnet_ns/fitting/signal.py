"""Regular grids of values, images and volumes alike: their coordinates, their own units, their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.fitting.grid_files import brief, read_picture
from sasnet_ns.fitting.tiff_files import read_tiff_image
from sdf_tools.errors import MissingLibraryError, ShapeError

CoordinateGrid = Literal["centers", "endpoints"]
"""Where samples lie in [-1, 1]: at the centres of equal cells, or from -1 to 1 with both ends included."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".npy")


_PIECE = 1 << 20  # values that are scaled at a time, in float64


@dataclass
class Signal:
    """Values on a regular grid.

    Attributes:
        values: (*grid, C) float32 in [0, 1]; a grid of rows and columns, or of slices, rows and columns.
        name: what files and messages call it.
        low: the source's own value at 0.
        high: the source's own value at 1.
        bits: of the integers in the file, 8 or 16; 0 for anything else.
        spacing: size of a cell along each axis, in the source's units.
    """

    values: Float[Tensor, "*grid C"]
    name: str
    low: float = 0.0
    high: float = 1.0
    bits: int = 0
    spacing: tuple[float, ...] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        """Samples along each axis."""
        return tuple(self.values.shape[:-1])

    @property
    def channels(self) -> int:
        """Values at each sample."""
        return self.values.shape[-1]


def axis_coordinates(
    count: int, grid: CoordinateGrid = "centers", scale: int = 1, shift: float = 0.0
) -> Float[Tensor, "n"]:
    """Coordinates in [-1, 1] of the samples along an axis, or of finer and shifted ones.

    Args:
        count: samples of the signal along the axis.
        grid: where these samples lie.
        scale: as many equal cells in the place of each of the signal's.
        shift: moves all samples, in cells of the signal.

    Returns:
        (count * scale,) float32.
    """
    position = (torch.arange(count * scale, dtype=torch.float64) + 0.5) / scale - 0.5 + shift
    if grid == "centers":
        return ((2 * position + 1) / count - 1).float()
    return (2 * position / max(1, count - 1) - 1).float()


def grid_coordinates(axes: list[Float[Tensor, "n"]]) -> Float[Tensor, "N d"]:
    """All points of a grid, the last axis running fastest; coordinates in the order of the axes (row, column)."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def read_image(path: Path | str, size: int | None = None) -> Signal:
    """Read an image of any size and number of channels, with 8 or 16 bits or floating-point values.

    Integers are divided by their type's largest value; floating-point values outside [0, 1] are moved and scaled by
    their smallest and largest. Palettes and CMYK become RGB; an alpha channel is a channel like the others. A picture
    with an orientation tag is turned upright, which a ShapeWarning says.

    Args:
        path: .png .jpg .bmp .webp .tif, or .npy with an (H, W) or (H, W, C) array.
        size: longest side to reduce it to, by antialiased bicubic interpolation; a smaller image stays as it is.

    Raises:
        ValueError: the file is missing, not an image, not of two dimensions (a stack), or (a ShapeError) larger than
            memory allows; ``size`` is less than 1.
        MissingLibraryError: a PNG of 16 bits and several channels without OpenCV to read it, or a TIFF whose
            compression needs imagecodecs.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no image at '{path}'.")
    try:
        array = (read_tiff_image if path.suffix.lower() in (".tif", ".tiff") else read_picture)(path)
    except (MissingLibraryError, ShapeError):
        raise
    except Exception as error:
        raise ValueError(
            f"'{path.name}' cannot be read as an image ({brief(error)}); use {' '.join(IMAGE_SUFFIXES)}."
        ) from None
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] > 64:
        raise ValueError(
            f"'{path.name}' holds an array of shape {array.shape}; an image is (rows, columns) or (rows, columns, "
            "channels); volumes go to fit_volume.py."
        )
    signal = signal_from_array(array, path.stem)
    return signal if size is None else shrink(signal, size)


def signal_from_array(array: np.ndarray, name: str, window: tuple[float, float] | None = None) -> Signal:
    """An array with its channels last as a signal in [0, 1].

    Args:
        array: (*grid, C), integers or floating-point numbers.
        name: of the signal.
        window: the source's values that become 0 and 1, with everything outside clamped; None takes the integer
            type's range for 8 and 16 bits without sign, [0, 1] for floating-point values inside it, else the
            smallest and the largest value.

    Raises:
        ValueError: values that are not finite numbers, or all the same.
    """
    if array.dtype.kind not in "uifb":
        raise ValueError(f"'{name}' holds {array.dtype} values; they must be real numbers.")
    if array.size == 0:
        raise ValueError(f"'{name}' holds no values (its shape is {array.shape}).")
    if not array.dtype.isnative:  # '>u2' is no np.uint16, and the range is the type's
        array = array.astype(array.dtype.newbyteorder("="))
    if not np.isfinite(array).all():
        raise ValueError(f"'{name}' holds values that are not finite; replace them first.")
    bits = 8 * array.dtype.itemsize if array.dtype in (np.uint8, np.uint16) else 0
    low: float
    high: float
    if window is not None:
        low, high = float(window[0]), float(window[1])  # values outside have no place in whole numbers without sign
    elif bits:
        low, high = 0, 2**bits - 1
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
    else:  # whole numbers of Python, which are exact also beyond 2^53
        low, high = int(array.min()), int(array.max())
    if window is not None and not high > low:
        raise ValueError(f"window must be a lower and a higher value, not {low:g} and {high:g}.")
    if not high > low:
        raise ValueError(f"'{name}' has no range of values to fit (from {low:g} to {high:g}).")
    if not high - low < 1e308:
        raise ValueError(f"'{name}' has values from {low:g} to {high:g}, beyond what can be computed with; scale it.")
    values = torch.from_numpy(_scaled(array, low, high))
    return Signal(values, name, float(low), float(high), bits)


def _scaled(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from low to high as float32 from 0 to 1; the difference is taken before any precision is given up."""
    result = np.empty(array.shape, np.float32)
    source, target = array.reshape(-1), result.reshape(-1)
    for start in range(0, len(source), _PIECE):
        piece = source[start : start + _PIECE]
        if piece.dtype.kind in "iu" and isinstance(low, int):
            # Modulo 2^64, which the difference of two numbers of this type never exceeds.
            offset = np.uint64(low % 2**64)
            difference = (piece.astype(np.uint64) - offset).astype(np.float64)
        else:
            difference = piece.astype(np.float64) - low
        target[start : start + _PIECE] = np.clip(difference / (high - low), 0, 1)
    return result


def shrink(signal: Signal, size: int) -> Signal:
    """The signal with its longest side reduced to ``size``, antialiased: bicubic for images, averages for volumes.

    Raises:
        ValueError: ``size`` is less than 1.
    """
    if size < 1:
        raise ValueError(f"the longest side (--size) must be at least 1, not {size}.")
    longest = max(signal.grid)
    if longest <= size:
        return signal
    sides = [max(1, round(n * size / longest)) for n in signal.grid]
    channels_first = signal.values.movedim(-1, 0)[None]
    if len(sides) == 2:
        small = torch.nn.functional.interpolate(channels_first, sides, mode="bicubic", antialias=True)
    else:
        small = torch.nn.functional.adaptive_avg_pool3d(channels_first, (sides[0], sides[1], sides[2]))
    values = small[0].movedim(0, -1).clamp(0, 1).contiguous()
    spacing = tuple(s * n / m for s, n, m in zip(signal.spacing, signal.grid, sides, strict=False))
    return Signal(values, signal.name, signal.low, signal.high, signal.bits, spacing)


def encode_png(values: Float[Tensor, "H W C"]) -> bytes:
    """An 8-bit PNG of values in [0, 1] (clamped) with one, two (grey and alpha), three or four channels."""
    import io

    from PIL import Image

    array = (values.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()


def own_values(signal: Signal, values: Float[Tensor, "*grid C"], *, whole: bool = False) -> np.ndarray:
    """Values in [0, 1] (clamped) in the units of the signal's file.

    Args:
        signal: its units.
        values: (*grid, C).
        whole: in the file's integers, where these have 8 or 16 bits.

    Returns:
        (*grid, C) float32, or float64 where distance from zero would take the precision of differences.
    """
    own = signal.low + values.detach().cpu().clamp(0, 1).double().numpy() * (signal.high - signal.low)
    if whole and signal.bits:
        return np.rint(own).astype(f"uint{signal.bits}")
    far = max(abs(signal.low), abs(signal.high)) > 16 * (signal.high - signal.low)
    return own if far else own.astype(np.float32)


def encode_tiff(signal: Signal, values: Float[Tensor, "H W C"]) -> bytes:
    """A TIFF of one page: values in [0, 1] (clamped) in the units and integers of the signal's file, or in floats."""
    import io

    import tifffile

    array = own_values(signal, values, whole=True)
    channels = array.shape[-1]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        array if channels > 1 else array[..., 0],
        photometric="rgb" if channels in (3, 4) else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
    )
    return buffer.getvalue()
