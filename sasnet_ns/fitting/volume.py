"""Volumes out of files."""

from __future__ import annotations

import bz2
import gzip
import io
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sasnet_ns.fitting.grid_files import brief, read_npy
from sasnet_ns.fitting.signal import Signal, shrink, signal_from_array
from sasnet_ns.fitting.tiff_files import read_tiff
from sasnet_ns.fitting.volume_results import mask_slices, render_volume, write_volume_results
from sdf_tools.errors import MissingLibraryError, ShapeError, ShapeWarning, needs
from sdf_tools.io.limits import Archive, require_memory

__all__ = ["VOLUME_SUFFIXES", "mask_slices", "read_volume", "render_volume", "write_volume_results"]

VOLUME_SUFFIXES = (".npy", ".npz", ".nii", ".nii.gz", ".nrrd", ".tif", ".tiff", ".raw", ".bin")
_KEYS = ("volume", "data", "arr_0", "density", "image", "values", "img", "vol", "array")


def read_volume(
    path: Path | str,
    *,
    size: int | None = None,
    key: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
) -> Signal:
    """Read a volume: (D, H, W) values, or (D, H, W, C) with a few channels.

    TIFF, NIfTI and NRRD name their axes, and channels are put last by these names. Other arrays have them last;
    ScalarFlow's files (``density_000123.npz``: one array ``data`` of (D, H, W, 1)) are read as they are, and four
    dimensions of which the first is 1 (a time step) lose it. A folder or several files of a TIFF stack: give one
    multi-page .tif, or the folder.

    Args:
        path: .npy .npz .nii .nii.gz .nrrd .tif, .raw with ``shape`` and ``dtype``, or a folder of .tif slices.
        size: longest side to reduce it to, by averages.
        key: name of the array in an .npz with several; None takes the one with a usual name (volume, data, image, ...),
            else the only one of three or more dimensions. A ShapeWarning names the others.
        spacing: size of a cell along each axis; None takes the file's (in an .npz the array ``spacing``, in the axes'
            order; in a TIFF OME's or ImageJ's), else 1.
        window: own values that become 0 and 1; None takes the type's range for 8 and 16 bits without sign, [0, 1] for
            floating-point values inside it, else the smallest and the largest value.
        shape: of a .raw file.
        dtype: of a .raw file, in numpy's notation (``<i2``).

    Raises:
        ValueError: the file is missing, damaged, or holds something else; ``size`` is less than 1.
        MissingLibraryError: the format's library is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no volume at '{path}'.")
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    try:
        array, own_spacing = _volume_array(path, suffix, key, shape, dtype)
    except (MissingLibraryError, ShapeError, _Refusal):
        raise
    except Exception as error:
        raise ValueError(f"'{path.name}' cannot be read as a volume ({brief(error)}).") from None
    if array.ndim != 4 or array.shape[-1] > 16 or min(array.shape) < 1:
        raise ValueError(
            f"'{path.name}' holds an array of shape {array.shape}; a volume is (slices, rows, columns), with up to 16 "
            "channels last."
        )
    sizes = own_spacing if spacing is None else tuple(map(float, np.reshape(spacing, -1)))
    if window is not None and len(window) != 2:
        raise ValueError(f"window must be two values, those that become 0 and 1, not {tuple(window)}.")
    if sizes and (len(sizes) != 3 or not all(1e-30 < s < 1e30 for s in sizes)):
        raise ValueError(
            f"'{path.name}' gives {tuple(sizes)} as the size of its cells; three positive numbers are needed: say them "
            "(spacing) or save it again."
        )
    signal = signal_from_array(np.ascontiguousarray(array), re.sub(r"\.nii$", "", path.stem), window)
    signal.spacing = sizes or (1.0, 1.0, 1.0)
    return signal if size is None else shrink(signal, size)


class _Refusal(ValueError):
    """A reason that is a whole sentence already."""


def _volume_array(
    path: Path, suffix: str, key: str | None, shape: tuple[int, ...] | None, dtype: str | None
) -> tuple[np.ndarray, tuple[float, ...]]:
    """The array, (D, H, W, C) if it can be a volume, and the size of its cells, () where the file does not say."""
    if path.is_dir():
        return _slices(path)
    if not path.is_file():
        raise _Refusal(f"'{path.name}' is not a plain file (a device, a pipe or a socket); give a file.")
    if key is not None and suffix != ".npz":
        raise _Refusal(f"'{path.name}' holds one array and no names; leave out the name '{key}'.")
    if (shape is not None or dtype is not None) and suffix not in (".raw", ".bin"):
        raise _Refusal(f"'{path.name}' says its own shape and type; give them for .raw alone.")
    if suffix == ".npy":
        return _channels_last(read_npy(path)), ()
    if suffix == ".npz":
        return _from_npz(path, key)
    if suffix in (".tif", ".tiff"):
        return _from_tiff(path)
    if suffix in (".nii", ".nii.gz"):
        return _from_nifti(path)
    if suffix == ".nrrd":
        return _from_nrrd(path)
    if suffix in (".raw", ".bin"):
        return _channels_last(_from_raw(path, shape, dtype)), ()
    raise _Refusal(f"'{path.name}' has a suffix that is not known here; use {' '.join(VOLUME_SUFFIXES)}.")


def _channels_last(array: np.ndarray) -> np.ndarray:
    """An array whose axes nothing names: a first one of length 1 is a time step, a fourth one the channels."""
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    return array[..., None] if array.ndim == 3 else array


def _from_npz(path: Path, key: str | None) -> tuple[np.ndarray, tuple[float, ...]]:
    archive = Archive(path)
    name = key or _volume_name(archive, path)
    if name not in archive.names:
        raise _Refusal(f"'{path.name}' has no array '{name}'; it has {', '.join(archive.names)}.")
    spacing = tuple(float(s) for s in archive.read("spacing").reshape(-1)) if "spacing" in archive.names else ()
    return _channels_last(archive.read(name)), spacing


def _volume_name(archive: Archive, path: Path) -> str:
    # By their headers, so that nothing is unpacked for the question.
    found = [n for n in archive.names if len((archive.declared(n) or ((), None))[0]) >= 3]
    usual = [name for name in _KEYS if name in found]
    if not usual and len(found) > 1:
        raise _Refusal(
            f"'{path.name}' has several arrays that may be the volume ({', '.join(found)}); choose one by --key (key)."
        )
    name = (usual or found or [next((name for name in _KEYS if name in archive.names), "volume")])[0]
    if len(found) > 1:
        others = ", ".join(other for other in found if other != name)
        said = f"'{path.name}': '{name}' is read; it also has {others} (--key takes another)."
        warnings.warn(said, ShapeWarning, stacklevel=5)
    return name


def _from_tiff(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    stack = read_tiff(path)
    if stack.left_out:
        raise _Refusal(
            f"'{path.name}' holds pages that are not alike ({stack.left_out}); save those of one volume by themselves."
        )
    if stack.values.shape[0] == 1:
        _, rows, columns, channels = stack.values.shape
        if stack.shaped and stack.axes in ("SYX", "YXS"):  # tifffile takes 3 or 4 slices, or columns, for colours
            array = stack.values[0].transpose(2, 0, 1) if stack.axes == "SYX" else stack.values[0]
            said = f"'{path.name}' holds one page in {channels} colours, taken for {' x '.join(map(str, array.shape))}"
            warnings.warn(f"{said} voxels.", ShapeWarning, stacklevel=4)
            return array[..., None], ()
        raise _Refusal(
            f"'{path.name}' holds one page of shape {(rows, columns, channels)}, an image; fit it with `sasnet "
            "fit-image`, or give the folder of its slices."
        )
    return stack.values, stack.spacing


def _from_nifti(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    with needs("nibabel", f"'{path.name}'"):
        import nibabel
    image: Any = nibabel.load(path)
    require_memory(12 * math.prod(image.shape), path.name)
    array = np.asarray(image.dataobj)
    if array.dtype.names:  # RGB
        array = np.stack([array[name] for name in array.dtype.names], -1)
    if array.ndim < 3:
        return array, ()
    # NIfTI is (x, y, z, time, channels): slices first, as everywhere here, and what each voxel has several of last.
    several = [n for n in array.shape[3:] if n > 1]
    if len(several) > 1 or math.prod(several) > 16:
        raise _Refusal(
            f"'{path.name}' holds {' x '.join(str(n) for n in several)} values for each voxel, where up to 16 of one "
            "kind are read; save one time step by itself."
        )
    array = array.reshape(*array.shape[:3], -1).transpose(2, 1, 0, 3)
    return array, tuple(float(s) for s in image.header.get_zooms()[:3][::-1])


def _from_nrrd(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    with needs("pynrrd", f"'{path.name}'"):
        import nrrd
    _check_nrrd(path)
    array, header = nrrd.read(str(path), index_order="C")
    lengths = _nrrd_lengths(header)[::-1]
    places = [i for i, kind in enumerate(reversed(header.get("kinds", []))) if kind in ("domain", "space")]
    if len(places) != 3:  # or the file does not say
        places = [i for i, length in enumerate(lengths) if math.isfinite(length)]
    if array.ndim == 4 and len(places) == 3:
        (other,) = set(range(4)) - set(places)
        array = np.moveaxis(array, other, -1)
    else:
        array = _channels_last(array)
    return array, tuple(lengths[i] for i in places) if lengths else ()


def _nrrd_lengths(header: dict[str, Any]) -> list[float]:
    """Size of a cell along each axis, the fastest first, NaN for those that are not in space; [] if it is not said."""
    directions, spacings = header.get("space directions"), header.get("spacings")
    if directions is not None:
        return [float(np.linalg.norm(row)) for row in directions]
    return [] if spacings is None else [float(s) for s in spacings]


def _check_nrrd(path: Path) -> None:
    """Refuse data in another file, and data that unpack to more than the header declares."""
    import nrrd

    with path.open("rb") as stream:
        header = nrrd.read_header(stream)
        for _ in range(int(header.get("line skip", 0))):
            stream.readline()
        data = stream.read()
    if any(name in header for name in ("data file", "datafile")):
        raise _Refusal(f"'{path.name}' keeps its values in another file, which is not opened; save it as one file.")
    declared = 8 * math.prod(int(n) for n in header["sizes"])
    require_memory(2 * declared, path.name)
    if str(header.get("encoding", "raw")).lower() not in ("gzip", "gz", "bzip2", "bz2"):
        return
    declared += max(0, int(header.get("byte skip", 0)))
    opened = gzip.open if header["encoding"].lower().startswith("g") else bz2.open
    total = 0
    with opened(io.BytesIO(data)) as stream:
        while total <= declared and (block := stream.read(1 << 20)):
            total += len(block)
    if total > declared:
        raise _Refusal(f"'{path.name}' unpacks to more values than its header declares; save it again.")


def _from_raw(path: Path, shape: tuple[int, ...] | None, dtype: str | None) -> np.ndarray:
    if shape is None or dtype is None:
        raise _Refusal(f"'{path.name}' is raw: say its shape (slices rows columns) and its type (for example <i2).")
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise _Refusal(f"'{dtype}' is no type of numbers; say it in numpy's notation, for example <i2.") from None
    if min(shape) < 1 or kind.kind not in "uif":
        raise _Refusal(f"a volume of shape {tuple(shape)} and type {dtype} has no numbers.")
    held, left = divmod(path.stat().st_size, kind.itemsize)
    if held != math.prod(shape) or left:
        raise _Refusal(
            f"'{path.name}' holds {held:,} values of type {dtype}{' and a part of one' * bool(left)}, the shape "
            f"{tuple(shape)} needs {math.prod(shape):,}."
        )
    require_memory((kind.itemsize + 8) * held, path.name)
    return np.fromfile(path, dtype=kind).reshape(shape)


def _slices(folder: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    files = [p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith(".")]
    if not files:
        raise _Refusal(f"'{folder}' holds no .tif slices.")
    files = _in_order(files)
    first = _slice(files[0])
    require_memory(2 * (first.itemsize + 4) * first.size * len(files), folder.name)
    slices = [first, *(_slice(p) for p in files[1:])]
    for file, one in zip(files, slices, strict=True):
        if one.shape != first.shape:
            sizes = [s.shape[:2] if s.shape[2] == first.shape[2] else s.shape for s in (one, first)]
            raise _Refusal(f"'{file.name}' has {sizes[0]} pixels, '{files[0].name}' {sizes[1]}; slices are alike.")
        if one.dtype != first.dtype:
            raise _Refusal(f"'{file.name}' holds {one.dtype}, '{files[0].name}' {first.dtype}; slices are alike.")
    return np.stack(slices), ()


def _in_order(files: list[Path]) -> list[Path]:
    """Slices by the numbers in their names: 2 before 10, and -1 before 0 where the others have no dash there."""
    names = [re.split(r"(\d+)", file.name.lower()) for file in files]
    texts = {tuple(name[::2]) for name in names}
    signed = len(texts) > 1 and len({tuple(text.removesuffix("-") for text in parts) for parts in texts}) == 1

    def key(name: list[str]) -> list[str | int]:
        words: list[str | int] = [text.removesuffix("-") if signed else text for text in name]
        for i in range(1, len(name), 2):
            words[i] = int(name[i]) * (-1 if signed and name[i - 1].endswith("-") else 1)
        return words

    return [file for _, file in sorted(zip(map(key, names), files, strict=True))]


def _slice(file: Path) -> np.ndarray:
    """(H, W, C)."""
    try:
        stack = read_tiff(file)
    except (MissingLibraryError, ShapeError):
        raise
    except Exception as error:
        raise _Refusal(
            f"the slice '{file.name}' cannot be read ({brief(error)}); save it again or take it away."
        ) from None
    if stack.left_out or len(stack.values) > 1:
        raise _Refusal(
            f"the slice '{file.name}' holds more than one page; give a folder of single slices, or one stack."
        )
    return stack.values[0]
