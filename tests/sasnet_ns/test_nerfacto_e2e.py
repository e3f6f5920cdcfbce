"""sasnet-nerfacto as commands: on a tiny rendered scene, and on real photographs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("nerfstudio")

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SHARED = Path(os.environ.get("SASNET_SHARED_DATA", ROOT.parent / "shared" / "data"))

TINY = (
    "--vis", "tensorboard", "--machine.device-type", "cpu",
    "--pipeline.datamanager.train-num-rays-per-batch", "64", "--pipeline.datamanager.eval-num-rays-per-batch", "64",
    "--pipeline.model.sasnet.embedding-width", "48", "--pipeline.model.sasnet.hidden-widths", "32", "32",
    "--pipeline.model.sasnet.bands", "2", "--pipeline.model.predict-normals", "True",
)  # fmt: skip


def check(folder: Path, *command: str | Path, timeout: float = 1500) -> str:
    """Run a command; fail with the end of its output unless it succeeds."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, f"{words}\n{result.stdout[-1500:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_on_a_tiny_run(tmp_path: Path, sphere_file: Path) -> None:
    pytest.importorskip("embreex")
    check(
        tmp_path, sys.executable, ROOT / "scripts" / "render_scene.py", "--data", sphere_file, "--output-dir", "scene",
        "--views", "6", "--val-views", "2", "--test-views", "2", "--size", "24", "24", "--occlusion-rays", "0",
    )  # fmt: skip
    method = "sasnet-nerfacto"
    train = (BIN / "ns-train", method, "--data", tmp_path / "scene", *TINY)
    printed = check(tmp_path, *train, "--timestamp", "run", "--max-num-iterations", "8", "blender-data")
    assert "Training finished" in printed
    run = tmp_path / "outputs" / "scene" / method / "run"
    config = run / "config.yml"

    check(
        tmp_path, *train, "--timestamp", "rest", "--max-num-iterations", "12",
        "--load-dir", run / "nerfstudio_models", "blender-data",
    )  # fmt: skip
    assert (run.with_name("rest") / "nerfstudio_models" / "step-000000011.ckpt").is_file()

    check(tmp_path, BIN / "ns-eval", "--load-config", config, "--output-path", "eval.json")
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert {"psnr", "ssim"} <= set(results) and results["psnr"] > 3

    check(
        tmp_path, BIN / "ns-render", "dataset", "--load-config", config, "--output-path", "views", "--split", "test",
        "--rendered-output-names", "rgb", "depth",
    )  # fmt: skip
    assert len([path for path in (tmp_path / "views").rglob("*") if path.is_file()]) == 4
    if shutil.which("ffmpeg"):
        check(
            tmp_path, BIN / "ns-render", "interpolate", "--load-config", config, "--output-path", "way.mp4",
            "--interpolation-steps", "2", "--pose-source", "eval",
        )  # fmt: skip
        assert (tmp_path / "way.mp4").stat().st_size > 0

    export = BIN / "ns-export"
    check(
        tmp_path, export, "pointcloud", "--load-config", config, "--output-dir", "cloud", "--num-points", "200",
        "--remove-outliers", "False", "--normal-method", "model_output", "--normal-output-name", "normals",
        "--save-world-frame", "False",
    )  # fmt: skip
    from sdf_tools.io import load

    points = load(tmp_path / "cloud" / "point_cloud.ply").points  # type: ignore[union-attr]
    assert len(points) >= 200 and len(points.unique(dim=0)) > 100
    check(
        tmp_path, export, "tsdf", "--load-config", config, "--output-dir", "tsdf", "--resolution", "24", "24", "24",
        "--target-num-faces", "200", "--num-pixels-per-side", "64", "--unwrap-method", "custom",
    )  # fmt: skip
    assert list((tmp_path / "tsdf").glob("*.obj"))


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
