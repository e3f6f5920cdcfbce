"""Volumes: their files, what a fitted one is written out as."""

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
import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.fitting import pictures
from sasnet_ns.fitting.grid_files import brief, read_npy
from sasnet_ns.fitting.grid_fit import FittedGrid
from sasnet_ns.fitting.image_metrics import psnr, ssim
from sasnet_ns.fitting.signal import Signal, encode_png, own_values, shrink, signal_from_array
from sasnet_ns.fitting.tiff_files import read_tiff
from sasnet_ns.networks import SASNet
from sdf_tools.errors import MissingLibraryError, ShapeError, ShapeWarning, needs
from sdf_tools.io.limits import Archive, require_memory
from sdf_tools.io.writing import write_atomically

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


@torch.no_grad()
def render_volume(
    density: Float[Tensor, "D H W"],
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    *,
    azimuth: float = 30.0,
    size: int = 320,
    steps: int | None = None,
    opacity: float = 25.0,
    threshold: float = 0.0,
    cmap: str = "pink",
    shading: float = 0.75,
    largest: float | None = None,
) -> Float[Tensor, "R C 3"]:
    """A picture of a volume by emission and absorption along parallel rays (Max 1995), the first axis up.

    A sample's opacity is ``1 - exp(-opacity * value * step)`` with the step in units of the longest side; its colour is
    the map's at its value relative to the largest, darker where the volume's gradient is turned away from a light above
    the camera.

    Args:
        density: values in [0, 1].
        spacing: size of a cell along each axis, any unit.
        azimuth: degrees around the first axis.
        size: pixels along the picture's longer side.
        steps: samples along a ray; None for a few a cell, at most 256.
        opacity: per unit of value and of the longest side.
        threshold: values up to it are transparent.
        cmap: matplotlib's name of a colour map.
        shading: share of the light that depends on the gradient; 0 for none.
        largest: value at the colour map's end; None for the volume's largest.
    """
    from matplotlib import colormaps

    extent = torch.tensor([n * s for n, s in zip(density.shape, spacing, strict=True)])
    extent = extent / extent.max()
    reach = float(extent.norm())
    steps = steps or min(256, 4 * max(density.shape))
    tall, wide = 0.52 * float(extent[0]), 0.52 * float(extent[1:].norm())
    rows, columns = (max(1, round(size * side / max(tall, wide))) for side in (tall, wide))
    lines = torch.linspace(tall, -tall, rows), torch.linspace(-wide, wide, columns)
    up, across = torch.meshgrid(*lines, indexing="ij")
    angle = math.radians(azimuth)
    right = torch.tensor([0.0, -math.sin(angle), math.cos(angle)])
    ahead = torch.tensor([0.0, math.cos(angle), math.sin(angle)])
    base = up[..., None] * torch.tensor([1.0, 0.0, 0.0]) + across[..., None] * right
    table = torch.from_numpy(colormaps[cmap](np.linspace(0, 1, 256))[:, :3]).float()
    clear, colour = torch.ones(rows, columns), torch.zeros(rows, columns, 3)
    values = density.detach().cpu().float()
    light = torch.nn.functional.normalize(0.8 * torch.tensor([1.0, 0.0, 0.0]) - ahead + 0.4 * right, dim=0)
    largest = largest or float(values.max()) or 1.0
    field = torch.stack([values, _lit(values, spacing, light)])[None]
    for depth in torch.linspace(-reach / 2, reach / 2, steps):
        # grid_sample wants x, y, z, the last axis first.
        place = ((base + depth * ahead) / (extent / 2)).flip(-1)[None, None]
        value, lit = torch.nn.functional.grid_sample(field, place, align_corners=False)[0, :, 0].clamp(0, 1)
        value = torch.where(value > threshold, value, torch.zeros_like(value))
        alpha = 1 - torch.exp(-opacity * value * reach / steps)
        bright = 1 - shading + shading * lit
        colour += (clear * alpha * bright)[..., None] * table[(value / largest * 255).long().clamp_max(255)]
        clear *= 1 - alpha
    return colour + clear[..., None] * 0.06


def _lit(
    values: Float[Tensor, "D H W"], spacing: tuple[float, ...], light: Float[Tensor, "3"]
) -> Float[Tensor, "D H W"]:
    """Cosine between the outward normal (against the gradient) and the light; 1 where there is no gradient."""
    if min(values.shape) < 2:
        return torch.ones_like(values)
    gradient = torch.stack(torch.gradient(values, spacing=[s / max(spacing) for s in spacing]), -1)
    length = gradient.norm(dim=-1)
    cosine = -(gradient @ light) / length.clamp_min(1e-12)
    return torch.where(length > 1e-6, cosine.clamp(0, 1), torch.ones_like(length))


def write_volume_results(
    fitted: FittedGrid, folder: Path, *, draw: bool = True, threshold: float = 0.0
) -> dict[str, Any]:
    """Write reconstruction, metrics, history, pictures and checkpoint into a folder.

    Args:
        fitted: the fit.
        folder: created if it is missing.
        draw: write the reconstruction, slices, masks and the rendering as well.
        threshold: values in [0, 1] up to it are transparent in the rendering.

    Returns:
        The content of ``metrics.json``.
    """
    signal, prediction = fitted.signal, fitted.field.render()
    quality = psnr(prediction, signal.values)
    figures = {
        "psnr": quality,
        "ssim": ssim(prediction, signal.values) if min(signal.grid) >= 11 else math.nan,
        "volume": signal.name,
        "spacing": list(signal.spacing),
        "window": [signal.low, signal.high],
        "settings": {
            "psnr": "values in [0, 1] (the window), clamped",
            "ssim": "scikit-image: Gaussian window in three dimensions, sigma 1.5, 11 voxels a side, data range 1, "
            "population covariance",
        },
    }
    content = fitted.save(folder, figures)
    (folder / "masks.png").unlink(missing_ok=True)  # an earlier fit's, of a network that had some
    if draw:
        for name, data in _volume_pictures(fitted, prediction, quality, threshold).items():
            write_atomically(folder / name, data)
    return content


def _volume_pictures(fitted: FittedGrid, prediction: Tensor, quality: float, threshold: float) -> dict[str, bytes]:
    field, signal = fitted.field, fitted.signal
    buffer = io.BytesIO()
    own = own_values(signal, prediction)
    np.savez_compressed(buffer, volume=own, spacing=np.asarray(signal.spacing or (1.0, 1.0, 1.0)))
    files = {"reconstruction.npz": buffer.getvalue()}
    truth, found = signal.values.mean(-1), prediction.clamp(0, 1).mean(-1)
    slices = []
    for axis, name in enumerate(("slice", "row", "column")):
        middle = signal.grid[axis] // 2
        one, other = truth.select(axis, middle), found.select(axis, middle)
        largest = max(0.02, float((one - other).abs().max()))
        slices += [(f"volume, {name} {middle}", one), (f"fit, {quality:.2f} dB", other)]
        slices.append((f"error, white {largest:.3f}", (one - other).abs() / largest))
    files["slices.png"] = pictures.panels(slices, 3, "gray", (0.0, 1.0))
    spacing = signal.spacing or (1.0, 1.0, 1.0)
    largest = float(truth.max())
    options: dict[str, Any] = {"largest": largest, "threshold": threshold}
    views = [(title, render_volume(v, spacing, **options)) for title, v in (("volume", truth), ("fit", found))]
    files["rendering.png"] = pictures.panels(views, 2, width=4.0)
    files["fit.png"] = encode_png(views[1][1])
    if fitted.history.step:
        title = f"{field.description['network']}, {field.network.parameter_count():,} parameters"
        files["curves.png"] = pictures.curves(fitted.history, field.value_scale, title)
    masks = mask_slices(fitted)
    if masks:
        files["masks.png"] = pictures.panels(masks, 4, "coolwarm", (0.0, 1.0), "mask")
    return files


@torch.no_grad()
def mask_slices(fitted: FittedGrid) -> list[tuple[str, Float[Tensor, "H W"]]]:
    """Title and middle slice of every mask of a SASNet; none for other networks."""
    field = fitted.field
    if not isinstance(field.network, SASNet):
        return []
    _, height, width = field.grid
    middle = field.grid[0] // 2
    points = field.points().reshape(*field.grid, 3)[middle].reshape(-1, 3)
    found = []
    for layer, values in enumerate(field.network.masks(points)):
        if values is not None:
            what = "band" if layer == 0 else "group"
            for k, mask in enumerate(values.T.cpu()):
                found.append((f"layer {layer + 1}, {what} {k + 1}", mask.reshape(height, width)))
    return found
