"""scripts/fit_image.py and scripts/fit_volume.py as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run of a few steps on a small picture."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("image")
    y, x = np.meshgrid(np.linspace(0, 1, 20), np.linspace(0, 1, 24), indexing="ij")
    Image.fromarray(np.uint8(255 * np.stack([x, y, 1 - x], -1))).save(folder / "ramp.png")
    result = call(
        "scripts/fit_image.py", "--image", str(folder / "ramp.png"), "--network", "siren", "--parameters", "700",
        "--network-config", "omega_0", "5.0", "--steps", "30", "--learning-rate", "5e-3", "--device", "cpu",
        "--output", str(folder / "run"), "--scale", "2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, result


def test_options_reach_the_network_and_the_pictures(fitted):
    from PIL import Image

    folder, result = fitted
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 30 and abs(metrics["parameters"] - 700) < 60 and metrics["psnr"] > 15
    assert metrics["network_config"]["omega_0"] == 5.0
    assert f"PSNR {metrics['psnr']:.2f} dB" in result.stdout
    assert Image.open(folder / "run" / "rendered_x2_shift0.png").size == (48, 40)


def test_a_checkpoint_renders_a_window_and_refuses_another_image(fitted):
    from PIL import Image

    folder, _ = fitted
    checkpoint = str(folder / "run" / "checkpoint.pt")
    result = call(
        "scripts/fit_image.py", "--checkpoint", checkpoint, "--scale", "4", "--shift", "0.125",
        "--window", "2", "7", "0", "10", "--output", str(folder / "zoom"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert Image.open(folder / "zoom" / "rendered_x4_shift0.125.png").size == (40, 20)
    Image.fromarray(np.zeros((8, 8), np.uint8) + np.arange(8, dtype=np.uint8)).save(folder / "other.png")
    result = call(
        "scripts/fit_image.py", "--checkpoint", checkpoint, "--image", str(folder / "other.png"), "--output", "x"
    )
    assert result.returncode == 1 and "give the image that it was fitted to" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (ROOT / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["scripts/fit_image.py", "--output", "x"], "give an --image"),
        (["scripts/fit_image.py", "--checkpoint", "nowhere.pt", "--output", "x"], "no checkpoint at"),
        (["scripts/fit_volume.py", "--volume", "nowhere.npz", "--output", "x"], "no volume at"),
    ],
)
def test_scripts_refuse_in_one_sentence(arguments, sentence):
    result = call(*arguments)
    assert result.returncode == 1 and sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
