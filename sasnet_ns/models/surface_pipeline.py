"""Pipeline and run of the NeuS methods: nerfstudio's own, and a running start from a fitted field."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch.cuda.amp.grad_scaler import GradScaler

from sasnet_ns.data.background import plain_background
from sasnet_ns.data.frames import outputs_to_scene
from sasnet_ns.data.surface_photos import SurfaceDataManager, SurfaceDataManagerConfig
from sasnet_ns.fields.sdf_field import SASNetSDFFieldConfig
from sasnet_ns.models.neus_facto import SASNetNeuSFactoModelConfig
from sasnet_ns.models.photo_trainer import PhotoTrainerConfig
from sasnet_ns.models.surface_model import SASNetSurfaceConfig, SASNetSurfaceModel
from sasnet_ns.networks import SignedDistanceField, build_network


@dataclass
class SurfacePipelineConfig(VanillaPipelineConfig):
    """Configuration of the pipeline."""

    _target: type = field(default_factory=lambda: SurfacePipeline)
    """Class to build."""
    datamanager: SurfaceDataManagerConfig = field(default_factory=SurfaceDataManagerConfig)
    """The photographs."""
    model: SASNetSurfaceConfig = field(default_factory=SASNetNeuSFactoModelConfig)
    """Field, sampling and losses."""


class SurfacePipeline(VanillaPipeline):
    """Photographs and the surface model that is trained on them.

    Training with ``model.sdf_field.init_field`` begins with the surface of that field, which is in the data set's own
    coordinates (those of ``transforms.json`` and its points, before nerfstudio turns and scales them). The field's
    network options replace the configuration's. Evaluation and viewing do not need the file again.

    Raises:
        SystemExit: with one sentence, if the field cannot be used.
    """

    config: SurfacePipelineConfig

    def __init__(
        self,
        config: SurfacePipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        start = config.model.sdf_field.init_field if test_mode == "val" else None
        if start is not None:
            with _one_sentence():
                adopt_network(config.model.sdf_field, start)
        super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        self._look_at_background()
        data, model = self.datamanager, self.model
        assert isinstance(data, SurfaceDataManager) and isinstance(model, SASNetSurfaceModel)
        model.world_to_scene = outputs_to_scene(data.train_dataparser_outputs, data.config.dataparser)
        if start is not None:
            with _one_sentence():
                model.start_from(SignedDistanceField.load(start, device), model.world_to_scene)

    def _look_at_background(self) -> None:
        """For opaque pictures without masks: render before the colour of their borders, or say what else there is."""
        data, config = self.datamanager, self.config.model
        assert isinstance(data, SurfaceDataManager)
        outputs = data.train_dataparser_outputs
        if config.background_model != "none" or config.background_color != "random" or config.sdf_field.inside_outside:
            return
        if data.test_mode == "inference" or outputs.mask_filenames is not None or data.train_dataset.has_alpha():
            return
        color, training = plain_background(outputs.image_filenames), data.test_mode == "val"
        if color is not None:
            assert isinstance(self.model, SASNetSurfaceModel)
            self.model.show_before(torch.tensor(color, dtype=torch.float32))
            said = "#" + "".join(f"{round(255 * value):02x}" for value in color)
            text = (
                f"The pictures are opaque and plain at their borders: {said} is taken as what lies behind the object."
            )
        else:
            text = (
                "[yellow]The pictures are opaque, without masks and not plain at their borders: all that they show "
                "will be built inside the scene box. Real surroundings need --pipeline.model.background-model mlp "
                "--pipeline.model.background-color black; an object alone needs transparency (RGBA), foreground masks "
                "(neus-data) or mask_path in transforms.json; a room --pipeline.model.sdf-field.inside-outside True, "
                "and nerfstudio-data --scale-factor 0.3 or so, which puts its walls inside the scene box."
            )
        if training:
            CONSOLE.print(text, highlight=False)


@dataclass
class SurfaceTrainerConfig(PhotoTrainerConfig):
    """Configuration of a run."""

    pipeline: SurfacePipelineConfig = field(default_factory=SurfacePipelineConfig)
    """The photographs, the field, its losses and its beginning."""

    def save_config(self) -> None:
        """Write config.yml with the network that a running start brings: nobody needs the field's file later."""
        start = self.pipeline.model.sdf_field.init_field
        if start is not None:
            with _one_sentence():
                adopt_network(self.pipeline.model.sdf_field, start)
        super().save_config()


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn a ValueError into the end of the program."""
    try:
        yield
    except ValueError as error:
        raise SystemExit(f"--pipeline.model.sdf-field.init-field: {error}") from None


def adopt_network(config: SASNetSDFFieldConfig, path: Path) -> None:
    """Give a field's configuration the network of a ``field.pt``.

    Raises:
        ValueError: the file is missing or no field, or its network is none that surfaces can be trained with.
    """
    description: dict[str, Any] = SignedDistanceField.load(path).description
    name, options = description["network"], description["network_config"]
    if not hasattr(build_network(name, 3, 1, **options), "output") and name not in ("ngp", "grid"):
        raise ValueError(f"'{path}' holds a {name} network; a running start needs one that ends in a linear layer.")
    config.adopt(name, options)
