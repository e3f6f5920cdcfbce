"""The trainer of methods that learn from photographs: loss and PSNR in the terminal, nothing else to configure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from sasnet_ns.data.frames import save_frame
from sasnet_ns.models.described_trainer import RunConfig
from sasnet_ns.models.next_commands import after_training
from sasnet_ns.models.trainer import ResumableTrainer


@dataclass
class PhotoTrainerConfig(RunConfig):
    """Configuration of a run on photographs."""

    _target: type = field(default_factory=lambda: PhotoTrainer)
    """Class to build."""
    steps_per_report: int = 100
    """Steps between two lines with loss and PSNR in the terminal and in TensorBoard; 0 for none."""

    def save_config(self) -> None:
        """Refuse a background that the parser paints over, otherwise as every run."""
        model, data = self.pipeline.model, self.pipeline.datamanager
        painted = getattr(getattr(data, "dataparser", None), "alpha_color", None)
        if isinstance(model, NerfactoModelConfig) and model.background_color == "random" and painted is not None:
            raise SystemExit(
                f"{self.method_name}: --pipeline.model.background-color random needs the pictures' transparency, and "
                f"the parser paints it {painted}, so that empty space would become opaque; add --alpha-color None "
                "after the parser's name."
            )
        super().save_config()

    def print_to_terminal(self) -> None:
        """What will happen, in a line; config.yml holds the whole configuration."""
        data: Any = self.pipeline.datamanager
        where = data.data if data.data is not None else data.dataparser.data
        CONSOLE.print(
            f"[bold]{self.method_name}[/bold] on {where}, {self.max_num_iterations:,} steps of "
            f"{data.train_num_rays_per_batch:,} rays",
            highlight=False,
        )


class PhotoTrainer(ResumableTrainer):
    """Trains a model on photographs and says how well it matches them."""

    config: PhotoTrainerConfig
    _mean_psnr: Tensor | None = None
    _other_metrics: dict[str, Tensor]

    def report_interval(self) -> int:
        """Steps between two reports; 0 for none."""
        return self.config.steps_per_report

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything, and keep in the run what the axes of its data set are."""
        try:
            super().setup(test_mode)
        except KeyboardInterrupt:
            self._forget_run()
            raise SystemExit(f"{self.config.method_name}: Stopped before training; nothing was saved.") from None
        data: Any = self.pipeline.datamanager
        save_frame(self.base_dir, data.config.dataparser)

    def take_step(self, step: int) -> Any:
        """One optimisation step, whose metrics the report of the same step tells."""
        loss, losses, metrics = super().take_step(step)
        values = {name: value.detach() for name, value in metrics.items()}
        psnr = values.pop("psnr", None)
        if psnr is not None:
            self._mean_psnr = psnr.clone() if self._mean_psnr is None else self._mean_psnr.lerp_(psnr, 0.05)
        self._other_metrics = values
        return loss, losses, metrics

    def data_files(self) -> list[Path]:
        """The pictures of training, and the folder's own description of its cameras."""
        manager: Any = self.pipeline.datamanager
        outputs = getattr(manager, "train_dataparser_outputs", None)
        data = Path(manager.config.data if manager.config.data is not None else manager.config.dataparser.data)
        folder = data.parent if data.suffix == ".json" else data
        cameras = [data if data != folder else folder / "transforms.json", folder / "cameras_sphere.npz"]
        return [*cameras, *(Path(name) for name in getattr(outputs, "image_filenames", []))]

    def measure(self) -> dict[str, float]:
        """The running mean of the PSNR on the pixels drawn in training, and the model's other metrics."""
        others = {name: float(value) for name, value in self._other_metrics.items()}
        return others if self._mean_psnr is None else {"train_psnr": float(self._mean_psnr), **others}

    def describe(self, report: dict[str, float]) -> str:
        """The same in words."""
        others = [f"{name} {value:.3g}" for name, value in report.items() if name not in ("loss", "train_psnr")]
        return "  ".join([f"PSNR {report['train_psnr']:.2f}"] * ("train_psnr" in report) + others)

    def summary_rows(self, config_path: str) -> dict[str, str]:
        """The last report, and commands to extract, measure and look."""
        rows = {}
        if "train_psnr" in self._last_report:
            rows["PSNR"] = f"{self._last_report['train_psnr']:.2f} dB on training pixels"
        return rows | after_training(config_path)
