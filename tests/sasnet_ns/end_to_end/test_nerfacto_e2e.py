"""sasnet-nerfacto on real photographs, by its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio")

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
SHARED = Path(os.environ.get("SASNET_SHARED_DATA", ROOT.parent / "shared" / "data"))


def check(folder: Path, *command: str | Path, timeout: float = 1500) -> str:
    """Run a command; fail with the end of its output unless it succeeds."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, f"{words}\n{result.stdout[-1500:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_real_photographs(tmp_path: Path) -> None:
    """400 steps on the fox at half size: a recognisable picture (17 dB is what a blurred one has)."""
    scene = SHARED / "scenes" / "fox"
    if not scene.is_dir():
        pytest.skip(f"the fox photographs are not at '{scene}'; set SASNET_SHARED_DATA")
    check(
        tmp_path, BIN / "ns-train", "sasnet-nerfacto", "--data", scene, "--vis", "tensorboard", "--timestamp", "run",
        "--machine.device-type", "cpu", "--max-num-iterations", "400",
        "--pipeline.datamanager.camera-res-scale-factor", "0.5", "instant-ngp-data",
    )  # fmt: skip
    run = tmp_path / "outputs" / "fox" / "sasnet-nerfacto" / "run"
    check(tmp_path, BIN / "ns-eval", "--load-config", run / "config.yml", "--output-path", "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 18.5
    state = torch.load(next((run / "nerfstudio_models").glob("*.ckpt")), weights_only=True)
    assert state["step"] == 399
