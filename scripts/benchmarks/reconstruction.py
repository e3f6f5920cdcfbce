"""Photographs to a radiance field in the same time: sasnet-nerfacto beside nerfstudio's own nerfacto.

Every row trains for about the same seconds on the same pictures at half size, with the same rays a step and samples a
ray; learning rates decay over as many steps as fit. nerfacto runs its torch implementation, as it does wherever
tiny-cuda-nn is missing. ``ngp`` is sasnet-nerfacto's own pipeline with a hash-grid MLP in place of SASNet. PSNR and
SSIM are means over two evaluation pictures. The scene is instant-ngp's fox, from SASNET_SHARED_DATA.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SASNET_SHARED_DATA", ROOT.parent / "shared" / "data"))
SCENE = SHARED / "scenes" / "fox"
ROWS = ("sasnet-nerfacto", "nerfacto", "ngp")
SECONDS, QUICK_SECONDS = 90, 20
EVAL_PICTURES = [0, 3]
TRIAL_STEPS = 12


@dataclass
class Row:
    """One line of the table."""

    method: str
    seconds: float
    steps: int
    ms_per_step: float
    field_parameters: int
    all_parameters: int
    psnr: float
    ssim: float
    eval_s: float


def run(json_path: Path | None, quick: bool, pictures: Path | None = None) -> None:
    """Train and measure every row; print the table and write it as JSON."""
    if not SCENE.is_dir():
        raise SystemExit(f"reconstruction: the fox scene is not at '{SCENE}'; set SASNET_SHARED_DATA.")
    rows = []
    for method in ROWS:
        rows.append(measure(method, QUICK_SECONDS if quick else SECONDS, pictures))
        print_table(rows)
        if json_path is not None:
            json_path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


def build_config(method: str, steps: int, folder: Path) -> Any:
    """The trainer's configuration of a row."""
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig

    from sasnet_ns.methods import sasnet_nerfacto

    ours = sasnet_nerfacto.config
    config = copy.deepcopy(method_configs["nerfacto"] if method == "nerfacto" else ours)
    model, data = config.pipeline.model, copy.deepcopy(ours.pipeline.datamanager)
    data.dataparser = InstantNGPDataParserConfig(data=SCENE)
    data.camera_res_scale_factor = 0.5
    config.pipeline.datamanager = data
    if method == "nerfacto":
        model.implementation = "torch"
        for name in ("num_proposal_samples_per_ray", "num_nerf_samples_per_ray", "proposal_warmup"):
            setattr(model, name, getattr(ours.pipeline.model, name))
        model.camera_optimizer.mode = "off"
        model.eval_num_rays_per_chunk = ours.pipeline.model.eval_num_rays_per_chunk
        config.mixed_precision = False
        for entry in config.optimizers.values():
            entry["scheduler"].max_steps = steps
    elif method != "sasnet-nerfacto":
        model.network = method
        # The hash grid of nerfacto's field, as far as a CPU has the memory bandwidth for it.
        model.network_options = {"levels": 16, "log2_entries": 17, "grid_max": 2048, "width": 64, "hidden_layers": 1}
    config.machine.device_type = "cpu"
    config.vis, config.max_num_iterations = "tensorboard", steps
    config.output_dir, config.experiment_name, config.timestamp = folder, "fox", method
    return config


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
    started, step = time.perf_counter(), 0
    while step < steps and time.perf_counter() - started < seconds:
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        trainer.train_iteration(step)
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        step += 1
    return step, time.perf_counter() - started


def measure(method: str, seconds: float, pictures: Path | None) -> Row:
    """Find out how many steps fit, train them, evaluate."""
    with tempfile.TemporaryDirectory() as folder:
        trial = build_trainer(build_config(method, TRIAL_STEPS, Path(folder)))
        train(trial, TRIAL_STEPS // 2)
        done, took = train(trial, TRIAL_STEPS // 2)
        _forget(trial)
        steps = max(1, int(seconds / (took / done)))
        trainer = build_trainer(build_config(method, steps, Path(folder)))
        done, took = train(trainer, 2 * steps, seconds)
        trainer.pipeline.datamanager.fixed_indices_eval_dataloader.image_indices = EVAL_PICTURES
        started = time.perf_counter()
        metrics = trainer.pipeline.get_average_eval_image_metrics(output_path=pictures and pictures / method)
        model = trainer.pipeline.model
        row = Row(
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
        _forget(trainer)
    return row


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


def print_table(rows: list[Row]) -> None:
    """The rows so far."""
    from rich.console import Console
    from rich.table import Table

    names = [f.name for f in dataclasses.fields(Row)]
    title = f"fox, {platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
    table = Table(*names, title=title)
    for row in rows:
        table.add_row(*(_text(getattr(row, name)) for name in names))
    Console(width=160).print(table)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
