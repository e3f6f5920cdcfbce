"""Photographs to radiance fields and to surfaces in the same time, SASNet beside hash grids and SIREN.

Two scenes: instant-ngp's fox (from SASNET_SHARED_DATA) for radiance fields, and the bundled Armadillo, rendered on the
spot, for surfaces too, whose error is measured against the mesh that was rendered. All rows of a scene train for the
same seconds on the same pictures with the same rays a step and samples a ray; learning rates decay over as many steps
as fit. ``ngp`` and ``siren`` are the sasnet method's own pipeline with another network. nerfstudio's nerfacto runs its
torch implementation wherever tiny-cuda-nn is missing; its neus-facto cannot be built without tiny-cuda-nn and is left
out then. PSNR and SSIM are means over two evaluation pictures.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.util
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.report import print_table, write_rows

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SASNET_SHARED_DATA", ROOT.parent / "shared" / "data"))
FOX = SHARED / "scenes" / "fox"
RADIANCE_ROWS = ("sasnet-nerfacto", "nerfacto", "sasnet-nerfacto ngp")
SURFACE_ROWS = ("sasnet-neus-facto", "sasnet-neus-facto ngp", "sasnet-neus-facto siren", "neus-facto", "nerfacto")
SECONDS = {"fox": 40.0, "armadillo": 60.0}
QUICK_SECONDS = 15.0
EVAL_PICTURES = [0, 3]
TRIAL_STEPS = 12
SURFACE_RAYS = 256
SURFACE_DENSITY = 10.0
"""Density that is taken for the surface of a radiance field, per scene unit, as in extract_mesh.py."""
NETWORKS: dict[str, dict[str, Any]] = {
    # The hash grid of nerfacto's and neus-facto's fields, as far as a CPU has the memory bandwidth for it.
    "ngp": {"levels": 16, "log2_entries": 17, "grid_max": 2048, "width": 64, "hidden_layers": 1},
    # As wide and deep as sasnet-neus-facto's SASNet on a CPU.
    "siren": {"width": 128, "hidden_layers": 2, "omega_0": 30.0},
}


@dataclass
class Row:
    """One line of the table; distances are shares of the true surface's longest side."""

    scene: str
    method: str
    seconds: float
    steps: int
    ms_per_step: float
    field_parameters: int
    all_parameters: int
    psnr: float
    ssim: float
    eval_s: float
    mesh_to_truth: float | None = None
    truth_to_mesh: float | None = None
    components: int | None = None


def run(json_path: Path | None, quick: bool, pictures: Path | None = None) -> None:
    """Train and measure every row; print the table and write it as JSON."""
    can_build_neus = importlib.util.find_spec("tinycudann") is not None and torch.cuda.is_available()
    if not FOX.is_dir():
        print(f"reconstruction: the fox scene is not at '{FOX}' and is left out; set SASNET_SHARED_DATA.")
    with tempfile.TemporaryDirectory() as folder:
        scenes: dict[str, tuple[Path, tuple[str, ...]]] = {"fox": (FOX, RADIANCE_ROWS)} if FOX.is_dir() else {}
        surface_rows = tuple(row for row in SURFACE_ROWS if row != "neus-facto" or can_build_neus)
        scenes["armadillo"] = (render_armadillo(Path(folder) / "armadillo"), surface_rows)
        rows = []
        for scene, (data, methods) in scenes.items():
            for method in methods:
                seconds = QUICK_SECONDS if quick else SECONDS[scene]
                rows.append(measure(scene, data, method, seconds, pictures and pictures / scene))
                show(rows)
                write_rows(json_path, rows)


def render_armadillo(folder: Path) -> Path:
    """Forty small pictures of the Armadillo with their truth, see scripts/render_scene.py."""
    from sasnet_ns.shapes.named import resolve_mesh
    from sdf_tools.pictures.scene_files import SceneSettings, write_scene

    mesh = resolve_mesh("armadillo")
    write_scene(mesh, folder, SceneSettings(views=40, val_views=4, test_views=1, size=(160, 160), occlusion_rays=8))
    return folder


def build_config(scene: str, data: Path, method: str, steps: int, folder: Path) -> Any:
    """The trainer's configuration of a row."""
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
    from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig

    from sasnet_ns.methods import sasnet_nerfacto, sasnet_neus_facto

    name, network = (*method.split(), "")[:2]
    ours: Any = sasnet_neus_facto.config if "neus" in name else sasnet_nerfacto.config
    config: Any = copy.deepcopy(ours if name.startswith("sasnet") else method_configs[name])
    manager = copy.deepcopy(ours.pipeline.datamanager)
    if scene == "fox":
        manager.dataparser = InstantNGPDataParserConfig(data=data)
        manager.camera_res_scale_factor = 0.5
    else:
        # As in docs/neus.md, and in the scene's own coordinates, which the truth is in.
        manager.dataparser = BlenderDataParserConfig(data=data, alpha_color=None)
        manager.train_num_rays_per_batch = SURFACE_RAYS
    config.pipeline.datamanager = manager
    model = config.pipeline.model
    if scene != "fox":
        model.background_color = "random"  # the pictures are transparent
    if not name.startswith("sasnet"):
        _as_ours(config, ours.pipeline.model, steps)
    elif network:
        place = model.sdf_field if "neus" in name else model
        place.network, place.network_options = network, dict(NETWORKS[network])
    config.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
    config.vis, config.max_num_iterations = "tensorboard", steps
    config.output_dir, config.experiment_name, config.timestamp = folder, scene, method.replace(" ", "-")
    return config


def _as_ours(config: Any, ours: Any, steps: int) -> None:
    """nerfstudio's method with our samples a ray, at full precision, its learning rates decaying over the steps."""
    model = config.pipeline.model
    shared = (
        "num_proposal_samples_per_ray", "num_nerf_samples_per_ray", "num_neus_samples_per_ray", "proposal_warmup",
        "eval_num_rays_per_chunk",
    )  # fmt: skip
    for name in shared:
        if hasattr(model, name) and hasattr(ours, name):
            setattr(model, name, getattr(ours, name))
    if hasattr(model, "camera_optimizer"):
        model.camera_optimizer.mode = "off"
    if hasattr(model, "implementation") and importlib.util.find_spec("tinycudann") is None:
        model.implementation = "torch"
    config.mixed_precision = False
    for entry in config.optimizers.values():
        if hasattr(entry["scheduler"], "max_steps"):
            entry["scheduler"].max_steps = steps


def build_trainer(config: Any) -> Any:
    """A ready trainer; nothing is downloaded."""
    from sasnet_ns.models.lpips import lpips_without_download

    torch.manual_seed(0)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    with lpips_without_download():
        trainer.setup()
    return trainer


def train(trainer: Any, steps: int, seconds: float = float("inf")) -> tuple[int, float]:
    """Training steps with the trainer's callbacks, until the steps or the time are over.

    Returns:
        Steps done and seconds taken.
    """
    from nerfstudio.engine.callbacks import TrainingCallbackLocation

    trainer.pipeline.train()
    take_step = getattr(trainer, "take_step", trainer.train_iteration)  # ours reports and guards around it
    started, step = time.perf_counter(), 0
    while step < steps and time.perf_counter() - started < seconds:
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        take_step(step)
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        step += 1
    return step, time.perf_counter() - started


def measure(scene: str, data: Path, method: str, seconds: float, pictures: Path | None) -> Row:
    """Find out how many steps fit, train them, evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        trial = build_trainer(build_config(scene, data, method, TRIAL_STEPS, Path(folder)))
        train(trial, TRIAL_STEPS // 2)
        done, took = train(trial, TRIAL_STEPS // 2)
        _forget(trial)
        steps = max(1, int(seconds / (took / done)))
        trainer = build_trainer(build_config(scene, data, method, steps, Path(folder)))
        done, took = train(trainer, 2 * steps, seconds)
        trainer.pipeline.datamanager.fixed_indices_eval_dataloader.image_indices = EVAL_PICTURES
        started = time.perf_counter()
        metrics = trainer.pipeline.get_average_eval_image_metrics(output_path=pictures and pictures / method)
        model = trainer.pipeline.model
        row = Row(
            scene=scene,
            method=method,
            seconds=took,
            steps=done,
            ms_per_step=1e3 * took / done,
            field_parameters=_count(model.field),
            all_parameters=_count(model),
            psnr=float(metrics["psnr"]),
            ssim=float(metrics["ssim"]),
            eval_s=time.perf_counter() - started,
        )
        if scene == "armadillo":
            row = dataclasses.replace(row, **surface_error(model, data))
        _forget(trainer)
    return row


def surface_error(model: Any, data: Path) -> dict[str, Any]:
    """Mean distances to and from the truth, and the number of pieces; empty where the model has no surface yet."""
    from sdf_tools.extraction import extract_mesh
    from sdf_tools.geometry import Mesh
    from sdf_tools.io.loading import load
    from sdf_tools.metrics import evaluate

    model.eval()
    truth = load(data / "mesh.ply")
    assert isinstance(truth, Mesh)
    field = model.field
    is_distance = hasattr(field, "forward_geonetwork")

    def values(points: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return field.forward_geonetwork(points)[:, 0] if is_distance else field.density_fn(points)[:, 0]

    try:
        mesh = extract_mesh(
            values,
            128,
            bounds=[[-1.0] * 3, [1.0] * 3],
            level=0.0 if is_distance else SURFACE_DENSITY,
            inside="below" if is_distance else "above",
            device=model.device,
        )
    except ValueError:  # nothing passes the level
        return {}
    result = evaluate(mesh, truth, samples=100_000, iou_samples=20_000, paper=False)
    side = 0.9  # the longest side in the metric's units
    return {
        "mesh_to_truth": result.accuracy_mean / side,
        "truth_to_mesh": result.completeness_mean / side,
        "components": result.components_prediction,
    }


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _forget(trainer: Any) -> None:
    """Close event files and free memory before the next trainer."""
    from nerfstudio.utils import writer

    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()
    del trainer
    gc.collect()


def show(rows: list[Row]) -> None:
    """The rows so far."""
    names = [f.name for f in dataclasses.fields(Row)]
    title = f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print_table(title, names, (), ([_text(getattr(row, name)) for name in names] for row in rows))


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if value < 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
