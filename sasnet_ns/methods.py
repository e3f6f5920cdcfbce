"""The nerfstudio methods that this package's entry points name."""

from __future__ import annotations

import contextlib

import torch
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.plugins.types import MethodSpecification

from sasnet_ns.fitting.recipe import Recipe
from sasnet_ns.models.optimization import optimizer_configs
from sasnet_ns.models.sdf_trainer import SASNetTrainerConfig


def _allow_numpy_scalars() -> None:
    """Let ``torch.load(weights_only=True)`` read the numpy scalars in other methods' checkpoints.

    nerfstudio's own schedulers leave them there, and nerfstudio 1.1.5 loads without saying otherwise: on torch 2.6 and
    later resuming, ns-eval and ns-viewer fail (nerfstudio issue 3683). They hold no code.
    """
    import numpy as np

    core = getattr(np, "_core", None) or np.core
    kinds = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)}
    torch.serialization.add_safe_globals([core.multiarray.scalar, np.dtype, *kinds])


with contextlib.suppress(Exception):  # never stand in the way of other people's methods
    _allow_numpy_scalars()

sasnet_sdf = MethodSpecification(
    config=SASNetTrainerConfig(
        method_name="sasnet-sdf",
        project_name="sasnet",
        max_num_iterations=Recipe.steps,
        steps_per_save=500,
        steps_per_eval_batch=200,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        optimizers=optimizer_configs(),
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        # Geometry has its own line in the terminal; nerfstudio's table of rays per second says little here.
        logging=LoggingConfig(steps_per_log=50, local_writer=LocalWriterConfig(enable=False), profiler="none"),
        viewer=ViewerConfig(websocket_host="127.0.0.1", camera_frustum_scale=0.5),
        vis="viewer+tensorboard",
    ),
    description="SASNet signed distance field of a mesh or point cloud (--data armadillo, or a file).",
)
