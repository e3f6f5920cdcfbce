"""The viewer of methods for photographs: what its list offers, depth that can be read, and nerfstudio's real viewer."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")
pytest.importorskip("embreex")

from sasnet_ns.viewer.photo_control import PhotoRenderer, fov_like, shown_outputs, with_sensible_depth


def test_the_list_offers_no_raw_buffers() -> None:
    assert shown_outputs(["rgb", "depth", "normal", "normals", "gl_z_buf_depth"]) == ["rgb", "depth", "normals"]
    assert shown_outputs(["rgb", "normal"]) == ["rgb", "normal"]


def test_depth_ends_where_the_farthest_thing_is() -> None:
    depth = torch.full((10, 10, 1), 1000.0)
    coverage = torch.zeros(10, 10, 1)
    depth[2:6], coverage[2:6] = torch.linspace(1, 2, 40).reshape(4, 10, 1), 1.0
    clear = with_sensible_depth({"depth": depth, "accumulation": coverage})["depth"]
    assert float(clear.max()) <= 2 and torch.allclose(clear[2:5], depth[2:5])
    nothing = {"depth": depth, "accumulation": torch.zeros_like(coverage)}
    assert with_sensible_depth(nothing) is nothing
    assert with_sensible_depth({"rgb": depth})["rgb"] is depth


def test_the_first_view_shows_what_the_photograph_shows() -> None:
    portrait = SimpleNamespace(
        width=torch.tensor([200]), height=torch.tensor([400]), fx=torch.tensor([100.0]), fy=torch.tensor([100.0])
    )
    assert fov_like(portrait, 0.5) == pytest.approx(2 * math.atan(2))  # a canvas of its shape: the photograph
    assert fov_like(portrait, 2.0) == pytest.approx(2 * math.atan(1))  # a wide one: twice its width, half its height


class _Client:
    """A browser that remembers what it was sent."""

    def __init__(self) -> None:
        self.client_id = 7
        self.pictures: list[Any] = []
        self.camera = SimpleNamespace(aspect=1.0)
        self.scene = SimpleNamespace(set_background_image=lambda image, **_: self.pictures.append(image))


@pytest.mark.parametrize("name", ["sasnet_neus_facto", "sasnet_nerfacto"])
def test_real_viewer(name: str, make_photo_trainer: Callable[..., Any]) -> None:
    trainer = make_photo_trainer(name)
    trainer._init_viewer_state()
    viewer, control = trainer.viewer_state, trainer.pipeline.model.viewer_control
    assert (control.session is not None) == (name == "sasnet_neus_facto")
    client: Any = _Client()
    machine = control._machine(client)
    assert isinstance(machine, PhotoRenderer)
    camera = trainer.pipeline.datamanager.train_dataset.cameras[0]
    from nerfstudio.cameras.cameras import CameraType
    from nerfstudio.viewer.utils import CameraState

    state = CameraState(
        fov=0.9, aspect=1.0, c2w=camera.camera_to_worlds.reshape(3, 4), camera_type=CameraType.PERSPECTIVE, idx=0
    )
    machine._working_on = machine._wanted
    machine.draw(machine, state, 16, 16)
    assert client.pictures[0].shape == (16, 16, 3)
    offered = viewer.control_panel._output_render.options
    assert "gl_z_buf_depth" not in offered and not {"normal", "normals"} <= set(offered)
    if control.session is not None:
        from sasnet_ns.viewer.live_surface import extract

        surface = extract(control.field, 24, control.session.settings)
        assert len(surface.faces) > 100  # the sphere that training starts with
    viewer.init_scene(trainer.pipeline.datamanager.train_dataset, "training", None)
    viewer.update_scene(4, 32)
    assert viewer.camera_handles and not any(handle.visible for handle in viewer.camera_handles.values())
    assert viewer.show_images.visible and not viewer.hide_images.visible
    trainer.training_state = "completed"
    viewer.training_complete()
    assert not viewer.pause_train.visible and not viewer.resume_train.visible
    assert "Training done" in viewer.stats_markdown.content
    machine.draw(machine, state, 16, 16)  # which writes the picture's size there
    assert "Training done" in viewer.stats_markdown.content and "16x16px" in viewer.stats_markdown.content


def test_what_leaves_the_viewer_is_in_the_units_and_axes_of_the_data_set(
    make_photo_trainer: Callable[..., Any], ball_scene: Path, tmp_path: Path
) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    folder = shutil.copytree(ball_scene, tmp_path / "turned")
    content = json.loads((folder / "transforms.json").read_text())
    content |= {"applied_transform": [[0, 1, 0, 5], [1, 0, 0, 0], [0, 0, -1, 0]], "applied_scale": 0.5}
    (folder / "transforms.json").write_text(json.dumps(content))
    # nerfstudio turns, shifts and scales all of it.
    parser = NerfstudioDataParserConfig(data=folder, center_method="focus", eval_mode="all")
    trainer = make_photo_trainer("sasnet_neus", parser=parser)
    frame = trainer.pipeline.model.viewer_control.field.frame
    assert frame.scale != pytest.approx(1, abs=0.1)
    poses = trainer.pipeline.datamanager.train_dataset.cameras.camera_to_worlds
    written = torch.tensor([entry["transform_matrix"] for entry in content["frames"]], dtype=torch.float64)
    found = frame.to_world(poses[:, :3, 3])
    assert torch.cdist(found, written[:, :3, 3]).amin(dim=1).max() < 1e-4
