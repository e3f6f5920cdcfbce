"""TIFF files, whoever wrote them, as slices of rows and columns: their axes, colours and sizes of cells."""

from __future__ import annotations

import contextlib
import logging
import lzma
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from sasnet_ns.fitting.grid_files import require_picture_memory, upright
from sdf_tools.errors import MissingLibraryError, ShapeError, ShapeWarning, needs
from sdf_tools.io.limits import SMALL

_MICROMETRES = {"Å": 1e-4, "pm": 1e-6, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}  # two mus
_JPEG = (6, 7, 34892)  # compressions that libraries decode to RGB
_DEFLATE, _LZMA = (8, 32946, 50013), 34925
_RATIOS = {**dict.fromkeys(_DEFLATE, 1_032), _LZMA: 10_000}  # how far a byte can unpack
_WIDER = {2: 85, 4: 17}  # what makes 8 bits of grey values of fewer


@dataclass
class Stack:
    """What a TIFF file holds.

    Attributes:
        values: (slices, rows, columns, channels), upright.
        spacing: size of a cell along slices, rows and columns; () where the file does not say.
        axes: tifffile's letters of those longer than 1, in the file's order.
        shaped: whether tifffile wrote it, from one array whose axes need not have had these meanings.
        left_out: the other pages, for a sentence; "" if there are none.
    """

    values: np.ndarray
    spacing: tuple[float, ...]
    axes: str
    shaped: bool
    left_out: str


def read_tiff(path: Path) -> Stack:
    """All pages of a TIFF file that are alike, by the axes that OME, ImageJ and others give them.

    Palettes and CMYK become RGB, white that is 0 becomes the largest value, and pages are turned as their orientation
    tag says. Only this file is read: series that go on in others (OME, Micro-Manager) are taken page by page.

    Raises:
        ShapeError: larger than memory allows, without pixels, or with axes or colours that are not read.
        MissingLibraryError: tifffile is not installed, or imagecodecs where a compression needs it.
        Exception: whatever tifffile says of a damaged file.
    """
    with needs("tifffile", f"'{path.name}'"):
        import tifffile

    _check_pages(path)
    with _silent("tifffile"), tifffile.TiffFile(path, is_mmstack=False, is_ndtiff=False) as file:
        ome, followed = _ome(file, path)
        if not followed:
            file.is_ome = False
        parts, left_out = _parts(list(file.series))
        values = _values(parts, file, path)
        if ome and not followed and len(values) > 1 and int(ome.get("SizeC", 1)) > values.shape[-1]:
            raise ShapeError(
                f"'{path.name}' mixes channels and slices in an order that its OME description tells only with other "
                "files or in a way that is not read; save it as one plain OME-TIFF."
            )
        first, page = parts[0], parts[0].keyframe
        axes = "".join(axis for axis, size in zip(first.axes, first.shape, strict=True) if size > 1)
        spacing = _ome_spacing(ome) if followed else _imagej_spacing(file, page)
        orientation = int(page.tags.valueof(274, default=1))
    if axes.strip("YXSC") not in ("", "Z", "I"):  # over time, for example
        spacing = ()
    if orientation > 4 and spacing:
        spacing = (spacing[0], spacing[2], spacing[1])
    return Stack(upright(values, orientation, 1), spacing, axes, first.kind == "shaped", left_out)


def read_tiff_image(path: Path) -> np.ndarray:
    """The one image of a TIFF file, (H, W, C); that others in it are left out is a ShapeWarning.

    Raises:
        ShapeError: it is a stack, or as :func:`read_tiff`.
        MissingLibraryError: as :func:`read_tiff`.
    """
    stack = read_tiff(path)
    slices, rows, columns = stack.values.shape[:3]
    if slices > 1 and stack.shaped and stack.axes == "QYX" and columns <= 16 < min(slices, rows):
        # As tifffile writes an array of rows, columns and channels that nobody told it the meaning of.
        said = f"'{path.name}' holds {slices} pages of {rows} x {columns} values, taken for rows of {columns} channels."
        warnings.warn(said, ShapeWarning, stacklevel=3)
        return stack.values[..., 0]
    if slices > 1:
        raise ShapeError(
            f"'{path.name}' holds {slices} pages of {rows} x {columns} pixels, a stack and no image; fit it with "
            "`sasnet fit-volume`, or save one page by itself."
        )
    if stack.left_out:
        said = f"'{path.name}' holds several images ({stack.left_out}); the first is read."
        warnings.warn(said, ShapeWarning, stacklevel=3)
    return stack.values[0]


def _parts(series: list[Any]) -> tuple[list[Any], str]:
    """The series that make up the image or the stack, and what the others are."""
    # tifffile takes a page of half the size for a level of the other, whether the file says so or not.
    every = [level for s in series for level in s.levels if level is s or not level.keyframe.is_subifd]
    found = [s for s in every if not (s.keyframe.is_reduced or s.keyframe.is_mask)] or series
    if not found:
        return [], ""
    first = found[0]
    pages = all(size == 1 or axis in "YXS" for size, axis in zip(first.shape, first.axes, strict=True))
    kinds = {(s.shape, s.axes, s.dtype, s.keyframe.photometric) for s in found}
    if len(found) == 1 or (pages and len(kinds) == 1):
        return found, ""
    shapes = [" x ".join(str(n) for n in s.shape) for s in found[:3]]
    return found[:1], ", ".join(shapes) + (", ..." if len(found) > 3 else "")


def _values(parts: list[Any], file: Any, path: Path) -> np.ndarray:
    """(slices, rows, columns, channels) of the series one after another, as light."""
    if not parts:
        raise ShapeError(f"'{path.name}' has no pixels; save it again.")
    first, page = parts[0], parts[0].keyframe
    palette = int(page.photometric) == 3
    count = len(parts) * math.prod(first.shape) * (3 if palette else 1)
    require_picture_memory(count, np.dtype(first.dtype).itemsize, path)
    _check_packed(parts, file, path)
    arrays = [_laid_out(_decoded(part, path), part.axes, path) for part in parts]
    values = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    if values.size == 0:  # what was declared is not there
        raise ShapeError(f"'{path.name}' has no pixels; save it again.")
    if palette and file.is_imagej and len(values) > 1:
        palette = False  # ImageJ's lookup table colours the display of measurements
    if palette:
        _require_one_palette(parts, path)
    return _coloured(values, page, palette, path)


def _check_packed(parts: list[Any], file: Any, path: Path) -> None:
    """Refuse strips and tiles that unpack to more than their page has room for: tifffile would unpack all of it."""
    for part in parts:
        page = part.keyframe
        method = int(page.compression)
        room = math.prod(page.chunks) * page.dtype.itemsize + (1 << 20)
        for one in part.pages if method in _RATIOS else []:
            for offset, size in zip(one.dataoffsets, one.databytecounts, strict=True) if one is not None else ():
                if size * _RATIOS[method] <= max(SMALL, room):
                    continue
                file.filehandle.seek(offset)
                packed = file.filehandle.read(size)
                if method == _LZMA:
                    unpacked = len(lzma.LZMADecompressor().decompress(packed, room + 1))
                else:
                    unpacked = len(zlib.decompressobj().decompress(packed, room + 1))
                if unpacked > room:
                    raise ShapeError(
                        f"'{path.name}' unpacks to more than the {page.imagewidth} x {page.imagelength} pixels that it "
                        "declares; save it again."
                    )


def _laid_out(array: np.ndarray, axes: str, path: Path) -> np.ndarray:
    """(slices, rows, columns, channels) of an array whose axes have tifffile's letters."""
    kept = [i for i, axis in enumerate(axes) if axis in "YX" or array.shape[i] > 1]
    array, axes = array.reshape([array.shape[i] for i in kept]), "".join(axes[i] for i in kept)
    if axes.count("Y") != 1 or axes.count("X") != 1:
        raise ShapeError(f"'{path.name}' has the axes {axes}, without one of rows and one of columns; save it again.")
    if axes in ("QQYX", "QIYX", "IQYX"):
        return array  # an array of numpy's, whose channels are last as in a .npy
    channels = [i for i, axis in enumerate(axes) if axis in "SC"]
    slices = [i for i, axis in enumerate(axes) if axis not in "SCYX"]
    if len(slices) > 1:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(axes, array.shape, strict=True))
        raise ShapeError(f"'{path.name}' has more axes than a volume ({sizes}); save one stack of slices by itself.")
    rows, columns = axes.index("Y"), axes.index("X")
    ordered = array.transpose([*slices, rows, columns, *channels])
    depth = array.shape[slices[0]] if slices else 1
    return ordered.reshape(depth, array.shape[rows], array.shape[columns], -1)


def _coloured(values: np.ndarray, page: Any, palette: bool, path: Path) -> np.ndarray:
    """Values as light: what palettes, inks and white at 0 stand for."""
    kind, bits = int(page.photometric), page.bitspersample
    if palette:
        table = page.colormap
        colours = (table if table.max() < 256 else table >> 8).astype(np.uint8).T  # 256, as libtiff decides
        return np.concatenate([colours[values[..., 0]], values[..., 1:].astype(np.uint8)], -1)
    if kind in (6, 8, 9, 10, 32845) and not (kind == 6 and int(page.compression) in _JPEG) and values.shape[-1] > 2:
        name = getattr(page.photometric, "name", kind)
        raise ShapeError(f"'{path.name}' keeps its colours as {name}, which is not read; save it as RGB.")
    if kind == 5 and values.shape[-1] >= 4 and values.dtype.kind == "u" and page.tags.valueof(332, default=1) == 1:
        return _without_inks(values)
    if kind == 0 and values.dtype.kind in "biu":
        grey = values[..., :1]  # what is behind it is no light
        inverted = ~grey if grey.dtype.kind != "u" else grey.dtype.type(2**bits - 1) - grey
        values = np.concatenate([inverted, values[..., 1:]], -1)
    if kind in (0, 1) and values.dtype == np.uint8 and bits in _WIDER:
        values = values * np.uint8(_WIDER[bits])
    return values


def _without_inks(values: np.ndarray) -> np.ndarray:
    """RGB of cyan, magenta, yellow and black, as Pillow converts them; further channels stay."""
    most = values.dtype.type(np.iinfo(values.dtype).max)
    light = (most - values[..., :4]).astype(np.uint32 if values.dtype.itemsize < 4 else np.uint64)
    colours = (light[..., :3] * light[..., 3:] + most // 2) // most
    return np.concatenate([colours.astype(values.dtype), values[..., 4:]], -1)


def _require_one_palette(parts: list[Any], path: Path) -> None:
    tables = {page.aspage().colormap.tobytes() for part in parts for page in part if page is not None}
    if len(tables) > 1:
        raise ShapeError(f"'{path.name}' has another palette for every page, which is not read; save it as RGB.")


def _decoded(series: Any, path: Path) -> np.ndarray:
    """A series' numbers, by Pillow where tifffile lacks a library for them.

    Raises:
        MissingLibraryError: Pillow cannot decode them either without a loss.
    """
    try:
        return series.asarray()
    except Exception as error:
        if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
            raise
    try:
        found = _by_pillow(series, path)
    except OSError:
        found = None
    if found is None:
        name = getattr(series.keyframe.compression, "name", "a method of its own")
        raise MissingLibraryError(
            f"'{path.name}' is compressed by {name}, which needs imagecodecs: pip install imagecodecs (or save it "
            "without compression)."
        )
    return found


def _by_pillow(series: Any, path: Path) -> np.ndarray | None:
    """The same numbers as tifffile's, or None where Pillow changes them."""
    from PIL import Image

    page = series.keyframe
    turned = page.tags.valueof(274, default=1) != 1  # Pillow would turn it
    if page.is_subifd or turned or tuple(page.extrasamples) not in ((), (2,)):
        return None
    found = []
    with Image.open(path, formats=("TIFF",)) as image:
        for one in series:
            image.seek(one.index)
            if image.size != (page.imagewidth, page.imagelength):
                return None
            array = np.asarray(image.convert("RGB") if image.mode == "YCbCr" else image)
            if array.shape != page.shape or array.dtype.newbyteorder("=") != page.dtype:
                return None
            if int(page.photometric) == 0 and image.mode in ("1", "L"):  # which Pillow has inverted
                array = ~array
            found.append(array // _WIDER[page.bitspersample] if image.mode == "L" and page.bitspersample < 8 else array)
    return np.stack(found).reshape(series.shape)


def _ome(file: Any, path: Path) -> tuple[dict[str, str], bool]:
    """Attributes of the first Pixels of an OME description, and whether tifffile may follow it."""
    text = file.ome_metadata or ""
    if not text or "<!ENTITY" in text:
        return {}, False
    try:
        root = ElementTree.fromstring(text)
        parts: dict[str, list[Any]] = {}
        for element in root.iter():
            parts.setdefault(element.tag.rpartition("}")[2], []).append(element)
        pixels = parts.get("Pixels", [])
        return dict(pixels[0].attrib) if pixels else {}, _all_here(root.get("UUID"), parts, file, path)
    except (ElementTree.ParseError, ValueError):
        return {}, False


def _all_here(identity: str | None, parts: dict[str, list[Any]], file: Any, path: Path) -> bool:
    """Whether all that an OME description promises can be in this file.

    Else tifffile would open the others, and make lists as long as the description says.
    """
    if "BinaryOnly" in parts or any(name.startswith("ModuloAlong") for name in parts):
        return False
    pixels, page, held = parts.get("Pixels", []), file.pages.first, len(file.pages)
    own = all(u.text == identity if identity else u.get("FileName") == path.name for u in parts.get("UUID", []))
    planes = sum(math.prod(int(p.get(f"Size{axis}", 0)) for axis in "ZCT") for p in pixels)
    sizes = [(int(p.get("SizeX", 0)), int(p.get("SizeY", 0))) for p in pixels]
    numbers = [int(d.get(name, 0)) for d in parts.get("TiffData", []) for name in ("IFD", "PlaneCount", "NumPlanes")]
    return (
        own
        and 0 < planes <= held * page.samplesperpixel
        and all(0 < x <= page.imagewidth and 0 < y <= page.imagelength for x, y in sizes)
        and all(0 <= n <= held for n in numbers)
    )


def _ome_spacing(pixels: dict[str, str]) -> tuple[float, ...]:
    """Size of a cell in the unit of its width."""
    try:
        units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"]
        sizes = [float(pixels[f"PhysicalSize{axis}"]) for axis in "ZYX"]
        if len(set(units)) > 1:
            sizes = [s * _MICROMETRES[u] / _MICROMETRES[units[2]] for s, u in zip(sizes, units, strict=True)]
    except (KeyError, ValueError):
        return ()
    return _usable(sizes)


def _imagej_spacing(file: Any, page: Any) -> tuple[float, ...]:
    """Size of a cell in ImageJ's unit; without one the resolution is a printer's."""
    told = (file.imagej_metadata or {}) if file.is_imagej else {}
    if not ("unit" in told or "spacing" in told):
        return ()
    try:
        across, down = page.resolution
        return _usable([float(told.get("spacing", 1.0)), 1 / down, 1 / across])
    except (TypeError, ValueError, ZeroDivisionError):
        return ()


def _usable(sizes: list[float]) -> tuple[float, ...]:
    return tuple(sizes) if all(1e-30 < s < 1e30 for s in sizes) else ()


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
