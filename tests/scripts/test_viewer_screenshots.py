"""What scripts/viewer_screenshots.py does besides opening a browser."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import viewer_screenshots  # noqa: E402


def test_pictures_in_a_row_lose_the_white_that_all_have() -> None:
    first, second = np.full((200, 300, 3), 255, np.uint8), np.full((200, 300, 3), 255, np.uint8)
    first[80:100, 100:120], second[90:120, 140:160] = 0, 0
    sheet = viewer_screenshots.side_by_side([first, second], ["a", "b"])
    assert sheet.dtype == np.uint8
    # Rows 80 to 119 and columns 100 to 159 with fifteen pixels around them, twice, and a line of titles.
    assert sheet.shape[1] == 2 * (60 + 30 - 1) and 40 + 30 - 1 < sheet.shape[0] < 140
    black = int((sheet.max(axis=-1) < 128)[-69:].sum())
    assert black == pytest.approx(20 * 20 + 30 * 20, rel=0.12)


def test_every_picture_that_is_kept_is_in_the_guide_and_names_its_run() -> None:
    guide = (ROOT / "docs" / "viewer.md").read_text()
    for name, (run, _) in viewer_screenshots.SHOTS.items():
        kept = (viewer_screenshots.IMAGES / f"viewer_{name}.png").exists()
        assert kept == (f"(images/viewer_{name}.png)" in guide) and run in viewer_screenshots.RUNS


def test_a_run_without_its_data_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert viewer_screenshots.train("lucy", tmp_path / "runs", tmp_path / "nowhere") is None
    assert "lucy is left out" in capsys.readouterr().out
