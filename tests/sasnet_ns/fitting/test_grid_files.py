"""Images and volumes from strangers: declared sizes are checked before decoding, and no value loses its precision."""

from __future__ import annotations

import gzip
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sasnet_ns.fitting.signal import read_image, signal_from_array
from sasnet_ns.fitting.volume import read_volume


def png(columns: int, rows: int, depth: int = 16, kind: int = 2, body: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def memory_of(code: str, limit: str = "200M") -> tuple[str, int]:
    """What a process prints, and the most memory in MiB that it took beyond its imports."""
    program = (
        "import resource, sys, warnings\n"
        "from sasnet_ns.fitting.signal import read_image\nfrom sasnet_ns.fitting.volume import read_volume\n"
        "import PIL.Image, tifffile, cv2\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"try:\n    {code}\nexcept ValueError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    environment = {"SDF_TOOLS_MAX_MEMORY": limit, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    *said, memory = result.stdout.strip().splitlines()
    assert len(said) == 1, result.stdout
    return said[0], int(memory)


@pytest.mark.parametrize("kind", ["png16", "png8", "tif", "npy", "volume.tif", "volume.nii.gz"])
def test_bombs_are_refused_before_they_are_decoded(kind: str, tmp_path: Path) -> None:
    """Files of less than 2 MB that decode to 600 MB of zeros, and are no bombs: all of that is in them."""
    path, code = tmp_path / f"bomb{kind[kind.find('.') :] if '.' in kind else ''}", ""
    rows = columns = 10_000
    if kind.startswith("png"):
        pytest.importorskip("cv2")
        path, deep = path.with_suffix(".png"), kind == "png16"
        path.write_bytes(
            png(columns, rows, 16 if deep else 8, body=b"\0" * (rows * (columns * (6 if deep else 3) + 1)))
        )
    elif kind.endswith("tif"):
        tifffile = pytest.importorskip("tifffile")
        path = path.with_suffix(".tif")
        shape = (300, 1000, 1000) if "volume" in kind else (rows, columns, 3)
        tifffile.imwrite(path, np.zeros(shape, np.uint16), compression="zlib", rowsperstrip=1000)
    elif kind == "npy":
        path = path.with_suffix(".npy")
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**11}, 3), }}".ljust(117) + "\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + b"\0" * 4096)
    else:
        nibabel = pytest.importorskip("nibabel")
        path = tmp_path / "bomb.nii.gz"
        header = nibabel.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((1000, 1000, 300))
        header["vox_offset"] = 352
        path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4 + b"\0" * (1000 * 1000 * 600)))
    code = f"read_{'volume' if 'volume' in kind else 'image'}({str(path)!r})"
    said, memory = memory_of(code)
    assert ("cut short" if kind == "npy" else "more than the 200 MiB it may take") in said and path.name in said
    assert memory < 60, f"{memory} MiB"


def test_the_limit_is_an_option_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sasnet_ns.commands import fit_image

    np.save(tmp_path / "i.npy", np.random.default_rng(0).random((600, 600)))
    given = ["--image", str(tmp_path / "i.npy"), "--output", str(tmp_path / "out"), "--steps", "1", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDF_TOOLS_MAX_MEMORY", "")
        with pytest.raises(SystemExit, match=r"i.npy' needs 5 MiB of memory, more than the 1 MiB"):
            fit_image.main([*given, "--max-memory", "1M"])
        with pytest.raises(SystemExit, match="must be a number of bytes such as 4G or 500M, not 'MUCH'"):
            fit_image.main([*given, "--max-memory", "much"])
    assert not (tmp_path / "out").exists()


def test_pictures_without_pixels(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "z.tif", np.zeros((2, 2), np.uint8))
    data = bytearray((tmp_path / "z.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "z.tif") as file:
        place = file.pages[0].tags["ImageLength"].valueoffset
    data[place : place + 2] = b"\0\0"
    (tmp_path / "z.tif").write_bytes(data)
    for read in (read_image, read_volume):
        with pytest.raises(ValueError, match=r"'z.tif' (has no pixels|cannot be read)"):
            read(tmp_path / "z.tif")
    with pytest.raises(ValueError, match="holds no values"):
        signal_from_array(np.zeros((0, 4, 1)), "nothing")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_whose_pages_go_round_in_a_circle(order: str, big: bool, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pages = np.random.default_rng(0).integers(0, 255, (3, 5, 4), dtype=np.uint8)
    path = tmp_path / "round.tif"
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
        for page in pages:
            writer.write(page, metadata=None)
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
        last = offsets[-1] + (8 + 20 * len(file.pages[2].tags) if big else 2 + 12 * len(file.pages[2].tags))
    assert read_volume(path).values.shape == (3, 5, 4, 1)
    data = bytearray(path.read_bytes())
    pointer = order + ("Q" if big else "I")
    assert struct.unpack_from(pointer, data, last) == (0,)
    struct.pack_into(pointer, data, last, offsets[1])
    path.write_bytes(data)
    for read in (read_image, read_volume):
        with pytest.raises(ValueError, match=r"'round.tif' .*(pages go round in a circle|cannot be read)"):
            read(path)


def test_a_picture_is_what_its_bytes_are(tmp_path: Path) -> None:
    """Pillow hands PostScript, whatever its name, to a program that runs it."""
    (tmp_path / "p.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image(tmp_path / "p.png")


def test_a_tiff_does_not_open_other_files(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    secret = np.full((8, 8), 200, np.uint8)
    tifffile.imwrite(tmp_path / "secret.ome.tif", secret, metadata={"axes": "YX"})
    own = np.arange(64, dtype=np.uint8).reshape(8, 8)
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image '
        'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="2" '
        'SizeC="1" SizeT="1"><TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="v.ome.tif">urn:uuid:1</UUID>'
        "</TiffData>"
        '<TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="secret.ome.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "v.ome.tif", own, description=text, metadata=None)
    assert torch.equal(read_image(tmp_path / "v.ome.tif").values[..., 0], torch.from_numpy(own) / 255)


OFFSETS = [0, 1_000_000_000, 2_000_000_000, 2**53, 2**63 - 256, -(2**31), -(2**63)]
FAR = [
    (dtype, offset)
    for dtype in (np.int32, np.uint32, np.int64, np.uint64)
    for offset in OFFSETS
    if np.iinfo(dtype).min <= offset <= np.iinfo(dtype).max - 255
] + [(np.float64, offset) for offset in OFFSETS if abs(offset) < 2**53]


@pytest.mark.parametrize(("dtype", "offset"), FAR)
def test_values_far_from_zero_stay_apart(dtype: type, offset: int) -> None:
    values = (np.arange(256).astype(object) + offset).astype(dtype).reshape(4, 8, 8, 1)
    signal = signal_from_array(values, "far")
    assert torch.equal(signal.values.reshape(-1), torch.arange(256, dtype=torch.float64).div(255).float())
    assert signal.low == float(offset) and signal.high == float(offset + 255)


def test_extremes_of_numbers(tmp_path: Path) -> None:
    wide = np.array([-(2**63), 0, 2**63 - 1], np.int64).reshape(1, 3, 1)
    assert signal_from_array(wide, "wide").values.reshape(-1).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="beyond what can be computed with"):
        signal_from_array(np.array([-1e308, 1e308]).reshape(1, 2, 1), "huge")
    tiny = signal_from_array(np.array([2e-320, 5e-320, 8e-320]).reshape(1, 3, 1) - 1e-319, "tiny")
    assert tiny.values.reshape(-1).tolist() == [0.0, 0.5, 1.0]


def test_raw_volumes_are_measured_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "v.raw").write_bytes(bytes(24))
    for shape, dtype, word in (
        ((2, 3, 5), "u1", "needs 30"), ((2, 3, 4), "<i2", "needs 24"), ((2, 3, 4), "cheese", "no type of numbers"),
        ((2, -3, -4), "u1", "has no numbers"), ((2, 3, 2), "V2", "has no numbers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            read_volume(tmp_path / "v.raw", shape=shape, dtype=dtype)
    with pytest.raises(ValueError, match="plain file"):
        read_volume("/dev/zero", shape=(1, 2, 3), dtype="u1")
    np.save(tmp_path / "v.npy", np.random.default_rng(0).random((3, 4, 5)))
    for spacing in ((1, -1, 1), (1, 1, np.nan), (0, 1, 1)):
        with pytest.raises(ValueError, match="three positive numbers"):
            read_volume(tmp_path / "v.npy", spacing=spacing)


def test_slices_that_are_not_alike(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a1.tif", np.zeros((4, 4), np.uint8))
    tifffile.imwrite(tmp_path / "a2.tif", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"'a2.tif' has \(4, 5\) pixels"):
        read_volume(tmp_path)


def test_the_files_that_once_failed() -> None:
    """Every collected image and volume: a sentence (the generated equivalents above say which)."""
    import os

    beside = Path(__file__).resolve().parents[4] / "shared" / "cases"
    root = Path(os.environ.get("SASNET_SHARED_CASES", beside)) / "trust" / "loaders"
    if not root.is_dir():
        pytest.skip("the collected cases (../shared/cases beside the repository) are not here")
    found = [
        path for path in sorted(root.iterdir()) if path.suffix in (".tif", ".nrrd", ".gz") or "spacing" in path.name
    ]
    assert len(found) > 5
    for path in found:
        for read in (read_image, read_volume) if path.suffix == ".tif" else (read_volume,):
            with pytest.raises(ValueError, match=re.escape(path.name)) as caught:
                read(path)
            assert "\n" not in str(caught.value)
