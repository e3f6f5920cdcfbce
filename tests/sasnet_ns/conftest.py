"""Small runs of the real nerfstudio trainer, in this process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

TrainerFactory = Callable[..., Any]


@pytest.fixture
def make_trainer(tmp_path: Path, sphere_file: Path) -> Iterator[TrainerFactory]:
    """Builds a ready trainer on the sphere: a small network, few points, no viewer unless asked for."""
    pytest.importorskip("nerfstudio")
    # nerfstudio's writer module cannot be the first that is imported, so the method comes before it.
    from sasnet_ns.methods import sasnet_sdf  # isort: skip
    from nerfstudio.utils import writer  # isort: skip

    def make(*, setup: bool = True, **changes: Any) -> Any:
        config = copy.deepcopy(sasnet_sdf.config)
        config.output_dir = tmp_path / "outputs"
        config.timestamp = "run"
        config.vis = "tensorboard"
        config.max_num_iterations = 20
        config.steps_per_geometry_eval = 10
        config.machine.device_type = "cpu"
        config.viewer.quit_on_train_completion = True
        config.pipeline.datamanager.data = sphere_file
        config.pipeline.datamanager.pool_size = 20_000
        config.pipeline.datamanager.points_per_batch = 1_000
        config.pipeline.datamanager.probe_points = 5_000
        config.pipeline.eval_resolution = 32
        config.pipeline.eval_samples = 20_000
        config.pipeline.model.sasnet.embedding_width = 64
        config.pipeline.model.sasnet.hidden_widths = (64, 64)
        config.pipeline.model.sasnet.groups = (8, 8)
        for name, value in changes.items():
            target = config
            *path, last = name.split("__")
            for part in path:
                target = getattr(target, part)
            setattr(target, last, value)
        torch.manual_seed(config.machine.seed)
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        if setup:
            trainer.setup()
        return trainer

    yield make
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()
