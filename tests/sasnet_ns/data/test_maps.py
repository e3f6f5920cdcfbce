"""Depth and normal maps beside photographs: which pixel and which axes they are of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_neus_facto  # isort: skip  # noqa: F401  (nerfstudio's writer cannot come first)
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from photo_folders import SIZE, Make, Meta, edited, entry, in_two_sizes, manager, read, write

from sasnet_ns.data import surface_photos
from sasnet_ns.data.surface_photos import SurfaceDataManager, SurfaceDataManagerConfig


def with_normals(folder: Path, mode: str = "RGB") -> Path:
    """A map of its own for each picture, all of one direction in the data set's coordinates."""
    (folder / "normals").mkdir()
    for path in (folder / "images").iterdir():
        with Image.open(path) as picture:
            size = picture.size
        Image.new("RGB", size, (204, 153, 219)).convert(mode).save(folder / "normals" / path.name)
    return folder


def surface_manager(data: Path, parser: Any = None) -> Any:
    config = SurfaceDataManagerConfig(dataparser=parser or NerfstudioDataParserConfig(), data=data)
    config.normals, config.train_num_rays_per_batch, config.eval_num_rays_per_batch = Path("normals"), 64, 64
    return SurfaceDataManager(config)


def test_maps_of_pictures_of_two_sizes(tmp_path: Path, make_folder: Make) -> None:
    folder = in_two_sizes(make_folder(tmp_path / "data", mode="RGB"))
    found = surface_manager(with_normals(folder))
    for index, path in enumerate(found.train_dataset.image_filenames):  # maps that tell the pixel they are of
        width = found.train_dataset[index]["image"].shape[1]
        pixels = np.zeros((SIZE, width, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.mgrid[:SIZE, :width] * 4 + 100
        pixels[..., 2] = 130 + 20 * index
        Image.fromarray(pixels).save(folder / "normals" / path.name)
    found = surface_manager(folder)
    _, batch = found.next_train(0)
    data = [found.train_dataset[i]["normal"] for i in range(len(found.train_dataset))]
    for row, (picture, y, x) in enumerate(batch["indices"].tolist()):
        assert torch.equal(batch["normal"][row], data[picture][y, x])


@pytest.mark.parametrize("nothing", [float("nan"), float("inf"), -float("inf")])
def test_depths_that_were_not_measured_are_none(nothing: float, tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data", mode="RGB")
    (folder / "depths").mkdir()
    meta = json.loads((folder / "transforms.json").read_text())
    for index, frame in enumerate(meta["frames"]):
        depth = np.full((SIZE, SIZE), 2.0, np.float32)
        depth[3, 4] = nothing
        np.save(folder / "depths" / f"{index}.npy", depth)
        frame["depth_file_path"] = f"depths/{index}.npy"
    (folder / "transforms.json").write_text(json.dumps(meta))
    found = surface_manager(with_normals(folder)).train_dataset[0]["depth"]
    assert found.isfinite().all() and found[3, 4] == 0 and (found > 0).sum() == SIZE * SIZE - 1


@pytest.mark.parametrize("kind", ["masks", "panoramas", "two sizes"])
def test_depth_maps_make_rays_come_from_few_pictures_however_they_are_drawn(
    kind: str, tmp_path: Path, make_folder: Make
) -> None:
    folder = make_folder(tmp_path / "data", 12, "RGB")
    (folder / "depths").mkdir()
    np.save(folder / "depths" / "any.npy", np.full((SIZE, SIZE), 2.0, np.float32))
    meta = read(folder)
    for index, frame in enumerate(meta["frames"]):
        frame["depth_file_path"] = "depths/any.npy"
        if kind == "masks":  # black but for four of them
            frame["mask_path"] = f"mask{index}.png"
            Image.new("L", (SIZE, SIZE), 255 * (index % 3 == 1)).save(folder / frame["mask_path"])
    if kind == "panoramas":
        meta["camera_model"] = "EQUIRECTANGULAR"
    write(folder, meta)
    if kind == "two sizes":
        in_two_sizes(folder)
    data = manager(folder, NerfstudioDataParserConfig(eval_mode="all"))
    seen = [data.next_train(step)[1]["indices"][:, 0].unique().tolist() for step in range(20)]
    assert all(len(found) == 1 for found in seen) and len({found[0] for found in seen}) > 1  # 64 rays
    if kind == "masks":
        assert {found[0] % 3 for found in seen} == {1}


@pytest.mark.parametrize(("side", "pictures", "said"), [(SIZE, 4, False), (7, 2, False), (3, 1, True)])
def test_depth_maps_of_a_small_object_get_more_rays(
    side: int, pictures: int, said: bool, tmp_path: Path, make_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scale and shift are fitted to the rays that have a depth, which are few of those of the picture."""
    folder = make_folder(tmp_path / "data", 12, "RGB")
    depth = np.zeros((SIZE, SIZE), np.float32)
    depth[:side, :side] = 2.0
    np.save(folder / "depth.npy", depth)

    def change(meta: Meta) -> None:
        for frame in meta["frames"]:
            frame["depth_file_path"] = "depth.npy"

    parser = NerfstudioDataParserConfig(eval_mode="all")
    config = SurfaceDataManagerConfig(dataparser=parser, data=edited(folder, change), train_num_rays_per_batch=256)
    data = SurfaceDataManager(config)
    measured = []
    for step in range(20):
        _, batch = data.next_train(step)
        drawn = batch["indices"][:, 0].unique()
        assert len(drawn) == pictures
        measured += [int((batch["depth"][batch["indices"][:, 0] == i] > 0).sum()) for i in drawn]
    assert (np.median(measured) >= 20) != said
    words = "".join(capsys.readouterr().out.split())
    assert ("Ofthe256raysofapictureinastep,about9haveadepth;" in words) == said and ("haveadepth" in words) == said


def test_normal_maps_of_pictures_of_one_name(tmp_path: Path, make_folder: Make) -> None:
    """Each has that of its own folder; two never share one."""
    folder = with_normals(make_folder(tmp_path / "data", mode="RGB"))
    for side in ("left", "right"):
        (folder / "images" / side).mkdir()
    meta = read(folder)
    for index, frame in enumerate(meta["frames"]):
        name = f"{('left', 'right')[index % 2]}/{index // 2}.png"
        (folder / frame["file_path"]).rename(folder / "images" / name)
        frame["file_path"] = f"images/{name}"
        (folder / "normals" / f"{index:03d}.png").rename(folder / "normals" / f"{index // 2}.png")
    write(folder, meta)
    with pytest.raises(
        SystemExit, match=r"normals.0\.png' would be that of two pictures, '.*left.0\.png' and '.*right"
    ):
        surface_manager(folder)
    for side, color in (("left", (255, 128, 128)), ("right", (128, 255, 128))):
        (folder / "normals" / side).mkdir()
        for index in range(3):
            Image.new("RGB", (SIZE, SIZE), color).save(folder / "normals" / side / f"{index}.png")
    found = surface_manager(folder, NerfstudioDataParserConfig(orientation_method="none")).train_dataset
    for index, path in enumerate(found.image_filenames):
        axis = 0 if path.parent.name == "left" else 1
        assert found[index]["normal"][3, 3, axis] > 0.99


def test_a_picture_is_not_its_own_normal_map(
    tmp_path: Path, make_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from folders up to the root, as those of data sets near it are, nor in a folder above the pictures."""
    folder = with_normals(make_folder(tmp_path / "data", mode="RGB"))
    monkeypatch.setattr(surface_photos, "MOST_FOLDERS", 99)
    found = surface_manager(folder).train_dataset
    assert all(found._normal_map(picture).parent == folder / "normals" for picture in found.image_filenames)
    for path in (folder / "normals").iterdir():
        path.rename(folder / path.name)
    (folder / "normals").rmdir()
    (folder / "normals").symlink_to(".")  # the folder above
    found = surface_manager(folder).train_dataset
    assert all(found._normal_map(picture) == folder / "normals" / picture.name for picture in found.image_filenames)


def test_a_depth_map_that_opencv_does_not_read_is_one_sentence(tmp_path: Path, make_folder: Make) -> None:
    def change(meta: Meta) -> None:
        for frame in meta["frames"]:
            frame["depth_file_path"] = "depth.exr"

    folder = edited(make_folder(tmp_path / "data"), change)
    (folder / "depth.exr").write_bytes(b"v/1\x01" + bytes(400))
    with pytest.raises(SystemExit, match=r"depth\.exr' is of a kind that OpenCV does not read here; make it a \.npy\."):
        manager(folder)


def test_normal_maps_beside_a_named_camera_file_and_grey_ones(tmp_path: Path, make_folder: Make) -> None:
    folder = with_normals(make_folder(tmp_path / "data"))
    assert surface_manager(folder / "transforms.json").train_dataset[0]["normal"].shape == (SIZE, SIZE, 3)
    Image.new("L", (SIZE, SIZE), 200).save(folder / "normals" / "001.png")
    with pytest.raises(SystemExit, match=r"normal map '.*001\.png' is grey"):
        surface_manager(folder)


def test_normal_maps_follow_what_was_applied_to_the_cameras(tmp_path: Path, make_folder: Make) -> None:
    def seen(folder: Path) -> torch.Tensor:
        dataset = surface_manager(with_normals(folder)).train_dataset
        return dataset[2]["normal"][0, 0] @ dataset.cameras.camera_to_worlds[2, :3, :3]

    applied = entry(applied_transform=[[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
    plain, turned = make_folder(tmp_path / "plain"), edited(make_folder(tmp_path / "turned"), applied)
    assert torch.allclose(seen(plain), seen(turned), atol=1e-5)


@pytest.mark.parametrize("auto_orient", [False, True])
def test_sdfstudio_data_turns_maps_and_says_so(auto_orient: bool, tmp_path: Path, make_folder: Make) -> None:
    from nerfstudio.data.dataparsers.sdfstudio_dataparser import SDFStudioDataParserConfig

    from sasnet_ns.data.frames import outputs_to_scene

    folder, frames = make_folder(tmp_path / "data", mode="RGB"), []
    for i, frame in enumerate(read(folder)["frames"]):
        pose = np.array(frame["transform_matrix"])
        pose[:3, 1:3] *= -1  # OpenCV's axes
        np.save(folder / f"{i}_normal.npy", np.broadcast_to(np.array([0.5, 0.5, 0.0])[:, None, None], (3, SIZE, SIZE)))
        np.save(folder / f"{i}_depth.npy", np.ones((SIZE, SIZE)))
        maps = {"mono_depth_path": f"{i}_depth.npy", "mono_normal_path": f"{i}_normal.npy"}
        lens = np.array([[20.0, 0, 8, 0], [0, 20, 8, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        frames.append(
            {"rgb_path": frame["file_path"], "camtoworld": pose.tolist(), "intrinsics": lens.tolist(), **maps}
        )
    box = {"aabb": [[-1, -1, -1], [1, 1, 1]], "near": 0.1, "far": 6, "radius": 1, "collider_type": "near_far"}
    meta = {"height": SIZE, "width": SIZE, "has_mono_prior": True, "scene_box": box, "frames": frames}
    (folder / "meta_data.json").write_text(json.dumps(meta))
    parser = SDFStudioDataParserConfig(include_mono_prior=True, auto_orient=auto_orient)
    data = manager(folder, parser)
    for index in (0, 3):
        camera = data.train_dataset.cameras.camera_to_worlds[index]
        # A wall that faces the camera: its normal is against the direction of view, minus the camera's z.
        assert torch.allclose(data.train_dataset[index]["normal"][0, 0], camera[:, 2], atol=1e-5)
        to_scene = outputs_to_scene(data.train_dataparser_outputs, data.config.dataparser).float()
        given = torch.tensor(frames[index]["camtoworld"])[:3, 3]
        assert torch.allclose(to_scene[:, :3] @ given + to_scene[:, 3], camera[:, 3], atol=1e-4)
