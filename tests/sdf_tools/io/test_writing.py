"""Files appear whole or not at all, and nothing is left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sdf_tools.io.writing import write_atomically, write_json


def test_bytes_and_functions_write_the_same_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "a.npy", lambda path: np.save(path, np.arange(3)))
    assert np.load(tmp_path / "new" / "a.npy").tolist() == [0, 1, 2]
    write_atomically(tmp_path / "new" / "b.npy", (tmp_path / "new" / "a.npy").read_bytes())
    assert (tmp_path / "new" / "b.npy").read_bytes() == (tmp_path / "new" / "a.npy").read_bytes()
    assert sorted(os.listdir(tmp_path / "new")) == ["a.npy", "b.npy"]


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, stop: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")

    def half(partial: Path) -> None:
        partial.write_bytes(b"ne")
        raise stop

    with pytest.raises(type(stop)) as caught:
        write_atomically(path, half)
    assert not isinstance(caught.value, OSError) or caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    real = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), real[0](handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(Path(b).name), real[1](a, b)))
    write_atomically(tmp_path / "a", b"1")
    assert events == ["sync", "a", "sync"]


def test_an_unfinished_file_may_lie_elsewhere_and_permissions_follow_the_umask(tmp_path: Path) -> None:
    seen: list[str] = []
    (tmp_path / "scratch").mkdir()
    write_atomically(
        tmp_path / "out" / "a.ckpt",
        lambda path: (seen.append(str(path)), path.write_bytes(b"1")),
        folder=tmp_path / "scratch",
    )
    assert Path(seen[0]).parent == tmp_path / "scratch" and seen[0].endswith("a.ckpt")
    assert os.listdir(tmp_path / "scratch") == [] and os.listdir(tmp_path / "out") == ["a.ckpt"]
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "out" / "a.ckpt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_has_null_where_a_number_is_undefined(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"iou": float("nan"), "rows": [1.5, float("inf")], "pair": (1, 2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"iou": None, "rows": [1.5, None], "pair": [1, 2]}
