"""The nerfstudio methods that this package's entry points name."""

from __future__ import annotations

import contextlib
import functools
import inspect
from types import SimpleNamespace

import torch
from nerfstudio.configs import external_methods
from nerfstudio.configs.base_config import LocalWriterConfig, LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from sasnet_ns.data.photos import PhotoDataManagerConfig
from sasnet_ns.data.surface_photos import SurfaceDataManagerConfig
from sasnet_ns.models.loading import allow_numpy_scalars
from sasnet_ns.models.nerfacto import nerfacto_model_config, nerfacto_optimizers
from sasnet_ns.models.neus import SASNetNeuSModelConfig
from sasnet_ns.models.neus_facto import SASNetNeuSFactoModelConfig
from sasnet_ns.models.optimization import optimizer_configs
from sasnet_ns.models.photo_trainer import PhotoTrainerConfig
from sasnet_ns.models.sdf_trainer import SASNetTrainerConfig
from sasnet_ns.models.surface_model import SASNetSurfaceConfig, surface_field_config, surface_optimizers
from sasnet_ns.models.surface_pipeline import SurfacePipelineConfig, SurfaceTrainerConfig
from sasnet_ns.training.recipe import Recipe

with contextlib.suppress(Exception):  # never stand in the way of other people's methods
    allow_numpy_scalars()
    # nerfstudio reads the source of the whole call stack for each of its fifty external methods, to learn one name; the
    # name alone takes a second less at every start.
    external_methods.inspect = SimpleNamespace(stack=functools.partial(inspect.stack, 0))  # type: ignore[assignment]

sasnet_sdf = MethodSpecification(
    config=SASNetTrainerConfig(
        method_name="sasnet-sdf",
        project_name="sasnet",
        max_num_iterations=Recipe.steps,
        steps_per_save=1000,
        steps_per_eval_batch=200,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        optimizers=optimizer_configs(),
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        # Geometry has its own line in the terminal; nerfstudio's table of rays per second says little here.
        logging=LoggingConfig(steps_per_log=50, local_writer=LocalWriterConfig(enable=False), profiler="none"),
        viewer=ViewerConfig(websocket_host="127.0.0.1", camera_frustum_scale=0.5, jpeg_quality=85),
        vis="viewer+tensorboard",
    ),
    description="SASNet signed distance field of a mesh or point cloud (--data armadillo, or a file).",
)

sasnet_nerfacto = MethodSpecification(
    config=PhotoTrainerConfig(
        method_name="sasnet-nerfacto",
        project_name="sasnet",
        max_num_iterations=5000,
        steps_per_save=1000,
        # A whole picture takes as long as hundreds of steps on a CPU; ns-eval measures all of them.
        steps_per_eval_batch=500,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        pipeline=VanillaPipelineConfig(
            datamanager=PhotoDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=512, eval_num_rays_per_batch=512
            ),
            model=nerfacto_model_config(),
        ),
        optimizers=nerfacto_optimizers(),
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        logging=LoggingConfig(steps_per_log=50, local_writer=LocalWriterConfig(enable=False), profiler="none"),
        viewer=ViewerConfig(websocket_host="127.0.0.1", num_rays_per_chunk=1 << 13),
        vis="viewer+tensorboard",
    ),
    description="nerfacto on SASNet: radiance field of photographs, without tiny-cuda-nn, on CUDA or CPU.",
)


def _surface_method(name: str, model: SASNetSurfaceConfig, rays: int, steps: int) -> SurfaceTrainerConfig:
    """A method that reconstructs a surface from photographs."""
    return SurfaceTrainerConfig(
        method_name=name,
        project_name="sasnet",
        max_num_iterations=steps,
        steps_per_save=500,
        steps_per_eval_batch=500,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        pipeline=SurfacePipelineConfig(
            datamanager=SurfaceDataManagerConfig(
                # The box is around what the cameras look at, not around the cameras.
                dataparser=NerfstudioDataParserConfig(center_method="focus"),
                train_num_rays_per_batch=rays,
                eval_num_rays_per_batch=rays,
            ),
            model=model,
        ),
        optimizers=surface_optimizers(),
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        logging=LoggingConfig(steps_per_log=50, local_writer=LocalWriterConfig(enable=False), profiler="none"),
        viewer=ViewerConfig(websocket_host="127.0.0.1", num_rays_per_chunk=1 << 11),
        vis="viewer+tensorboard",
    )


# A CPU step takes well under a second with these, and a small scene its ten minutes.
_RAYS, _STEPS = (2048, 20_000) if torch.cuda.is_available() else (256, 1_500)

sasnet_neus = MethodSpecification(
    config=_surface_method("sasnet-neus", SASNetNeuSModelConfig(sdf_field=surface_field_config()), _RAYS // 2, _STEPS),
    description="NeuS on SASNet: a surface from photographs, without tiny-cuda-nn, on CUDA or CPU.",
)

sasnet_neus_facto = MethodSpecification(
    config=_surface_method(
        "sasnet-neus-facto", SASNetNeuSFactoModelConfig(sdf_field=surface_field_config()), _RAYS, _STEPS
    ),
    description="NeuS-facto on SASNet: as sasnet-neus, several times quicker by proposal networks.",
)
