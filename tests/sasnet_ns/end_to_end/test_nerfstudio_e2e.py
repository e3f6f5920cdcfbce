"""The commands as a user types them: ns-train, ns-eval, extract_mesh.py, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nerfstudio")

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent

TINY = (
    "--max-num-iterations=60",
    "--steps-per-geometry-eval=30",
    "--pipeline.datamanager.pool-size=20000",
    "--pipeline.datamanager.points-per-batch=1000",
    "--pipeline.datamanager.probe-points=5000",
    "--pipeline.model.sasnet.embedding-width=64",
    "--pipeline.model.sasnet.hidden-widths=64 64",
    "--pipeline.model.sasnet.groups=8 8",
    "--pipeline.eval-resolution=48",
    "--pipeline.eval-samples=20000",
)


def _run(folder: Path, *command: str | Path, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    arguments = [
        part for word in map(str, command) for part in (word.split("=", 1) if word.startswith("--") else [word])
    ]
    flat = [piece for part in arguments for piece in (part.split() if part in ("64 64", "8 8") else [part])]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(flat, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def test_train_evaluate_extract(tmp_path: Path, sphere_file: Path) -> None:
    trained = _run(
        tmp_path, BIN / "ns-train", "sasnet-sdf", "--data", sphere_file, "--vis=tensorboard", "--timestamp=run", *TINY
    )
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert "Training finished" in trained.stdout
    assert "step    60/60" in trained.stdout and "IoU" in trained.stdout
    assert "Traceback" not in trained.stderr and "leaked" not in trained.stderr
    run = tmp_path / "outputs" / "sphere" / "sasnet-sdf" / "run"
    assert (run / "config.yml").is_file() and (run / "field.pt").is_file()
    assert [path.name for path in (run / "nerfstudio_models").iterdir()] == ["step-000000059.ckpt"]
    assert list(run.glob("events.out.tfevents.*"))

    evaluated = _run(
        tmp_path, BIN / "ns-eval", "--load-config", run / "config.yml", "--output-path=eval.json",
        "--render-output-path=pictures",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    results: dict[str, Any] = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert {"chamfer_paper", "iou", "accuracy_mean", "completeness_mean"} <= set(results)
    assert 0.1 < results["iou"] <= 1  # after 60 steps of a tiny network
    assert len(list((tmp_path / "pictures").glob("eval_surface_*.png"))) == 4

    extracted = _run(
        tmp_path, sys.executable, ROOT / "scripts" / "extract_mesh.py", "--load-config", run / "config.yml",
        "--output-path=mesh.ply", "--resolution=48",
    )  # fmt: skip
    assert extracted.returncode == 0, extracted.stderr[-2000:]
    from sdf_tools.io.loading import load

    mesh: Any = load(tmp_path / "mesh.ply")
    # In the input's units: the trained box around (10, 0, 0) reaches 0.5 / 0.225 to each side.
    offset = mesh.vertices - mesh.vertices.new_tensor([10.0, 0, 0])
    assert 1 < float(offset.abs().max()) < 2.23


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "words"),
    [("nope", "neither a file nor the name"), ("text.ply", "text.ply"), ("points.xyz", "10 points")],
)
def test_bad_input_is_one_sentence_and_exit_code_1(tmp_path: Path, data: str, words: str) -> None:
    (tmp_path / "text.ply").write_text("a letter, not a mesh\n")
    (tmp_path / "points.xyz").write_text("\n".join(f"{i} {i % 3} {i % 2}" for i in range(10)))
    result = _run(tmp_path, BIN / "ns-train", "sasnet-sdf", "--data", data)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    sentences = [line for line in result.stderr.splitlines() if line.startswith("sasnet-sdf: ")]
    assert len(sentences) == 1 and words in sentences[0]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_armadillo_with_all_defaults(tmp_path: Path) -> None:
    trained = _run(
        tmp_path,
        BIN / "ns-train",
        "sasnet-sdf",
        "--data=armadillo",
        "--vis=tensorboard",
        "--timestamp=run",
        timeout=1700,
    )
    assert trained.returncode == 0, trained.stderr[-2000:]
    run = tmp_path / "outputs" / "armadillo" / "sasnet-sdf" / "run"
    evaluated = _run(tmp_path, BIN / "ns-eval", "--load-config", run / "config.yml", "--output-path=eval.json")
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["iou"] > 0.99
    assert results["completeness_mean"] < 5e-4
