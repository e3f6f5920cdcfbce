"""scripts/fit_image.py and scripts/fit_volume.py as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sasnet_ns.commands.cli import main

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


def test_measuring_a_fit_again_keeps_how_it_was_trained(fitted):
    folder, _ = fitted
    run, image = folder / "run", str(folder / "ramp.png")
    kept = {path.name: path.read_bytes() for path in run.iterdir()}
    for output in (run, folder / "measured"):
        result = call(
            "scripts/fit_image.py",
            "--checkpoint",
            str(run / "checkpoint.pt"),
            "--image",
            image,
            "--output",
            str(output),
        )
        assert result.returncode == 0, result.stderr
    own, other = (json.loads((place / "metrics.json").read_text()) for place in (run, folder / "measured"))
    before = json.loads(kept["metrics.json"])
    for metrics in (own, other):
        assert metrics.pop("noisiness") == pytest.approx(before["noisiness"], rel=1e-5)
    assert own == other == {name: value for name, value in before.items() if name != "noisiness"}
    now = {path.name: path.read_bytes() for path in run.iterdir()}
    written = ("checkpoint.pt", "metrics.json")
    assert now.keys() == kept.keys() and all(now[name] == kept[name] for name in now if name not in written)
    assert (folder / "measured" / "history.json").read_bytes() == kept["history.json"]
    assert {"error.png", "curves.png", "spectrum.png"} <= {path.name for path in (folder / "measured").iterdir()}


def test_a_checkpoint_is_not_fitted_with_other_options(fitted):
    folder, _ = fitted
    result = call(
        "scripts/fit_image.py", "--checkpoint", str(folder / "run" / "checkpoint.pt"), "--network", "finer",
        "--steps", "99", "--no-masks", "--output", str(folder / "other"),
    )  # fmt: skip
    assert result.returncode == 1 and not (folder / "other").exists()
    assert "--network, --steps, --no-masks would change nothing" in result.stderr


def test_curves_of_a_fitted_image_are_drawn(fitted):
    folder, _ = fitted
    main(["picture", str(folder / "run"), "--show", "curves", "--output-path", str(folder / "c.svg")])
    assert "<svg" in (folder / "c.svg").read_text()


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
