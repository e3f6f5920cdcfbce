"""Batches, virtual views and refusals of the datamanager."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nerfstudio")

from sasnet_ns.data.shape_datamanager import EVAL_VIEWS, ShapeDataManager, ShapeDataManagerConfig
from sasnet_ns.data.views import orbit_cameras, splat_normals
from sdf_tools.errors import ShapeError


def _datamanager(path: Path | None, **changes: object) -> ShapeDataManager:
    settings = {"pool_size": 20_000, "points_per_batch": 1_000, "probe_points": 5_000, **changes}
    config = ShapeDataManagerConfig(data=path, **settings)  # type: ignore[arg-type]
    manager = config.setup(device="cpu", test_mode="val")
    assert isinstance(manager, ShapeDataManager)
    return manager


@pytest.fixture(scope="module")
def manager(sphere_file: Path) -> ShapeDataManager:
    return _datamanager(sphere_file)


def test_batches_hold_the_sphere_distance_in_box_units(manager: ShapeDataManager) -> None:
    batch, targets = manager.next_train(0)
    assert batch.points.shape == (1000, 3)
    assert targets["sdf"] is batch.sdf
    # The mesh is inscribed in a sphere of diameter 0.9 and sags by less than 2 % of its radius.
    exact = batch.points.norm(dim=-1) - 0.45
    assert (batch.sdf - exact).abs().max() < 0.009
    assert batch.counts == (425, 425, 150)
    fine = batch.sdf[batch.kind == 0].abs()
    assert fine.median() < 0.004


def test_a_batch_depends_on_seed_and_step_alone(manager: ShapeDataManager, sphere_file: Path) -> None:
    seventh = manager.next_train(7)[0].points
    manager.next_train(3)
    manager.next_eval(3)
    assert torch.equal(manager.next_train(7)[0].points, seventh)
    assert torch.equal(_datamanager(sphere_file).next_train(7)[0].points, seventh)
    assert not torch.equal(manager.next_train(8)[0].points, seventh)
    assert not torch.equal(manager.next_eval(7)[0].points, seventh)
    assert not torch.equal(_datamanager(sphere_file, seed=1).next_train(7)[0].points, seventh)


def test_probe_knows_inside_from_outside(manager: ShapeDataManager) -> None:
    probe = manager.probe
    # A ball fills pi/6 of its bounding cube.
    assert float(probe.inside.float().mean()) == pytest.approx(math.pi / 6, abs=0.03)
    assert (probe.surface.norm(dim=-1) - 0.45).abs().max() < 0.009


def test_normalisation_is_handed_to_the_model(manager: ShapeDataManager) -> None:
    assert manager.train_dataset is not None
    metadata = manager.train_dataset.metadata
    assert torch.allclose(metadata["center"], torch.tensor([10.0, 0, 0], dtype=torch.float64), atol=1e-6)
    assert metadata["scale"] == pytest.approx(0.9 / 4)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_orbit_cameras_look_at_the_centre_the_right_way_up(up: str) -> None:
    cameras = orbit_cameras(5, 64, up)  # type: ignore[arg-type]
    poses = cameras.camera_to_worlds
    rotation, position = poses[..., :3], poses[..., 3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(5), atol=1e-5)
    assert torch.allclose(torch.nn.functional.normalize(-position, dim=-1), -rotation[..., 2], atol=1e-5)
    assert (rotation[:, "xyz".index(up), 1] > 0.9).all()


def test_views_show_the_normals_that_face_the_camera(manager: ShapeDataManager) -> None:
    assert manager.train_dataset is not None and manager.eval_dataset is not None
    assert len(manager.eval_dataset) == EVAL_VIEWS
    image = manager.train_dataset[0]["image"]
    assert image.shape == (192, 192, 3)
    center = image[92:100, 92:100].reshape(-1, 3).median(0).values * 2 - 1
    position = manager.train_dataset.cameras.camera_to_worlds[0, :, 3]
    assert torch.nn.functional.cosine_similarity(center, position, dim=0) > 0.98
    assert (image[0] == 1).all()  # white around the shape


def test_splatting_keeps_the_nearest_sample() -> None:
    pose = torch.cat([torch.eye(3), torch.tensor([[0.0], [0.0], [2.0]])], dim=1)
    points = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5], [0.0, 0.0, 0.9]])
    normals = torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])  # the last one faces away
    image = splat_normals(points, normals, pose, focal=10.0, size=8)
    assert torch.allclose(image[4, 4], torch.tensor([0.5, 0.8, 0.9]))
    assert int((image != 1).any(-1).sum()) == 1


def _cloud(count: int, normals: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.hstack([2 * direction + 5, direction]) if normals else 2 * direction + 5


@pytest.mark.parametrize("normals", [True, False])
def test_point_clouds_work_with_and_without_normals(tmp_path: Path, normals: bool) -> None:
    if not normals:
        pytest.importorskip("sdf_tools.cloud.normals")
    np.save(tmp_path / "ball.npy", _cloud(3_000, normals))
    manager = _datamanager(tmp_path / "ball.npy")
    batch, _ = manager.next_train(0)
    near = (batch.points.norm(dim=-1) - 0.45).abs() < 0.1
    exact = batch.points.norm(dim=-1) - 0.45
    assert (batch.sdf - exact)[near].abs().mean() < 0.01
    far_inside = batch.points.norm(dim=-1) < 0.3
    assert (batch.sdf[far_inside] < 0).all()


@pytest.mark.parametrize(
    ("content", "suffix", "words"),
    [
        (None, ".ply", "neither a file nor the name"),
        (b"", ".ply", "empty"),
        (b"this is a letter, not a mesh\n", ".ply", "bad.ply"),
        (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", ".obj", "triangle"),
        (b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n", ".obj", "NaN"),
        (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n", ".obj", ""),
        ("\n".join(f"{i} {i % 3} {i % 2}" for i in range(10)).encode(), ".xyz", "10 points"),
        (b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\nend_header\n",
         ".ply", "no"),
    ],
    ids=["missing", "empty", "text", "one triangle", "nan", "zero size", "ten points", "no vertices"],
)  # fmt: skip
def test_bad_input_is_one_sentence(tmp_path: Path, content: bytes | None, suffix: str, words: str) -> None:
    path = tmp_path / f"bad{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ShapeError) as caught:
        _datamanager(path)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message and message.endswith(".")


def test_no_data_lists_the_names() -> None:
    with pytest.raises(ShapeError, match="armadillo"):
        _datamanager(None)


def test_a_finished_run_opens_without_its_input(tmp_path: Path) -> None:
    config = ShapeDataManagerConfig(data=tmp_path / "moved.ply")
    manager = config.setup(device="cpu", test_mode="test")
    assert manager.train_dataset[0]["image"].min() == 1  # blank, not an error
    assert manager.get_datapath() == Path()
