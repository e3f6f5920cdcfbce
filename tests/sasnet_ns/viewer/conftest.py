"""Small runs on photographs of a ball, with nerfstudio's viewer."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def ball_scene(tmp_path_factory: pytest.TempPathFactory, sphere_file: Path) -> Path:
    from sdf_tools.geometry import Mesh
    from sdf_tools.io.loading import load
    from sdf_tools.pictures.scene_files import SceneSettings, write_scene

    mesh = load(sphere_file)
    assert isinstance(mesh, Mesh)
    folder = tmp_path_factory.mktemp("scenes") / "ball"
    write_scene(
        mesh,
        folder,
        SceneSettings(
            views=6, val_views=1, test_views=1, size=(24, 24), supersampling=1, occlusion_rays=0, sparse_points=200
        ),
    )
    return folder


@pytest.fixture
def make_photo_trainer(ball_scene: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Builds a trainer of a method for photographs on pictures of a ball; its viewer ends with the test."""
    pytest.importorskip("nerfstudio")
    import sasnet_ns.methods as methods  # isort: skip
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig  # isort: skip
    from nerfstudio.utils import writer  # isort: skip

    trainers: list[Any] = []

    def make(name: str, steps: int = 20, parser: Any = None) -> Any:
        parser = parser or BlenderDataParserConfig(data=ball_scene)
        config: Any = copy.deepcopy(getattr(methods, name).config)
        config.output_dir, config.timestamp, config.vis = tmp_path, "run", "viewer"
        config.experiment_name, config.data = "scene", parser.data
        config.max_num_iterations, config.machine.device_type = steps, "cpu"
        config.pipeline.datamanager.dataparser = parser
        config.pipeline.datamanager.train_num_rays_per_batch = 32
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            config.viewer.websocket_port = int(probe.getsockname()[1])
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainers.append(trainer)
        return trainer

    yield make
    for trainer in trainers:
        session = trainer.pipeline.model.viewer_control.session
        if session is not None:
            session.stop()
        if trainer.viewer_state is not None:
            trainer.viewer_state.viser_server.stop()
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()
