"""The trainer of sasnet-sdf: geometry in the terminal, and the bare field beside the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from sasnet_ns.models.next_commands import after_training
from sasnet_ns.models.optimization import SparseLogOptimizers
from sasnet_ns.models.sdf_pipeline import SASNetSDFPipeline, SASNetSDFPipelineConfig, quick_metrics
from sasnet_ns.models.trainer import ResumableTrainer
from sasnet_ns.shapes.named import canonical_name
from sasnet_ns.training.budget import steps_within
from sasnet_ns.training.recipe import Recipe

TRAINER_SECONDS = 5e-4
"""What nerfstudio's trainer adds to a step."""


@dataclass
class SASNetTrainerConfig(TrainerConfig):
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

    def setup_optimizers(self) -> SparseLogOptimizers:
        """Optimizers whose schedules span the whole run, whose length is chosen here if a budget is given."""
        config = self.config
        if config.seconds is not None and config.load_dir is None:
            pipeline, model = self.pipeline, config.pipeline.model
            steps = steps_within(
                config.seconds,
                pipeline.model.field,
                model.objective,
                Recipe(),
                lambda step: pipeline.datamanager.pool.batch(pipeline.datamanager.config.points_per_batch, step),
                overhead=TRAINER_SECONDS,
            )
            config.max_num_iterations = self.total_steps = steps
            CONSOLE.print(f"{config.seconds:g} s of training: {steps:,} steps", highlight=False)
        return super().setup_optimizers()

    def report_interval(self) -> int:
        """Steps between two reports; 0 for none."""
        return self.config.steps_per_geometry_eval

    def measure(self) -> dict[str, float]:
        """Intersection over union and surface error."""
        return quick_metrics(self.pipeline.model.field, self.pipeline.datamanager.probe)

    def describe(self, report: dict[str, float]) -> str:
        """The same in words."""
        return f"IoU {report['iou']:.4f}  surface error {report['surface_error']:.1e}"

    def save_extras(self) -> None:
        """The bare field, which needs neither nerfstudio nor the configuration."""
        self.pipeline.model.field.save(self.base_dir / "field.pt")

    def summary_rows(self, config_path: str) -> dict[str, str]:
        """The last report, and commands to extract, measure and look."""
        rows = {}
        if self._last_report:
            rows["IoU"] = f"{self._last_report['iou']:.4f}"
            rows["surface error"] = f"{self._last_report['surface_error']:.1e} (longest side is 0.9)"
        return rows | after_training(config_path)
