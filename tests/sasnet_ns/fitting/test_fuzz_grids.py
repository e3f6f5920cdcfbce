"""Readers of images, volumes and configurations against mutated files: only our own errors, only sane values.

``pytest -m slow tests/sasnet_ns/fitting/test_fuzz_grids.py`` tries 20,000 mutants; ``SDF_TOOLS_MUTANTS`` is their
number of each format.
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutation import examples, mutate

from sasnet_ns.fitting import ShapeFit
from sasnet_ns.fitting.grid_fit import GridFit
from sasnet_ns.fitting.signal import Signal, read_image
from sasnet_ns.fitting.volume import read_volume
from sasnet_ns.training.config import load_config
from sdf_tools.errors import MissingLibraryError

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
ROOT = Path(__file__).resolve().parents[3]


@functools.cache
def seeds(suffix: str) -> list[bytes]:
    """A few small good files of each format."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)
    volume = rng.random((5, 4, 3)).astype("f4")
    buffer = io.BytesIO()
    if suffix in (".png", ".jpg", ".bmp", ".webp"):
        from PIL import Image

        modes = ("RGB", "L") if suffix != ".png" else ("RGB", "L", "P", "RGBA")
        return [_picture(Image.fromarray(picture).convert(mode), suffix) for mode in modes] + _deep(picture, suffix)
    if suffix in (".tif", "volume.tif"):
        tifffile = pytest.importorskip("tifffile")
        found = []
        for array, options in ((picture, {}), (volume, {}), (picture, {"compression": "zlib", "tile": (16, 16)})):
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, array, **options)
            found.append(buffer.getvalue())
        return found
    if suffix == ".npy":
        np.save(buffer, volume)
        return [buffer.getvalue()]
    if suffix == ".npz":
        np.savez_compressed(buffer, volume=volume, spacing=np.array([1.0, 2.0, 3.0]))
        return [buffer.getvalue()]
    if suffix == ".nrrd":
        pytest.importorskip("nrrd")
        head = "NRRD0004\n# c\ntype: {}\ndimension: 3\nsizes: 3 4 5\nspacings: 1 2 3\nendian: little\nencoding: {}\n\n"
        text = "\n".join(str(v) for v in volume.reshape(-1)).encode()
        return [
            head.format("float", "raw").encode() + volume.tobytes(),
            head.format("float", "gzip").encode() + gzip.compress(volume.tobytes()),
            head.format("double", "ascii").encode() + text,
        ]
    if suffix in (".nii", ".nii.gz"):
        nibabel = pytest.importorskip("nibabel")
        data = nibabel.Nifti1Image(volume, np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes()
        return [gzip.compress(data) if suffix == ".nii.gz" else data]
    return [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml"))[:6]]


def _picture(image: Any, suffix: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()))
    return buffer.getvalue()


def _deep(picture: np.ndarray, suffix: str) -> list[bytes]:
    if suffix != ".png":
        return []
    cv2 = pytest.importorskip("cv2")
    return [cv2.imencode(".png", picture.astype(np.uint16) * 257)[1].tobytes()]


@st.composite
def mutants(draw: Any, suffix: str) -> bytes:
    """A good file with one to six things done to it, inside of the compression half of the time."""
    data = bytearray(draw(st.sampled_from(seeds(suffix))))
    if suffix == ".nii.gz" and draw(st.booleans()):
        inner = bytearray(gzip.decompress(bytes(data)))
        mutate(draw, inner)
        return gzip.compress(bytes(inner))
    mutate(draw, data)
    return bytes(data)


def check(signal: Signal) -> None:
    values = signal.values
    assert values.dtype == torch.float32 and values.numel() and bool(values.isfinite().all())
    assert float(values.min()) >= 0 and float(values.max()) <= 1
    assert np.isfinite([signal.low, signal.high]).all() and signal.high > signal.low
    assert all(1e-30 < s < 1e30 for s in signal.spacing)


def read(path: Path, suffix: str) -> None:
    if suffix == ".yaml":
        for kind in (GridFit, ShapeFit):
            try:
                assert isinstance(load_config(path, kind), kind)
            except ValueError as error:
                assert "\n" not in str(error)
        return
    volume = suffix in ("volume.tif", ".npz", ".nrrd", ".nii", ".nii.gz")
    check(read_volume(path) if volume else read_image(path))


def run(suffix: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDF_TOOLS_MAX_MEMORY", "256M")
    path = folder / (f"mutant{suffix}" if suffix.startswith(".") else "mutant.tif")

    @examples(count)
    @hypothesis.given(mutants(suffix))
    def attack(data: bytes) -> None:
        path.write_bytes(data)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(path, suffix)
            except (ValueError, MissingLibraryError) as error:
                assert type(error).__module__ in ("builtins", "sdf_tools.errors", "sasnet_ns.fitting.volume"), error
                assert "\n" not in str(error) and len(str(error)) < 600 and "mutant" in str(error), error
        assert time.process_time() - start < 30

    attack()


SUFFIXES = [".png", ".jpg", ".bmp", ".webp", ".tif", "volume.tif", ".npy", ".npz", ".nrrd", ".nii", ".nii.gz", ".yaml"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_seeds_are_good_files(tmp_path: Path, suffix: str) -> None:
    for k, data in enumerate(seeds(suffix)):
        path = tmp_path / (f"seed{suffix}" if suffix.startswith(".") else "seed.tif")
        path.write_bytes(data)
        if not (suffix == "volume.tif" and k != 1) and not (suffix == ".tif" and k == 1):
            read(path, suffix)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_few_mutants(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suffix, 60, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_many_mutants(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(suffix, int(os.environ.get("SDF_TOOLS_MUTANTS", 1_700)), tmp_path, monkeypatch)
