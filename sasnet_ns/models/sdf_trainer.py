"""The trainer of sasnet-sdf: geometry in the terminal, and the bare field beside the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from sasnet_ns.models.described_trainer import RunConfig
from sasnet_ns.models.next_commands import after_training
from sasnet_ns.models.optimization import SparseLogOptimizers
from sasnet_ns.models.run_description import read_description
from sasnet_ns.models.sdf_pipeline import SASNetSDFPipeline, SASNetSDFPipelineConfig, quick_metric_tensors
from sasnet_ns.models.trainer import ResumableTrainer
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.shapes.named import canonical_name, shape_file
from sasnet_ns.training.budget import steps_within
from sasnet_ns.training.device_steps import DeviceSteps, why_no_graph, why_not_optimizers
from sasnet_ns.training.loop import StepMaker
from sasnet_ns.training.recipe import Recipe

TRAINER_SECONDS = 5e-4
"""What nerfstudio's trainer adds to a step."""
LOW_IOU = 0.9
"""Intersection over union below which the closing summary warns."""
NO_SHAPE = 0.01
"""The same below which a finished run has failed."""
JUDGED_AFTER = 100
"""Steps before which no run is called failed, nor its IoU looked at for a fall."""


@dataclass
class SASNetTrainerConfig(RunConfig):
    """Configuration of a run."""

    _target: type = field(default_factory=lambda: SASNetTrainer)
    """Class to build."""
    pipeline: SASNetSDFPipelineConfig = field(default_factory=SASNetSDFPipelineConfig)
    """The shape, the samples drawn from it, the network and its losses."""
    steps_per_geometry_eval: int = 1000
    """Steps between two lines with intersection over union and surface error, in the terminal and in TensorBoard; 0 for
    none."""

    seconds: float | None = None
    """Seconds of training, instead of --max-num-iterations: as many steps as fit, measured beforehand, and the schedule
    spans them."""

    cuda_graph: bool = False
    """On a CUDA device, record a training step and replay it, so that nothing but its launch is left to the processor;
    refuse to train where network, objective or optimizers forbid it, or several processes train. Off by default,
    because it has never run on a device (docs/speed.md)."""

    def set_experiment_name(self) -> None:
        """Runs are named after the shape: a file's own name, not its folder's."""
        data = self.pipeline.datamanager.data
        if self.experiment_name is None and data is not None:
            self.experiment_name = canonical_name(data) or Path(data).stem
        super().set_experiment_name()

    def print_to_terminal(self) -> None:
        """What will happen, in a few lines; config.yml holds the whole configuration."""
        model, data = self.pipeline.model, self.pipeline.datamanager
        CONSOLE.print(
            f"[bold]{self.method_name}[/bold]: {model.network} on {data.data}, {self.max_num_iterations:,} steps of "
            f"{data.points_per_batch:,} points",
            highlight=False,
        )


class SASNetTrainer(ResumableTrainer):
    """Trains a field on a shape; writes ``field.pt`` with every checkpoint."""

    config: SASNetTrainerConfig
    pipeline: SASNetSDFPipeline
    _best_iou = 0.0
    _device_steps: DeviceSteps | None = None

    def setup_optimizers(self) -> SparseLogOptimizers:
        """Optimizers whose schedules span the whole run, whose length is chosen here if a budget is given."""
        config = self.config
        kept = self._steps_before() if config.seconds is not None else None
        if kept is not None:
            config.max_num_iterations = self.total_steps = kept
            CONSOLE.print(f"{kept:,} steps in all, as the run began", highlight=False)
        elif config.seconds is not None:
            pipeline, model = self.pipeline, config.pipeline.model
            data, device_alone = pipeline.datamanager, config.cuda_graph and self.world_size == 1

            def recorded(field: SignedDistanceField, steps: int) -> StepMaker:
                return lambda optimizers, rates_at: DeviceSteps(
                    field, model.objective, data.pool, data.config.points_per_batch, steps, optimizers, rates_at
                )

            device_alone = device_alone and why_no_graph(pipeline.model.field, model.objective) is None
            steps = steps_within(
                config.seconds,
                pipeline.model.field,
                model.objective,
                Recipe(),
                lambda step: data.pool.batch(data.config.points_per_batch, step),
                overhead=TRAINER_SECONDS,
                make_steps_of=recorded if device_alone else None,
            )
            if self.world_size > 1:  # all train as long as the first, or they would wait for each other at the end
                agreed = torch.tensor([steps], device=self.device)
                torch.distributed.broadcast(agreed, 0)
                steps = int(agreed)
            config.max_num_iterations = self.total_steps = steps
            CONSOLE.print(f"{config.seconds:g} s of training: {steps:,} steps", highlight=False)
        return super().setup_optimizers()

    def _steps_before(self) -> int | None:
        """Steps of the run that this one goes on from, whose schedule spans them; None where that is not known."""
        earlier = self.config.earlier_run()
        description = None if earlier is None else read_description(earlier)
        steps = None if description is None else description["options"].get("max_num_iterations")
        return steps if isinstance(steps, int) else None

    def take_step(self, step: int) -> Any:
        """One optimisation step: recorded and replayed where that is asked for, else nerfstudio's own."""
        if not self.config.cuda_graph:
            return super().take_step(step)
        if self._device_steps is None:
            reason = self._why_no_graph()
            if reason is not None:
                raise SystemExit(f"sasnet-sdf: --cuda-graph True: steps cannot be recorded: {reason}.")
            self._device_steps = self._make_device_steps()
        self.pipeline.datamanager.train_count += 1
        loss, error = self._device_steps.run(step)[0].unbind()
        self.optimizers.scheduler_step_all(step)
        return loss, {"sdf": loss}, {"sdf_error": error}

    def _why_no_graph(self) -> str | None:
        """Why steps cannot be recorded, a clause; None where they can."""
        config, model = self.config, self.pipeline.model
        reason = why_no_graph(model.field, config.pipeline.model.objective)
        reason = reason or why_not_optimizers(self.optimizers.optimizers.values())
        if reason is not None:
            return reason
        if self.world_size > 1:
            return "several processes average their gradients in each step"
        if self.mixed_precision or self.use_grad_scaler or config.log_gradients:
            return "gradients are scaled or logged"
        if any(steps != 1 for steps in config.gradient_accumulation_steps.values()):
            return "gradients are accumulated over several steps"
        if any(entry["optimizer"].max_norm is not None for entry in config.optimizers.values()):
            return "gradients are clipped"
        schedulers = list(self.optimizers.schedulers.values())
        plain = all(isinstance(s, LambdaLR) and len(s.base_lrs) == 1 for s in schedulers)
        if not plain or self.optimizers.schedulers.keys() != self.optimizers.optimizers.keys():
            return "learning rates do not depend on the step alone"
        if self.pipeline.datamanager.config.renewed:
            return "the pool is renewed"
        return None

    def _make_device_steps(self) -> DeviceSteps:
        schedulers = [self.optimizers.schedulers[name] for name in self.optimizers.optimizers]
        data, model = self.pipeline.datamanager, self.config.pipeline.model

        def rates_at(step: int) -> list[float]:
            return [float(s.base_lrs[0]) * s.lr_lambdas[0](step) for s in schedulers if isinstance(s, LambdaLR)]

        return DeviceSteps(
            self.pipeline.model.field, model.objective, data.pool, data.config.points_per_batch, self.total_steps,
            self.optimizers.optimizers.values(), rates_at, bfloat16=model.bfloat16,
        )  # fmt: skip

    def _slow_down(self, sentence: str) -> None:
        super()._slow_down(sentence)
        if self._device_steps is not None:
            self._device_steps.reset()

    def report_interval(self) -> int:
        """Steps between two reports; 0 for none."""
        return self.config.steps_per_geometry_eval

    def measure(self) -> dict[str, Tensor]:
        """Intersection over union and surface error."""
        return quick_metric_tensors(self.pipeline.model.field, self.pipeline.datamanager.probe)

    def describe(self, report: dict[str, float]) -> str:
        """The same in words."""
        return f"IoU {report['iou']:.4f}  surface error {report['surface_error']:.1e}"

    def data_files(self) -> list[Path]:
        """The shape's file."""
        data = self.config.pipeline.datamanager.data
        return [] if data is None else [shape_file(data)]

    def frame(self) -> dict[str, Any]:
        """The similarity from the shape's units to the box."""
        field = self.pipeline.model.field
        return {"center": field.center.tolist(), "scale": float(field.scale)}

    def collapsed(self, report: dict[str, float]) -> str | None:
        """An intersection over union that has fallen to less than half of what it was, the first steps left out."""
        if self.completed_steps < JUDGED_AFTER:
            return None
        iou, best = report["iou"], self._best_iou
        self._best_iou = max(best, iou)
        if best > 0.5 and not iou > 0.5 * best:
            return f"the IoU is {iou:.3f} at step {self.completed_steps:,}, after {best:.3f}"
        return None

    def failure(self) -> str | None:
        """A field whose inside has next to nothing in common with the shape's, after enough steps to tell."""
        if self.completed_steps < JUDGED_AFTER:
            return None
        iou = float((self._last_report or self.measure())["iou"])
        if iou >= NO_SHAPE:
            return None
        return (
            f"the field does not show the shape (IoU {iou:.4f}); train for longer, lower the learning rates, or see "
            "`sdf-tools info` for whether the shape has an inside."
        )

    def save_extras(self) -> None:
        """The bare field, which needs neither nerfstudio nor the configuration."""
        self.pipeline.model.field.save(self.base_dir / "field.pt", step=self.completed_steps)

    def summary_rows(self, config_path: str) -> dict[str, str]:
        """The last report, and commands to extract, measure and look."""
        rows = {}
        if self._last_report:
            rows["IoU"] = f"{self._last_report['iou']:.4f}"
            if self._last_report["iou"] < LOW_IOU:
                rows["warning"] = (
                    f"an IoU below {LOW_IOU} is low: train for longer, or look at the mesh before using it"
                )
            rows["surface error"] = f"{self._last_report['surface_error']:.1e} (longest side is 0.9)"
        return rows | after_training(config_path)
