"""TIFF images and volumes as other programs write them: colours, axes, pages, compressions, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grid_inputs import GREY, REDS, RGB, RNG, STACK, own, same

from sasnet_ns.fitting.signal import encode_tiff, own_values, read_image, signal_from_array
from sasnet_ns.fitting.volume import read_volume
from sdf_tools.errors import MissingLibraryError, ShapeWarning

tifffile = pytest.importorskip("tifffile")


# Writing


@pytest.mark.parametrize(
    ("shape", "dtype"), [((20, 30, 3), "f4"), ((20, 30, 5), "f4"), ((20, 30, 2), "u2"), ((20, 30, 4), "f4")]
)
def test_a_tiff_of_any_channels_is_one_page(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    array = (RNG.random(shape) * (4 if dtype == "f4" else 65535)).astype(dtype)
    signal = signal_from_array(array, "x")
    path = tmp_path / "x.tif"
    path.write_bytes(encode_tiff(signal, signal.values))
    with tifffile.TiffFile(path) as file:
        (page,) = file.pages
        assert (page.imagelength, page.imagewidth, page.samplesperpixel, page.planarconfig) == (20, 30, shape[2], 1)
        assert page.photometric == (2 if shape[2] in (3, 4) else 1)
    assert np.allclose(tifffile.imread(path), array, atol=1e-6) and tifffile.imread(path).dtype == array.dtype
    assert torch.allclose(read_image(path).values, signal.values, atol=1e-6)


@pytest.mark.parametrize("start", [10**9, -(2**30), 0])
def test_whole_numbers_far_from_zero_are_written_as_they_are(start: int) -> None:
    array = (np.arange(1320).reshape(10, 11, 12) + start).astype(np.int32)
    signal = signal_from_array(array[..., None], "far")
    written = own_values(signal, signal.values)
    assert written.dtype == (np.float64 if start else np.float32)
    assert np.abs(written[..., 0].astype(np.float64) - array).max() < 1e-3
    plane = signal_from_array(array[0][..., None], "far")
    again = tifffile.imread(io.BytesIO(encode_tiff(plane, plane.values)))
    assert np.abs(again.astype(np.float64) - array[0]).max() < 1e-3


# Colours of a TIFF


@pytest.mark.parametrize("colours", [4, 16, 200])
def test_palettes_are_colours(tmp_path: Path, colours: int) -> None:
    from PIL import Image

    picture = Image.fromarray(RGB).quantize(colours)
    picture.save(tmp_path / "p.tif")
    same(read_image(tmp_path / "p.tif"), np.asarray(picture.convert("RGB")))
    second = picture.transpose(Image.Transpose.ROTATE_180)
    picture.save(tmp_path / "s.tif", save_all=True, append_images=[second])
    wanted = np.stack([np.asarray(p.convert("RGB")) for p in (picture, second)])
    same(read_volume(tmp_path / "s.tif"), wanted)
    picture.save(tmp_path / "o.tif", save_all=True, append_images=[Image.fromarray(255 - RGB).quantize(colours)])
    with pytest.raises(ValueError, match=r"'o.tif' has another palette for every page"):
        read_volume(tmp_path / "o.tif")


def test_imagejs_lookup_tables_leave_measurements_alone(tmp_path: Path) -> None:
    table = np.stack([np.arange(256), np.arange(256)[::-1], np.zeros(256)]).astype(np.uint16) * 257
    description = "ImageJ=1.53t\nimages=4\nslices=4\n"
    options: dict[str, Any] = {"photometric": "palette", "colormap": table, "metadata": None}
    tifffile.imwrite(tmp_path / "l.tif", STACK, description=description, **options)
    same(read_volume(tmp_path / "l.tif"), STACK)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_zero(tmp_path: Path, dtype: Any) -> None:
    most = np.iinfo(dtype).max
    light = (STACK.astype(dtype) * (most // 255)).astype(dtype)
    tifffile.imwrite(tmp_path / "s.tif", most - light, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "i.tif", most - light[0], photometric="miniswhite")
    same(read_volume(tmp_path / "s.tif"), light, light.itemsize * 8)
    same(read_image(tmp_path / "i.tif"), light[0], light.itemsize * 8)


def test_inks_become_light(tmp_path: Path) -> None:
    from PIL import Image

    inks = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    for array in (np.asarray(Image.fromarray(REDS).convert("CMYK")), inks):
        tifffile.imwrite(tmp_path / "c.tif", array, photometric="separated")
        same(read_image(tmp_path / "c.tif"), np.asarray(Image.fromarray(array, "CMYK").convert("RGB")))
    tifffile.imwrite(tmp_path / "d.tif", inks.astype(np.uint16) * 257, photometric="separated")
    c, k = inks[..., :3] / 255, inks[..., 3:] / 255
    assert np.abs(read_image(tmp_path / "d.tif").values.numpy() - (1 - c) * (1 - k)).max() < 1e-5


def test_colours_that_are_not_read_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "l.tif", RGB, photometric="cielab")
    with pytest.raises(ValueError, match=r"'l.tif' keeps its colours as CIELAB.*save it as RGB"):
        read_image(tmp_path / "l.tif")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_reach_white(tmp_path: Path, bits: int) -> None:
    most = 2**bits - 1
    values = RNG.integers(0, most + 1, (8, 16), dtype=np.uint8)
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(8, -1), axis=-1)
    tifffile.imwrite(tmp_path / "b.tif", packed)
    data = bytearray((tmp_path / "b.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        tags = file.pages[0].tags
        places = {name: tags[name].valueoffset for name in ("BitsPerSample", "ImageWidth")}
    for name, value in (("BitsPerSample", bits), ("ImageWidth", 16)):
        data[places[name] : places[name] + 2] = value.to_bytes(2, "little")
    data = data.replace(b'{"shape":', b'{"other":')
    (tmp_path / "b.tif").write_bytes(data)
    assert np.allclose(read_image(tmp_path / "b.tif").values[..., 0].numpy(), values / most)


# Axes of a TIFF


def test_planes_of_colours_and_of_channels(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    tifffile.imwrite(tmp_path / "p.tif", planes, photometric="rgb", planarconfig="separate")
    same(read_image(tmp_path / "p.tif"), RGB)
    tifffile.imwrite(tmp_path / "c.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    same(read_image(tmp_path / "c.ome.tif"), RGB)


def test_a_stack_is_no_image_and_an_image_no_stack(tmp_path: Path) -> None:
    from PIL import Image

    tifffile.imwrite(tmp_path / "s.tif", np.stack([GREY] * 3), photometric="minisblack")
    with pytest.raises(ValueError, match=r"'s.tif' holds 3 pages of 20 x 30 pixels.*fit-volume"):
        read_image(tmp_path / "s.tif")
    Image.fromarray(RGB).save(tmp_path / "i.tif")
    tifffile.imwrite(tmp_path / "j.tif", GREY)
    for name in ("i.tif", "j.tif"):
        with pytest.raises(ValueError, match=rf"'{name}' holds one page.*fit-image"):
            read_volume(tmp_path / name)
    for array, planes in ((STACK, "separate"), (np.moveaxis(STACK, 0, -1), "contig")):  # as it guesses by itself
        tifffile.imwrite(tmp_path / "g.tif", array, photometric="rgb", planarconfig=planes)
        with pytest.warns(ShapeWarning, match=f"in 4 colours, taken for {array.shape[0]} x {array.shape[1]} x "):
            same(read_volume(tmp_path / "g.tif"), array)
        same(read_image(tmp_path / "g.tif"), np.moveaxis(STACK, 0, -1))
    array = RNG.random((20, 30, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "n.tif", array, photometric="minisblack")  # 20 pages of 30 x 3
    with pytest.warns(ShapeWarning, match="taken for rows of 3 channels"):
        assert np.array_equal(read_image(tmp_path / "n.tif").values.numpy(), array)


@pytest.mark.parametrize("how", ["loop", "bare loop", "append", "Pillow"])
@pytest.mark.parametrize("pages", [STACK, RNG.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)])
def test_pages_written_one_by_one(tmp_path: Path, pages: np.ndarray, how: str) -> None:
    from PIL import Image

    path, options = tmp_path / "p.tif", {"photometric": "rgb" if pages.ndim == 4 else "minisblack"}
    if how == "append":
        for k, page in enumerate(pages):
            tifffile.imwrite(path, page, append=k > 0, **options)
    elif how == "Pillow":
        first, *others = [Image.fromarray(page) for page in pages]
        first.save(path, save_all=True, append_images=others)
    else:
        with tifffile.TiffWriter(path) as writer:
            for page in pages:
                writer.write(page, contiguous=False, **options, **({"metadata": None} if how == "bare loop" else {}))
    same(read_volume(path), pages)
    with pytest.raises(ValueError, match="a stack and no image"):
        read_image(path)


@pytest.mark.parametrize("other", [(10, 15), (7, 9), (20, 30, 3)])
def test_pages_that_are_not_alike(tmp_path: Path, other: tuple[int, ...]) -> None:
    with tifffile.TiffWriter(tmp_path / "u.tif") as writer:
        writer.write(GREY)
        writer.write(np.zeros(other, np.uint8), photometric="rgb" if len(other) == 3 else "minisblack")
    with pytest.raises(ValueError, match=r"'u.tif' holds pages that are not alike \(20 x 30, "):
        read_volume(tmp_path / "u.tif")
    with pytest.warns(ShapeWarning, match="the first is read"):
        same(read_image(tmp_path / "u.tif"), GREY)


def test_thumbnails_are_no_slices(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "t.tif") as writer:
        writer.write(STACK, photometric="minisblack", metadata=None)
        writer.write(np.zeros((2, 3), np.uint8), metadata=None, subfiletype=1)
    same(read_volume(tmp_path / "t.tif"), STACK)


@pytest.mark.parametrize(("kind", "axes"), [("ome", "ZCYX"), ("ome", "CZYX"), ("imagej", "ZCYX")])
def test_channels_and_sizes_of_cells_of_microscopes(tmp_path: Path, kind: str, axes: str) -> None:
    array = RNG.integers(0, 256, (5, 2, 32, 40), dtype=np.uint8)
    stored = array if axes == "ZCYX" else np.ascontiguousarray(array.swapaxes(0, 1))
    if kind == "ome":
        physical = {"PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeZ": 3.0}
        path, options = tmp_path / "m.ome.tif", {"metadata": {"axes": axes, **physical}}
        wanted = (3000.0, 250.0, 500.0)
    else:
        path, wanted = tmp_path / "m.tif", (3.0, 0.25, 0.5)
        options = {"imagej": True, "resolution": (2, 4), "metadata": {"axes": axes, "spacing": 3.0, "unit": "um"}}
    tifffile.imwrite(path, stored, **options)  # type: ignore[arg-type]
    signal = read_volume(path)
    same(signal, np.moveaxis(array, 1, -1))
    assert signal.spacing == pytest.approx(wanted)
    assert read_volume(path, spacing=(1.0, 2.0, 3.0)).spacing == (1.0, 2.0, 3.0)


def test_more_axes_than_a_volume_has(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "t.tif", np.zeros((2, 3, 8, 9), np.uint8), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match=r"'t.tif' has more axes than a volume \(T 2, Z 3, Y 8, X 9\)"):
        read_volume(tmp_path / "t.tif")
    array = RNG.integers(0, 256, (4, 7, 9, 2), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "n.tif", array, photometric="minisblack")  # numpy's axes, which nothing names
    same(read_volume(tmp_path / "n.tif"), array)


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image '
    'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{x}" SizeY="5" SizeZ="{z}" '
    'SizeC="2" SizeT="1"><TiffData IFD="0" PlaneCount="{n}">{more}</TiffData></Pixels></Image></OME>'
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "promise",
    [
        {"z": 4_000_000_000}, {"n": 4_000_000_000}, {"x": 4_000_000_000}, {"z": "many"},
        {"more": '<UUID FileName="other.ome.tif">urn:uuid:2</UUID>'},
    ],
)  # fmt: skip
def test_what_an_ome_description_promises_is_held_against_the_file(tmp_path: Path, promise: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "other.ome.tif", STACK, photometric="minisblack", metadata=None)
    good = {"x": 6, "z": 2, "n": 4, "more": ""}
    for name, words in (("good", good), ("bad", {**good, **promise})):
        path = tmp_path / f"{name}.ome.tif"
        tifffile.imwrite(path, STACK, photometric="minisblack", description=OME.format(**words), metadata=None)
    same(read_volume(tmp_path / "good.ome.tif"), np.moveaxis(STACK.reshape(2, 2, 5, 6), 1, -1))
    if promise.get("z") == "many":  # no description at all
        same(read_volume(tmp_path / "bad.ome.tif"), STACK)
        return
    with pytest.raises(ValueError, match=r"'bad.ome.tif' mixes channels and slices"):
        read_volume(tmp_path / "bad.ome.tif")


def test_entities_of_an_ome_description_are_not_expanded(tmp_path: Path) -> None:
    text = OME.format(x=6, z=2, n=4, more="").replace("<OME", '<!DOCTYPE a [<!ENTITY a "aaaa">]><OME', 1)
    tifffile.imwrite(tmp_path / "e.ome.tif", STACK, photometric="minisblack", description=text, metadata=None)
    same(read_volume(tmp_path / "e.ome.tif"), STACK)


# Compressions that tifffile has no library for


@pytest.mark.parametrize(
    ("compression", "mode"),
    [*(("tiff_lzw", mode) for mode in ("L", "RGB", "P", "I;16", "F", "1", "CMYK")), ("jpeg", "L"), ("jpeg", "RGB")],
)
def test_compressions_that_pillow_reads(tmp_path: Path, compression: str, mode: str) -> None:
    from PIL import Image

    sixteen, eight = GREY.astype(np.uint16) * 200, Image.fromarray(RGB)
    own_mode = {"I;16": Image.fromarray(sixteen), "P": eight.quantize(16)}
    pictures = [own_mode.get(mode) or eight.convert(mode) for _ in range(2)]
    pictures[0].save(tmp_path / "i.tif", compression=compression)
    pictures[0].save(tmp_path / "s.tif", compression=compression, save_all=True, append_images=pictures[1:])
    with Image.open(tmp_path / "i.tif") as image:
        shown = np.asarray(image.convert("RGB") if mode in ("P", "CMYK") else image).astype(np.float64)
    wanted = shown.reshape(20, 30, -1)
    assert np.allclose(own(read_image(tmp_path / "i.tif")), wanted, atol=1e-3)
    assert np.allclose(own(read_volume(tmp_path / "s.tif")), np.stack([wanted] * 2), atol=1e-3)


def test_a_compression_that_loses_its_bits_in_pillow(tmp_path: Path) -> None:
    pytest.importorskip("cv2").imwrite(str(tmp_path / "d.tif"), RGB.astype(np.uint16) * 257)  # LZW
    try:
        assert read_image(tmp_path / "d.tif").bits == 16
    except MissingLibraryError as error:
        assert "'d.tif' is compressed by LZW, which needs imagecodecs: pip install imagecodecs" in str(error)
