"""The NeuS camera format: poses, intrinsics, masks and the way back to world units."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio")

from sasnet_ns.data.dtu_dataparser import (
    FOREGROUND_MASKS,
    DTUDataParserConfig,
    decompose,
    read_cameras,
    split_indices,
)
from sasnet_ns.data.photos import ForegroundDataset
from sdf_tools.geometry import Mesh
from sdf_tools.pictures.scene import SceneRenderer, sphere_cameras

SHARED = Path(os.environ.get("SASNET_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SIZE, FOCAL = (24, 32), 40.0
SCALE, CENTER = 160.0, np.array([-28.0, 10.0, 640.0])


def ellipsoid() -> Mesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=4)
    return Mesh(torch.from_numpy(ball.vertices * [0.9, 0.6, 0.4]), torch.from_numpy(ball.faces.copy()))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An ellipsoid in the unit sphere seen by nine cameras, in world units as DTU has them."""
    folder = tmp_path_factory.mktemp("dtu")
    (folder / "image").mkdir()
    (folder / "mask").mkdir()
    renderer = SceneRenderer(ellipsoid(), occlusion_rays=0)
    poses = sphere_cameras(9, 3.0)
    matrices = {}
    to_sphere = np.eye(4)
    to_sphere[:3, :3] *= SCALE
    to_sphere[:3, 3] = CENTER
    # Whole numbers are the centres of pixels (NeuS, models/dataset.py, gen_rays_at).
    intrinsics = np.array([[FOCAL, 0, (SIZE[1] - 1) / 2], [0, FOCAL, (SIZE[0] - 1) / 2], [0, 0, 1]])
    for i, pose in enumerate(poses):
        view = renderer.view(pose, FOCAL, SIZE, 1)
        Image.fromarray((view.rgb.numpy() * 255).astype(np.uint8)).save(folder / "image" / f"{i:06d}.png")
        Image.fromarray((view.mask.numpy() * 255).astype(np.uint8)).save(folder / "mask" / f"{i:03d}.png")
        camera = pose.numpy() @ np.diag([1, -1, -1, 1])  # OpenCV axes, scene coordinates
        to_camera = np.linalg.inv(camera) @ np.linalg.inv(to_sphere)
        world = np.eye(4)
        world[:3] = (-2.0 if i == 4 else 1.0) * intrinsics @ to_camera[:3]  # known up to a factor, its sign included
        matrices |= {f"world_mat_{i}": world.astype(np.float32), f"scale_mat_{i}": to_sphere.astype(np.float32)}
    np.savez(folder / "cameras_sphere.npz", **matrices)
    return folder, poses


def test_cameras_are_recovered(scene):
    folder, poses = scene
    intrinsics, found, world_to_sphere = read_cameras(folder / "cameras_sphere.npz", 9)
    assert torch.allclose(found, poses, atol=1e-4)
    assert torch.allclose(intrinsics[:, 0, 0], torch.full((9,), FOCAL, dtype=torch.float64), rtol=1e-4)
    assert torch.allclose(intrinsics[:, :2, 2], torch.tensor([15.5, 11.5], dtype=torch.float64), atol=1e-2)
    point = torch.tensor([*(CENTER + SCALE * np.array([0.1, 0.2, 0.3])), 1.0], dtype=torch.float64)
    assert torch.allclose(world_to_sphere @ point, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("orientation", ["up", "none"])
def test_outputs_project_the_surface_onto_the_masks(scene, orientation):
    """World points through dataparser_transform, dataparser_scale and nerfstudio's cameras land on the masks."""
    folder, _ = scene
    config = DTUDataParserConfig(data=folder, orientation=orientation, eval_interval=0)
    outputs = config.setup().get_dataparser_outputs("train")
    vertices = torch.from_numpy(CENTER) + SCALE * ellipsoid().vertices
    turn = outputs.dataparser_transform.double()
    points = (outputs.dataparser_scale * (vertices @ turn[:, :3].T + turn[:, 3])).float()
    assert float(points.norm(dim=1).max()) == pytest.approx(0.9, abs=1e-3)
    assert torch.equal(outputs.scene_box.aabb, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    cameras = outputs.cameras
    for i, path in enumerate(outputs.metadata[FOREGROUND_MASKS]):
        mask = torch.from_numpy(np.asarray(Image.open(path)) > 127)
        drawn = torch.zeros_like(mask)
        local = (points - cameras.camera_to_worlds[i, :, 3]) @ cameras.camera_to_worlds[i, :, :3]
        column = (cameras.cx[i] - cameras.fx[i] * local[:, 0] / local[:, 2]).long()
        row = (cameras.cy[i] + cameras.fy[i] * local[:, 1] / local[:, 2]).long()
        drawn[row, column] = True
        # The vertices cover the mask, and nothing else, but for pixels on its border.
        grown = torch.nn.functional.max_pool2d(mask.float()[None], 3, 1, 1)[0] > 0
        inner = -torch.nn.functional.max_pool2d(-mask.float()[None], 3, 1, 1)[0] > 0
        assert not (drawn & ~grown).any() and (drawn & inner).sum() > 0.97 * inner.sum() and inner.sum() > 50
        # And nerfstudio's own rays through the mask's middle meet the object.
        at = torch.nonzero(mask).float().mean(0) + 0.5
        ray = cameras.generate_rays(camera_indices=i, coords=at[None])
        nearest = (ray.origins + ray.directions * -(ray.origins * ray.directions).sum(-1, keepdim=True)).norm()
        assert nearest < 0.4


def test_splits_and_masks(scene):
    folder, _ = scene
    parser = DTUDataParserConfig(data=folder, eval_interval=4).setup()
    train, evaluation = parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("val")
    assert [p.stem for p in evaluation.image_filenames] == ["000000", "000004", "000008"]
    assert len(train.image_filenames) == len(train.cameras) == 6 and train.mask_filenames is None
    item = ForegroundDataset(evaluation)[1]
    mask = np.asarray(Image.open(folder / "mask" / "004.png")) > 127
    assert item["image"].shape == (24, 32, 4) and ((item["image"][..., 3] > 0.5).numpy() == mask).all()
    sampling = DTUDataParserConfig(data=folder, masks="sampling").setup().get_dataparser_outputs("train")
    assert len(sampling.mask_filenames) == len(sampling.image_filenames) and FOREGROUND_MASKS not in sampling.metadata
    assert ForegroundDataset(sampling)[0]["image"].shape == (24, 32, 3)
    assert split_indices(5, 0, "train") == split_indices(5, 0, "val") == [0, 1, 2, 3, 4]


def test_damaged_scenes_are_one_sentence(scene, tmp_path):
    folder, _ = scene

    def refuse(words: str, **options) -> None:
        with pytest.raises(SystemExit, match=words) as caught:
            DTUDataParserConfig(**options).setup().get_dataparser_outputs("train")
        assert "\n" not in str(caught.value) and str(caught.value).startswith("neus-data: ")

    refuse("no folder", data=tmp_path)
    refuse("no readable camera file", data=folder, cameras="cameras_large.npz")
    refuse("leaves no picture", data=folder, eval_interval=1)
    (tmp_path / "image").symlink_to(folder / "image")
    refuse("no folder '.*mask'", data=tmp_path)
    content = dict(np.load(folder / "cameras_sphere.npz"))
    np.savez(tmp_path / "cameras_sphere.npz", **{k: v for k, v in content.items() if k != "world_mat_3"})
    refuse("lacks world_mat_3", data=tmp_path, masks="none")
    np.savez(tmp_path / "cameras_sphere.npz", **{**content, "scale_mat_2": 2 * content["scale_mat_2"]})
    refuse("differ", data=tmp_path, masks="none")
    with pytest.raises(ValueError, match="not a camera"):
        decompose(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="skewed"):
        decompose(np.array([[50.0, 5, 10, 0], [0, 50, 10, 0], [0, 0, 1, 3]]))


def test_the_entry_point_names_it():
    from importlib.metadata import entry_points

    from sasnet_ns.data.dtu_dataparser import neus_data

    (point,) = (p for p in entry_points(group="nerfstudio.dataparser_configs") if p.name == "neus-data")
    assert point.load() is neus_data


def test_real_scan_reprojects_onto_its_masks():
    """DTU scan 65: what all masks allow (the visual hull) fills every mask, and little beside."""
    folder = SHARED / "scenes" / "dtu_scan65"
    if not folder.is_dir():
        pytest.skip(f"the DTU scan is not at '{folder}'; set SASNET_SHARED_DATA")
    outputs = DTUDataParserConfig(data=folder, eval_interval=0).setup().get_dataparser_outputs("train")
    cameras, count = outputs.cameras, len(outputs.image_filenames)
    assert count == 49
    masks = torch.stack(
        [torch.from_numpy(np.asarray(Image.open(p).convert("L")) > 127) for p in outputs.metadata[FOREGROUND_MASKS]]
    )
    axis = torch.linspace(-1, 1, 56)
    grid = torch.cartesian_prod(axis, axis, axis)

    def pixels(points, i):
        local = (points - cameras.camera_to_worlds[i, :, 3]) @ cameras.camera_to_worlds[i, :, :3]
        column = (cameras.cx[i] - cameras.fx[i] * local[:, 0] / local[:, 2]).long()
        row = (cameras.cy[i] + cameras.fy[i] * local[:, 1] / local[:, 2]).long()
        return row, column, (row >= 0) & (row < 300) & (column >= 0) & (column < 400) & (local[:, 2] < 0)

    for i in range(count):
        row, column, visible = pixels(grid, i)
        keep = ~visible
        keep[visible] = masks[i, row[visible], column[visible]]
        grid = grid[keep]
    assert len(grid) > 1000
    for i in range(0, count, 8):
        row, column, visible = pixels(grid, i)
        drawn = torch.zeros(300, 400)
        drawn[row[visible], column[visible]] = 1
        drawn = torch.nn.functional.max_pool2d(drawn[None], 9, 1, 4)[0] > 0  # the grid's spacing
        assert (drawn & masks[i]).sum() > 0.99 * masks[i].sum()
        assert (drawn & ~masks[i]).sum() < 0.25 * masks[i].sum()
