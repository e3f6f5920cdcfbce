"""Images and volumes whose files say what their numbers mean in a place that is easy to pass over."""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from grid_inputs import RNG, own, same

from sasnet_ns.fitting.signal import read_image
from sasnet_ns.fitting.volume import read_volume
from sdf_tools.errors import ShapeError, ShapeWarning

tifffile = pytest.importorskip("tifffile")

DEEP = RNG.integers(0, 65536, (5, 6, 7)).astype("u2")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def nrrd(path: Path, head: str, data: bytes, end: str = "\n") -> Path:
    path.write_bytes(f"NRRD0004\n{head}\n".replace("\n", end).encode() + data)
    return path


HEAD = "type: uint16\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: gzip\n"
FOUR = "type: uint8\ndimension: 4\nsizes: {}\nencoding: raw\nkinds: {}\n{}"


@pytest.mark.parametrize("before", [True, False])
def test_deep_pictures_are_turned_wherever_their_tag_stands(tmp_path: Path, before: bool) -> None:
    pytest.importorskip("cv2")
    picture = RNG.integers(0, 65536, (20, 30, 3)).astype("u2")
    rows = b"".join(b"\0" + row.tobytes() for row in picture.astype(">u2"))
    tag = chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows))]
    parts.insert(1 if before else 2, tag)
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    with pytest.warns(ShapeWarning, match="is turned upright"):
        same(read_image(tmp_path / "c.png"), np.rot90(picture, -1), 16)


def test_opacity_is_not_inverted_with_the_grey_values(tmp_path: Path) -> None:
    pair = RNG.integers(0, 256, (20, 30, 2), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "c.tif", pair, photometric="miniswhite", planarconfig="contig", extrasamples=["unassalpha"]
    )
    same(read_image(tmp_path / "c.tif"), np.dstack([255 - pair[..., 0], pair[..., 1]]))


@pytest.mark.parametrize("method", [8, 34925])
def test_strips_that_unpack_beyond_their_page_are_refused(tmp_path: Path, method: int) -> None:
    """200 MiB of zeros in the strip of a picture of 16 x 16 pixels; the same picture packed rightly is read."""

    def write(strip: bytes) -> Path:
        tags = [(256, 16), (257, 16), (258, 8), (259, method), (262, 1), (273, 8), (277, 1), (278, 16)]
        entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
        entries += struct.pack("<HHII", 279, 4, 1, len(strip))
        strip += b"\0" * (len(strip) % 2)
        (tmp_path / "c.tif").write_bytes(
            b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", 9) + entries + bytes(4)
        )
        return tmp_path / "c.tif"

    pack = zlib.compress if method == 8 else lzma.compress
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    same(read_image(write(pack(picture.tobytes()))), picture)
    packer = zlib.compressobj(9) if method == 8 else lzma.LZMACompressor()
    block = bytes(1 << 20)
    with pytest.raises(ShapeError, match="unpacks to more than the 16 x 16 pixels"):
        read_image(write(b"".join(packer.compress(block) for _ in range(200)) + packer.flush()))


# Slices


def slices(folder: Path, names: list[str], kinds: list[str] | None = None) -> Path:
    folder.mkdir()
    for i, name in enumerate(names):
        tifffile.imwrite(folder / name, DEEP[i].astype(kinds[i] if kinds else "u2"))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["z-2.tif", "z-1.tif", "z0.tif", "z1.tif", "z2.tif"],
        ["z0.tif", "Z1.tif", "z2.tif", "Z3.TIF", "z10.tif"],
        ["scan-1.tif", "scan-2.tif", "scan-3.tif", "scan-9.tif", "scan-10.tif"],
    ],
)
def test_slices_are_in_the_order_of_their_numbers(tmp_path: Path, names: list[str]) -> None:
    assert np.array_equal(np.rint(own(read_volume(slices(tmp_path / "s", names))))[..., 0], DEEP)


def test_slices_of_another_type_are_refused(tmp_path: Path) -> None:
    folder = slices(tmp_path / "s", [f"{i}.tif" for i in range(5)], ["u2", "u2", "u2", "u1", "u2"])
    with pytest.raises(ValueError, match=r"'3\.tif' holds uint8, '0\.tif' uint16"):
        read_volume(folder)


# NRRD


@pytest.mark.parametrize(
    ("sizes", "kinds", "channels"),
    [
        ("7 6 5 3", "domain domain domain list", 0),
        ("3 7 6 5", "RGB-color domain domain domain", 3),
        ("7 6 5 3", "space space space time", 0),
    ],
)
@pytest.mark.parametrize("more", ["", "spacings: {}\n"])
def test_kinds_say_which_axis_holds_the_channels(
    tmp_path: Path, sizes: str, kinds: str, channels: int, more: str
) -> None:
    pytest.importorskip("nrrd")
    wanted = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
    cells = "1 2 4 nan" if channels == 0 else "nan 1 2 4"
    head = FOUR.format(sizes, kinds, more.format(cells))
    signal = read_volume(nrrd(tmp_path / "c.nrrd", head, np.moveaxis(wanted, -1, channels).tobytes()))
    same(signal, wanted)
    assert signal.spacing == ((4.0, 2.0, 1.0) if more else (1.0, 1.0, 1.0))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_nrrd_that_unpack_further_are_refused_by_any_line_ends(tmp_path: Path, end: str) -> None:
    pytest.importorskip("nrrd")
    path = nrrd(tmp_path / "c.nrrd", HEAD, gzip.compress(DEEP.tobytes()), end)
    assert np.array_equal(np.rint(own(read_volume(path)))[..., 0], DEEP)
    with pytest.raises(ValueError, match="unpacks to more values"):
        read_volume(nrrd(path, HEAD, gzip.compress(bytes(1 << 20)), end))


def test_lines_and_bytes_that_nrrd_passes_over(tmp_path: Path) -> None:
    pytest.importorskip("nrrd")
    path = nrrd(tmp_path / "c.nrrd", HEAD + "line skip: 1\n", b"hello\n" + gzip.compress(DEEP.tobytes()))
    assert np.array_equal(np.rint(own(read_volume(path)))[..., 0], DEEP)
