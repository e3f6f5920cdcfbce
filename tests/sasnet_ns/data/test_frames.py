"""Scenes that ns-process-data has turned, scaled and moved: running starts and meshes are where their points are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

pytest.importorskip("nerfstudio")
pytest.importorskip("trimesh")

from sasnet_ns.methods import sasnet_neus_facto  # isort: skip  (nerfstudio's writer cannot come first)
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from sasnet_ns.data.frames import applied_to_data, frame_to_scene, load_frame, outputs_to_scene, save_frame
from sasnet_ns.data.surface_photos import SurfaceDataManager, SurfaceDataManagerConfig
from sasnet_ns.models.loading import load_surface
from sasnet_ns.networks import SignedDistanceField
from sdf_tools.pictures.scene import sphere_cameras

TURN = [[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]  # ns-process-data's
MOVED = [[0.0, 1, 0, 3.0], [0, 0, 1, -2], [1, 0, 0, 0.5]]
CASES: dict[str, tuple[list[list[float]] | None, float | None]] = {
    "nothing applied": (None, None),
    "turned": (TURN, None),
    "turned and scaled": (TURN, 0.25),
    "scaled": (None, 4.0),
    "turned, moved and scaled": (MOVED, 3.0),
}
NETWORK = {"embedding_width": 32, "hidden_widths": (32, 32), "groups": (4, 4)}


def similarity(size: float, shift: list[float]) -> np.ndarray:
    """Somewhere else: turned about a skew axis, scaled, moved."""
    whole = np.eye(4)
    whole[:3, :3] = Rotation.from_rotvec([0.3, -0.5, 0.8]).as_matrix() * size
    whole[:3, 3] = shift
    return whole


@pytest.fixture(params=list(CASES))
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Tensor, Tensor]:
    """A folder, points on a sphere in COLMAP's axes, and the same in those of transforms.json."""
    import trimesh

    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    transform, scale = CASES[request.param]
    colmap = similarity(20.0, [100.0, -50, 30])
    applied = np.eye(4)
    if transform is not None:
        applied[:3] = transform
    applied[:3] *= scale or 1.0
    frames = []
    for i, pose in enumerate(sphere_cameras(6, 3.0)):
        Image.fromarray(np.full((8, 8, 4), 200, np.uint8)).save(folder / "images" / f"{i}.png")
        whole = applied @ colmap @ pose.numpy()
        whole[:3, :3] /= np.cbrt(np.linalg.det(whole[:3, :3]))
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": whole.tolist()})
    meta: dict[str, Any] = {"w": 8, "h": 8, "fl_x": 9.0, "fl_y": 9.0, "cx": 4.0, "cy": 4.0, "frames": frames}
    meta["ply_file_path"] = "sparse_pc.ply"
    if transform is not None:
        meta["applied_transform"] = transform
    if scale is not None:
        meta["applied_scale"] = scale
    (folder / "transforms.json").write_text(json.dumps(meta))
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5).vertices
    homogeneous = np.concatenate([ball, np.ones_like(ball[:, :1])], axis=1) @ colmap.T
    points = homogeneous @ applied.T
    trimesh.PointCloud(points[:, :3]).export(folder / "sparse_pc.ply")
    return folder, torch.from_numpy(homogeneous[:, :3]), torch.from_numpy(points[:, :3])


def test_both_frames_lead_to_where_the_cameras_are(scene: tuple[Path, Tensor, Tensor]) -> None:
    """The pictures are trained with the cameras, so these say what is right; points keep their place beside them."""
    folder, colmap, data = scene
    parser = NerfstudioDataParserConfig(data=folder, load_3D_points=True, train_split_fraction=1.0)
    outputs = parser.setup().get_dataparser_outputs("train")
    applied = applied_to_data(parser)
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    cameras = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)[:, :3, 3]
    from_data = outputs_to_scene(outputs, parser)
    expected = outputs.cameras.camera_to_worlds[:, :, 3].double()
    assert (apply(from_data, cameras) - expected).abs().max() < 1e-4
    points = apply(from_data, data)
    assert ((points - points.mean(dim=0)).norm(dim=1) < 0.2).all() and points.mean(dim=0).norm() < 0.2
    colmap_to_scene = frame_to_scene(outputs.dataparser_transform, outputs.dataparser_scale, applied, "colmap")
    assert (apply(colmap_to_scene, colmap) - points).abs().max() < 1e-4
    config = SurfaceDataManagerConfig(dataparser=parser, data=folder)
    manager = SurfaceDataManager(config)
    assert (manager.train_dataparser_outputs.metadata["points3D_xyz"] - points).abs().max() < 1e-4


def apply(similarity_: Tensor, points: Tensor) -> Tensor:
    return points @ similarity_[:, :3].T + similarity_[:, 3]


def test_a_running_start_and_its_mesh_are_where_the_points_are(
    scene: tuple[Path, Tensor, Tensor], tmp_path: Path
) -> None:
    """The field's zero set is moved to the data set's points; the run gives it back in either frame."""
    folder, colmap, data = scene
    center, radius = data.mean(dim=0), float((data - data.mean(dim=0)).norm(dim=1).mean())
    fitted = SignedDistanceField("sasnet", NETWORK, center.float(), scale=0.5 / (2 * radius))
    fitted.save(tmp_path / "field.pt")
    config = copy.deepcopy(sasnet_neus_facto.config)
    config.output_dir, config.timestamp, config.vis = tmp_path / "outputs", "run", "tensorboard"
    config.max_num_iterations, config.steps_per_report = 1, 0
    config.machine.device_type, config.viewer.quit_on_train_completion = "cpu", True
    manager = config.pipeline.datamanager
    manager.data, manager.dataparser = folder, NerfstudioDataParserConfig(load_3D_points=True)
    manager.train_num_rays_per_batch = manager.eval_num_rays_per_batch = 16
    config.pipeline.model.sdf_field.init_field = tmp_path / "field.pt"
    config.data = folder
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    outputs = trainer.pipeline.datamanager.train_dataparser_outputs
    points = outputs.metadata["points3D_xyz"]
    # The same points, given to the field in its own box and to the model in the scene: the same distances.
    own = fitted(((data - center) * float(fitted.scale)).float()) / float(fitted.scale)
    per_unit = float((points - points.mean(dim=0)).norm(dim=1).mean()) / radius
    with torch.no_grad():
        assert torch.allclose(trainer.pipeline.model.field.sdf(points), own * per_unit, atol=1e-3)
    trainer.train()
    field = trainer.pipeline.model.eval().field
    with torch.no_grad():
        expected = field.sdf(points)
        for frame, world in ((None, data), ("data", data), ("colmap", colmap)):
            surface = load_surface(trainer.base_dir, frame=frame)
            box = ((world - surface.center) * surface.scale).float()
            assert torch.allclose(surface.field(box), expected, atol=1e-3)
            assert ("COLMAP" in surface.axes) == (applied_to_data(manager.dataparser) is not None)
    (folder / "transforms.json").unlink()  # the run stands on its own
    surface = load_surface(trainer.base_dir, frame="colmap")
    assert surface.scale == pytest.approx(
        per_unit * radius / float((colmap - colmap.mean(0)).norm(dim=1).mean()), rel=1e-3
    )


def test_a_run_over_another_forgets_the_others_frame(tmp_path: Path) -> None:
    """Also where its own data set, made anew, has none."""
    meta: dict[str, Any] = {"frames": [], "applied_transform": TURN, "applied_scale": 0.5}
    for content in (meta, {"frames": []}):
        (tmp_path / "transforms.json").write_text(json.dumps(content))
        save_frame(tmp_path, NerfstudioDataParserConfig(data=tmp_path))
        assert (load_frame(tmp_path, None) is not None) == ("applied_scale" in content)


def test_a_shape_has_one_frame(tmp_path: Path) -> None:
    SignedDistanceField("sasnet", NETWORK, torch.zeros(3), scale=1.0).save(tmp_path / "field.pt")
    load_surface(tmp_path / "field.pt")
    with pytest.raises(ValueError, match="not trained on photographs"):
        load_surface(tmp_path / "field.pt", frame="colmap")
