"""Every ns-* command on a tiny run of each method that learns from photographs, in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")
pytest.importorskip("embreex")

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
EXTRACT = ROOT / "scripts" / "extract_mesh.py"

SURFACE = (
    "--pipeline.model.sdf-field.sasnet.embedding-width", "32",
    "--pipeline.model.sdf-field.sasnet.hidden-widths", "32", "32",
)  # fmt: skip
DENSITY = (
    "--pipeline.model.sasnet.embedding-width", "48", "--pipeline.model.sasnet.hidden-widths", "32", "32",
    "--pipeline.model.sasnet.bands", "2", "--pipeline.model.predict-normals", "True",
    # Opaque enough for exporters, which drop pixels that are mostly transparent, although hardly trained; and the fog
    # begins at the scene box, not before the cameras.
    "--pipeline.model.average-init-density", "3.0", "--pipeline.model.disable-scene-contraction", "True",
)  # fmt: skip
METHODS = {"sasnet-neus": SURFACE, "sasnet-neus-facto": SURFACE, "sasnet-nerfacto": DENSITY}
STEPS, HALF = 12, 6

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def check(folder: Path, *command: str | Path, gpu: bool = False) -> str:
    """Run a command; fail with the end of its output unless it succeeds."""
    # The number of threads is given: on crowded cores a run would take fewer, and autograd's last bits depend on it.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment |= {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    words = [str(word) for word in command]
    result = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, f"{words}\n{result.stdout[-1500:]}\n{result.stderr[-3000:]}"
    return result.stdout


def train_command(method: str, folder: Path, name: str, device: str = "cpu") -> list[str | Path]:
    """ns-train with a tiny network, few rays and two checkpoints."""
    return [
        BIN / "ns-train", method, "--data", folder / "scene", "--output-dir", folder / "outputs", "--timestamp", name,
        "--vis", "tensorboard", "--machine.device-type", device, "--max-num-iterations", str(STEPS),
        "--steps-per-save", str(HALF), "--save-only-latest-checkpoint", "False",
        "--pipeline.datamanager.train-num-rays-per-batch", "64",
        "--pipeline.datamanager.eval-num-rays-per-batch", "64", *METHODS[method],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, sphere_file: Path) -> Path:
    """A folder with ``scene``, rendered by the script as a user would."""
    folder = tmp_path_factory.mktemp("commands")
    check(
        folder, sys.executable, ROOT / "scripts" / "render_scene.py", "--data", sphere_file, "--output-dir", "scene",
        "--views", "6", "--val-views", "2", "--test-views", "2", "--size", "24", "24", "--occlusion-rays", "0",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=list(METHODS))
def run(request: pytest.FixtureRequest, scene: Path) -> Path:
    """The folder of a finished run of a method."""
    method = request.param
    printed = check(scene, *train_command(method, scene, "run"), "blender-data")
    assert "Training finished" in printed and re.search(r"sasnet(_ns.commands)? extract --load-config", printed)
    return scene / "outputs" / "scene" / method / "run"


def is_density(run: Path) -> bool:
    return run.parent.name == "sasnet-nerfacto"


def test_resuming_equals_never_stopping(run: Path, scene: Path) -> None:
    """From the checkpoint in the middle to the end: every weight and every optimizer's state is the same bits."""
    check(
        scene, *train_command(run.parent.name, scene, "rest"), "--load-dir", run / "nerfstudio_models",
        "--load-step", str(HALF), "blender-data",
    )  # fmt: skip
    name = f"step-{STEPS - 1:09d}.ckpt"
    whole, rest = (
        torch.load(folder / "nerfstudio_models" / name, weights_only=True) for folder in (run, run.with_name("rest"))
    )
    differing = [key for key, value in tensors(whole) if not torch.equal(value, dict(tensors(rest))[key])]
    assert len(dict(tensors(whole))) == len(dict(tensors(rest))) > 20 and differing == []
    middle = torch.load(run / "nerfstudio_models" / f"step-{HALF:09d}.ckpt", weights_only=True)
    assert any(not torch.equal(value, dict(tensors(middle))[key]) for key, value in tensors(whole))


def tensors(state: Any, name: str = "") -> list[tuple[str, torch.Tensor]]:
    """All tensors of a nested state with their paths."""
    if isinstance(state, torch.Tensor):
        return [(name, state)]
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return [pair for key, value in items for pair in tensors(value, f"{name}/{key}")]


def test_ns_eval(run: Path, tmp_path: Path) -> None:
    check(
        tmp_path, BIN / "ns-eval", "--load-config", run / "config.yml", "--output-path", "eval.json",
        "--render-output-path", "pictures",
    )  # fmt: skip
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert {"psnr", "ssim"} <= set(results) and results["psnr"] > 3
    assert len(list((tmp_path / "pictures").glob("*.*"))) >= 2


def test_ns_render(run: Path, tmp_path: Path) -> None:
    check(
        tmp_path, BIN / "ns-render", "dataset", "--load-config", run / "config.yml", "--output-path", "views",
        "--split", "test", "--rendered-output-names", "rgb", "depth", "normals",
    )  # fmt: skip
    assert len([path for path in (tmp_path / "views").rglob("*") if path.is_file()]) == 6
    if shutil.which("ffmpeg") is None:
        pytest.skip("ns-render dataset works; ns-render interpolate writes a film, which needs ffmpeg")
    check(
        tmp_path, BIN / "ns-render", "interpolate", "--load-config", run / "config.yml", "--output-path", "way.mp4",
        "--interpolation-steps", "2", "--pose-source", "eval",
    )  # fmt: skip
    assert (tmp_path / "way.mp4").stat().st_size > 0


def test_ns_export_pointcloud(run: Path, tmp_path: Path) -> None:
    from sdf_tools.io.loading import load

    check(
        tmp_path, BIN / "ns-export", "pointcloud", "--load-config", run / "config.yml", "--output-dir", "cloud",
        "--num-points", "300", "--num-rays-per-batch", "2048", "--remove-outliers", "False",
        "--normal-method", "model_output",
    )  # fmt: skip
    cloud: Any = load(tmp_path / "cloud" / "point_cloud.ply")
    assert len(cloud.points) >= 300 and len(cloud.points.unique(dim=0)) > 100
    assert cloud.normals is not None and (cloud.normals.norm(dim=1) - 1).abs().max() < 1e-3
    if not is_density(run):  # still about the sphere of radius 0.5 that training starts from
        assert ((cloud.points.norm(dim=1) - 0.5).abs() < 0.1).double().mean() > 0.95


def test_ns_export_tsdf(run: Path, tmp_path: Path) -> None:
    box = ("--bounding-box-min", "-2", "-2", "-2", "--bounding-box-max", "2", "2", "2") if is_density(run) else ()
    check(
        tmp_path, BIN / "ns-export", "tsdf", "--load-config", run / "config.yml", "--output-dir", "tsdf",
        "--resolution", "24", "24", "24", "--target-num-faces", "200", "--num-pixels-per-side", "64",
        "--unwrap-method", "custom", *box,
    )  # fmt: skip
    assert list((tmp_path / "tsdf").glob("*.obj"))


def test_ns_export_poisson(run: Path, tmp_path: Path) -> None:
    check(
        tmp_path, BIN / "ns-export", "poisson", "--load-config", run / "config.yml", "--output-dir", "poisson",
        "--num-points", "2000", "--num-rays-per-batch", "2048", "--remove-outliers", "False",
        "--target-num-faces", "300", "--num-pixels-per-side", "64", "--unwrap-method", "custom",
    )  # fmt: skip
    folder = tmp_path / "poisson"
    assert (folder / "poisson_mesh.ply").is_file() and list(folder.glob("*.obj"))


def test_ns_viewer(run: Path, tmp_path: Path) -> None:
    """A browser connects, looks at the scene and gets pictures of it with depth."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (tmp_path / "viewer.log").open("w") as log:
        process = subprocess.Popen(
            [
                str(BIN / "ns-viewer"), "--load-config", str(run / "config.yml"),
                "--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port),
            ],
            cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(tmp_path)},
        )  # fmt: skip
    try:
        frames = asyncio.run(frames_of_a_viewer(port, process, wanted=2))
    finally:
        process.terminate()
        process.wait(30)
    assert len(frames) == 2, (tmp_path / "viewer.log").read_text()[-3000:]
    assert not list(tmp_path.glob("sasnet_viewer_*"))  # its copy of the page
    assert all(frame["rgb_bytes"] and frame["media_type"].startswith("image/") for frame in frames)


async def frames_of_a_viewer(port: int, process: subprocess.Popen[bytes], wanted: int) -> list[dict[str, Any]]:
    """Connect as nerfstudio's page does, move the camera, and collect background pictures for up to two minutes."""
    import msgspec
    from viser._messages import ViewerCameraMessage
    from websockets.asyncio.client import connect

    deadline, frames = time.monotonic() + 120, []
    while time.monotonic() < deadline and process.poll() is None:
        try:
            async with connect(f"ws://127.0.0.1:{port}", max_size=None) as socket_:
                sent = 0
                while len(frames) < wanted and time.monotonic() < deadline:
                    # A camera ten times as far from the origin as it is in the scene: nerfstudio's viewer scales by 10.
                    camera = ViewerCameraMessage(
                        (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 30.0 + sent % 2), 0.8, 1.0, (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)
                    )
                    await socket_.send(msgspec.msgpack.encode(camera.as_serializable_dict()))
                    sent += 1
                    end = time.monotonic() + 2
                    while (rest := end - time.monotonic()) > 0:
                        try:
                            content = msgspec.msgpack.decode(await asyncio.wait_for(socket_.recv(), rest))
                        except TimeoutError:
                            break
                        messages = content if isinstance(content, list) else [content]
                        frames += [m for m in messages if m["type"] == "BackgroundImageMessage"]
                return frames[:wanted]
        except OSError:
            await asyncio.sleep(0.5)  # not listening yet
    return frames


def test_extract_mesh(run: Path, tmp_path: Path) -> None:
    """By this package's script: a mesh with vertex colours, and one with a baked texture, in the data set's units."""
    import trimesh

    from sdf_tools.io.loading import load

    level = ("--level", "3") if is_density(run) else ()
    command = (sys.executable, EXTRACT, "--load-config", run / "config.yml", "--resolution", "32", *level)
    check(tmp_path, *command, "--output-path", "mesh.ply")
    mesh: Any = load(tmp_path / "mesh.ply")
    assert mesh.vertex_colors is not None and mesh.vertex_colors.std() > 0
    if not is_density(run):
        assert (mesh.vertices.norm(dim=1) - 0.5).abs().max() < 0.1
    check(tmp_path, *command, "--output-path", "mesh.obj", "--texture-size", "128", "--simplify-mesh", "500")
    textured = trimesh.load(tmp_path / "mesh.obj", force="mesh")
    assert textured.visual.material.image.size == (128, 128) and len(textured.faces) < 700


@pytest.mark.skipif(not torch.cuda.is_available(), reason="ns-export marching-cubes calls CUDA unconditionally")
@pytest.mark.parametrize("method", ["sasnet-neus", "sasnet-neus-facto"])
def test_ns_export_marching_cubes(method: str, scene: Path, tmp_path: Path) -> None:
    from sdf_tools.io.loading import load

    check(scene, *train_command(method, scene, "cuda", "cuda"), "blender-data", gpu=True)
    check(
        tmp_path, BIN / "ns-export", "marching-cubes", "--load-config",
        scene / "outputs" / "scene" / method / "cuda" / "config.yml", "--output-dir", "cubes", "--resolution", "512",
        "--target-num-faces", "500", "--num-pixels-per-side", "64", "--unwrap-method", "custom", gpu=True,
    )  # fmt: skip
    mesh: Any = load(tmp_path / "cubes" / "sdf_marching_cubes_mesh.ply")
    assert (mesh.vertices.norm(dim=1) - 0.5).abs().max() < 0.1
