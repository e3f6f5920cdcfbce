"""Images and volumes as other programs write them: orientation, byte orders, channels, folders, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grid_inputs import GREY, REDS, RGB, RNG, STACK, own, same

from sasnet_ns.fitting.grid_files import brief
from sasnet_ns.fitting.signal import read_image, shrink, signal_from_array
from sasnet_ns.fitting.volume import read_volume
from sdf_tools.errors import ShapeWarning

tifffile = pytest.importorskip("tifffile")


# Orientation and transparency


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_pictures_are_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    from PIL import Image, ImageOps

    path, picture = tmp_path / f"o{suffix}", Image.fromarray(RGB)
    if suffix == ".tif":
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(path, RGB, photometric="rgb", extratags=[tag])
        stored = picture
    else:
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(path, exif=exif)
        stored = Image.open(path)
    tagged = Image.fromarray(np.asarray(stored))
    tagged.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(tagged))
    if orientation == 1 or suffix == ".tif":
        same(read_image(path), wanted)
        return
    with pytest.warns(ShapeWarning, match=f"'o{suffix}' is turned upright"):
        same(read_image(path), wanted)


def test_transparent_colours_become_an_alpha_channel(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(REDS).save(tmp_path / "c.png", transparency=(255, 0, 0))
    alpha = np.where((REDS == (255, 0, 0)).all(-1), 0, 255)
    same(read_image(tmp_path / "c.png"), np.concatenate([REDS, alpha[..., None]], -1))
    Image.fromarray(GREY).save(tmp_path / "g.png", transparency=9)
    same(read_image(tmp_path / "g.png"), np.stack([GREY, np.where(GREY == 9, 0, 255)], -1))


# Other formats


def test_the_order_of_bytes_changes_nothing(tmp_path: Path) -> None:
    array = RNG.integers(16, 4083, (4, 5, 6)).astype(np.uint16)
    found = []
    for order in "<>":
        stored = array.astype(f"{order}u2")
        np.save(tmp_path / "v.npy", stored)
        np.save(tmp_path / "i.npy", stored[0])
        stored.tofile(tmp_path / "v.raw")
        found.append(read_volume(tmp_path / "v.raw", shape=array.shape, dtype=f"{order}u2"))
        found.append(read_volume(tmp_path / "v.npy"))
        same(read_image(tmp_path / "i.npy"), array[0], 16)
    for signal in found:
        assert (signal.low, signal.high, signal.bits) == (0.0, 65535.0, 16)
        assert np.array_equal(np.rint(own(signal)[..., 0]), array)


@pytest.mark.parametrize("endian", ["little", "big"])
def test_nrrd_in_both_orders(tmp_path: Path, endian: str) -> None:
    pytest.importorskip("nrrd")
    values = STACK.astype("<u2" if endian == "little" else ">u2") * 100
    values = values.astype("<u2" if endian == "little" else ">u2")
    head = f"NRRD0004\ntype: uint16\ndimension: 3\nsizes: 6 5 4\nendian: {endian}\nencoding: raw\n\n".encode()
    (tmp_path / "v.nrrd").write_bytes(head + values.tobytes())
    signal = read_volume(tmp_path / "v.nrrd")
    assert (signal.low, signal.high) == (0.0, 65535.0)
    same(signal, STACK.astype(np.uint16) * 100, 16)


def test_channels_of_nrrd(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    colours = RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    path, first = str(tmp_path / "v.nrrd"), np.ascontiguousarray(np.moveaxis(colours, -1, 0))
    rows = [[0.5, 0, 0], [0, 2, 0], [0, 0, 3]]
    nothing = [np.nan] * 3
    for array, header in (
        (colours, {"spacings": [np.nan, 0.5, 2, 3]}),
        (first, {"spacings": [0.5, 2, 3, np.nan]}),
        (first, {"space": "left-posterior-superior", "space directions": np.array([*rows, nothing])}),
    ):
        nrrd.write(path, array, header, index_order="C")
        signal = read_volume(path)
        same(signal, colours)
        assert signal.spacing == (3.0, 2.0, 0.5)


@pytest.mark.parametrize("shape", [(12, 11, 10, 3), (20, 21, 22, 3), (6, 5, 4, 1, 3), (6, 5, 1, 3), (6, 5, 4, 1)])
def test_channels_of_nifti_are_those_of_its_header(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel = pytest.importorskip("nibabel")
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 2, 3, 1])), tmp_path / "v.nii")
    signal = read_volume(tmp_path / "v.nii")
    x, y, z = (int(n) for n in (1, 2, 0 if shape[2] == 1 else 3))
    assert signal.grid == shape[2::-1] and signal.channels == shape[-1] and signal.spacing == (3.0, 2.0, 0.5)
    voxel = array.reshape(*shape[:3], -1)[x, y, z]
    assert np.array_equal(np.rint(own(signal)[z, y, x]), voxel)


def test_time_series_of_nifti_are_refused(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for shape, word in (((6, 5, 4, 40), "40 values"), ((6, 5, 4, 2, 3), "2 x 3 values")):
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "t.nii")
        with pytest.raises(ValueError, match=rf"'t.nii' holds {word} for each voxel"):
            read_volume(tmp_path / "t.nii")


def test_the_array_of_an_archive(tmp_path: Path) -> None:
    path, mask = tmp_path / "a.npz", STACK > 128
    np.savez(path, mask=mask, image=STACK)
    with pytest.warns(ShapeWarning, match=r"'a.npz': 'image' is read; it also has mask \(--key"):
        same(read_volume(path), STACK)
    assert read_volume(path, key="mask").high == 1
    np.savez(path, mask=mask, ct=STACK)
    with pytest.raises(ValueError, match=r"several arrays that may be the volume \(mask, ct\); choose one by --key"):
        read_volume(path)
    same(read_volume(path, key="ct"), STACK)
    for others in ({"data": np.float32(3)}, {"image": np.zeros((2, 2))}, {}):
        np.savez(path, **others, ct=STACK)  # type: ignore[arg-type]
        same(read_volume(path), STACK)


def test_folders_of_slices(tmp_path: Path) -> None:
    for k, page in enumerate(STACK):
        tifffile.imwrite(tmp_path / f"{k}.tif", 255 - page, photometric="miniswhite")
    (tmp_path / "._0.tif").write_bytes(b"\x00\x05\x16\x07 of macOS")
    same(read_volume(tmp_path), STACK)
    (tmp_path / "2.tif").write_bytes(b"no slice")
    with pytest.raises(ValueError, match=r"the slice '2.tif' cannot be read \(not a TIFF file"):
        read_volume(tmp_path)
    tifffile.imwrite(tmp_path / "2.tif", STACK, photometric="minisblack")
    with pytest.raises(ValueError, match=r"the slice '2.tif' holds more than one page"):
        read_volume(tmp_path)


@pytest.mark.parametrize("size", [0, -5])
def test_sizes_are_at_least_one(tmp_path: Path, size: int) -> None:
    np.save(tmp_path / "v.npy", STACK)
    np.save(tmp_path / "i.npy", GREY)
    for read in (
        lambda: read_volume(tmp_path / "v.npy", size=size),
        lambda: read_image(tmp_path / "i.npy", size),
        lambda: shrink(signal_from_array(RGB, "x"), size),
    ):
        with pytest.raises(ValueError, match=rf"must be at least 1, not {size}\."):
            read()


def test_what_a_library_says_is_cut_to_a_line() -> None:
    assert brief(ValueError("a tag of " + "1, " * 900 + "\nand more")).startswith("a tag of 1, 1, ")
    assert len(brief(ValueError("1, " * 900))) <= 200 and brief(EOFError()) == "EOFError"
