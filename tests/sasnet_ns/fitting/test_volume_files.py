"""Volume files from strangers: no other file is read, nothing unpacks beyond what it declares."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sasnet_ns.fitting.volume import read_volume

VALUES = np.random.default_rng(0).random((5, 4, 3)).astype("f4")


def nrrd_text(more: str, sizes: str = "3 4 5") -> bytes:
    return f"NRRD0004\ntype: float\ndimension: 3\nsizes: {sizes}\nendian: little\n{more}\n\n".encode()


@pytest.mark.parametrize("key", ["data file", "datafile"])
def test_values_in_another_file_are_not_read(tmp_path: Path, key: str) -> None:
    pytest.importorskip("nrrd")
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    for name in ("secret.raw", "/etc/passwd", "/dev/zero"):
        (tmp_path / "v.nrrd").write_bytes(nrrd_text(f"encoding: raw\n{key}: {name}"))
        with pytest.raises(ValueError, match="another file"):
            read_volume(tmp_path / "v.nrrd")


def test_nrrd_unpacks_no_more_than_it_declares(tmp_path: Path) -> None:
    pytest.importorskip("nrrd")
    good = nrrd_text("encoding: gzip\nspacings: 1 2 3") + gzip.compress(VALUES.tobytes())
    (tmp_path / "v.nrrd").write_bytes(good)
    signal = read_volume(tmp_path / "v.nrrd")
    assert signal.grid == (5, 4, 3) and signal.spacing == (3.0, 2.0, 1.0)
    (tmp_path / "bomb.nrrd").write_bytes(nrrd_text("encoding: gzip") + gzip.compress(b"\0" * (80 << 20)))
    with pytest.raises(ValueError, match="more values than its header declares"):
        read_volume(tmp_path / "bomb.nrrd")


@pytest.mark.parametrize("spacing", [(0, 1, 2), (1, 1, np.nan), (1, -1, 1), (1, 1), (1, 1, 5e-324)])
def test_sizes_of_cells_are_checked(tmp_path: Path, spacing: tuple[float, ...]) -> None:
    np.savez(tmp_path / "v.npz", volume=VALUES, spacing=np.array(spacing, float))
    with pytest.raises(ValueError, match="three positive numbers"):
        read_volume(tmp_path / "v.npz")


def test_an_archive_of_zeros_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "v.npz", volume=np.zeros((400, 400, 400), np.uint16))
    with pytest.raises(ValueError, match="would unpack"):
        read_volume(tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "foo"}, "holds one array and no names"),
        ({"shape": (3, 3, 3)}, "says its own shape and type"),
        ({"spacing": 5.0}, "three positive numbers"),
        ({"window": (0.0,)}, "window must be two values"),
        ({"window": (0.0, 1.0, 2.0)}, "window must be two values"),
        ({"window": (1.0, 0.0)}, "window must be a lower and a higher value"),
    ],
)
def test_options_that_do_not_fit_a_file_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    np.save(tmp_path / "v.npy", VALUES)
    with pytest.raises(ValueError, match=said):
        read_volume(tmp_path / "v.npy", **options)


def test_sizes_of_cells_may_be_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VALUES)
    spacing: Any = np.array([1, 1, 2])
    assert read_volume(tmp_path / "v.npy", spacing=spacing).spacing == (1.0, 1.0, 2.0)
