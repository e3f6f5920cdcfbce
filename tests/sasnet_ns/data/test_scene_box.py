"""The scene box of the surface methods is around what the cameras look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("nerfstudio")
pytest.importorskip("trimesh")

from sasnet_ns.methods import sasnet_neus, sasnet_neus_facto  # isort: skip  (nerfstudio's writer cannot come first)
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from sasnet_ns.data.scene_box import box_advice, directions_meet
from sasnet_ns.data.surface_photos import SurfaceDataManager, SurfaceDataManagerConfig

Make = Callable[..., Path]


def look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0, 1], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, position], axis=1)
    return pose


@pytest.fixture
def one_sided(tmp_path: Path, make_folder: Make) -> Path:
    """Cameras on one side of a ball of radius 1 around (5, 0, 0), as a rig for scans has them."""
    import trimesh

    folder = make_folder(tmp_path / "data", count=8)
    target = np.array([5.0, 0, 0])
    meta = json.loads((folder / "transforms.json").read_text())
    for i, frame in enumerate(meta["frames"]):
        angle = np.pi * (1 + 0.25 * (i / 7 - 0.5) * 2)
        position = target + 4 * np.array([np.cos(angle), np.sin(angle), 0.3 * (i % 2)])
        frame["transform_matrix"] = look_at(position, target).tolist()
    meta["ply_file_path"] = "points.ply"
    (folder / "transforms.json").write_text(json.dumps(meta))
    ball = trimesh.creation.icosphere(subdivisions=3).vertices + target
    trimesh.PointCloud(ball).export(folder / "points.ply")
    return folder


def outputs_of(folder: Path, **options: Any) -> tuple[Any, NerfstudioDataParserConfig]:
    parser = NerfstudioDataParserConfig(data=folder, **options)
    return parser.setup().get_dataparser_outputs("train"), parser


@pytest.mark.parametrize("method", [sasnet_neus, sasnet_neus_facto])
def test_the_methods_hold_what_their_cameras_look_at(method: Any, one_sided: Path) -> None:
    parser = method.config.pipeline.datamanager.dataparser
    assert parser.center_method == "focus"
    outputs, used = outputs_of(one_sided, center_method="focus", load_3D_points=True)
    points = outputs.metadata["points3D_xyz"]
    assert ((points > -1) & (points < 1)).all()
    assert points.mean(dim=0).norm() < 0.05
    assert box_advice(outputs, used) is None


@pytest.mark.parametrize("load", [False, True])
def test_a_box_that_cuts_the_object_is_spoken_of(load: bool, one_sided: Path) -> None:
    outputs, parser = outputs_of(one_sided, center_method="poses", load_3D_points=load)
    advice = box_advice(outputs, parser)
    assert advice is not None
    assert "--center-method focus' they would be 100%" in advice
    (one_sided / "points.ply").unlink()
    outputs, parser = outputs_of(one_sided, center_method="poses")
    advice = box_advice(outputs, parser)
    assert advice is not None and advice.startswith("The cameras look at (")


def test_a_scene_all_around_is_not_spoken_of(tmp_path: Path, make_folder: Make) -> None:
    for method in ("poses", "focus"):
        folder = make_folder(tmp_path / method)
        assert box_advice(*outputs_of(folder, center_method=method)) is None


def test_parallel_cameras_have_no_focus(tmp_path: Path, make_folder: Make) -> None:
    """nerfstudio ends in a singular matrix there; the datamanager takes the cameras' centre."""
    folder = make_folder(tmp_path / "data")
    meta = json.loads((folder / "transforms.json").read_text())
    for i, frame in enumerate(meta["frames"]):
        pose = np.eye(4)
        pose[:3, 3] = i, i % 2, 0
        frame["transform_matrix"] = pose.tolist()
    (folder / "transforms.json").write_text(json.dumps(meta))
    assert not directions_meet(np.array([frame["transform_matrix"] for frame in meta["frames"]]))
    config = SurfaceDataManagerConfig(data=folder, dataparser=NerfstudioDataParserConfig(center_method="focus"))
    cameras = SurfaceDataManager(config).train_dataset.cameras.camera_to_worlds
    assert torch.isfinite(cameras).all() and cameras[:, :, 3].abs().max() <= 1 + 1e-6
