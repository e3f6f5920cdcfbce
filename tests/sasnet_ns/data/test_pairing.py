"""Which camera, mask and map belongs to which picture, and maps that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio")

from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from sasnet_ns.data.dtu_dataparser import DTUDataParserConfig
from sasnet_ns.data.picture_files import read_mask, read_picture
from sasnet_ns.data.surface_photos import SurfaceDataset
from sdf_tools.errors import ShapeError

H, W = 12, 16


def neus_folder(folder: Path, names: list[str], cameras: int = 12, masks: list[str] | None = None) -> Path:
    """Pictures of these names, and cameras whose x is their index."""
    matrices = {}
    for i in range(cameras):
        pose = np.eye(4)
        pose[0, 3] = -i
        matrices |= {f"world_mat_{i}": np.diag([10.0, 10, 1, 1]) @ pose, f"scale_mat_{i}": np.eye(4)}
    for part, files in (("image", names), ("mask", masks or names)):
        (folder / part).mkdir(parents=True)
        for name in files:
            Image.new("L" if part == "mask" else "RGB", (W, H), "white").save(folder / part / name)
    np.savez(folder / "cameras_sphere.npz", **matrices)
    return folder


def camera_of(folder: Path) -> dict[str, int]:
    config = DTUDataParserConfig(data=folder, eval_interval=0, orientation="none")
    outputs = config.setup().get_dataparser_outputs("train")
    places = outputs.cameras.camera_to_worlds[:, 0, 3].round().int().tolist()
    return dict(zip((path.name for path in outputs.image_filenames), places, strict=True))


def refuse(folder: Path, words: str) -> None:
    with pytest.raises(SystemExit, match=words) as caught:
        camera_of(folder)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("neus-data: ")


NAMES = [f"{i:03d}.png" for i in range(12)]


def test_a_deleted_picture_leaves_the_others_their_cameras(tmp_path: Path) -> None:
    left = [name for name in NAMES if name not in ("003.png", "007.png")]
    assert camera_of(neus_folder(tmp_path / "a", left)) == {name: int(name[:3]) for name in left}
    assert camera_of(neus_folder(tmp_path / "b", NAMES)) == {name: int(name[:3]) for name in NAMES}
    others = ["front.png", "back.png"]
    assert camera_of(neus_folder(tmp_path / "c", others, 2)) == {"back.png": 0, "front.png": 1}
    refuse(neus_folder(tmp_path / "d", others), "12 cameras for 2 pictures")
    refuse(neus_folder(tmp_path / "e", ["011.png", "012.png"]), "12 cameras for 2 pictures")


def test_numbers_without_zeros_in_front_are_refused(tmp_path: Path) -> None:
    refuse(neus_folder(tmp_path / "a", [f"{i}.png" for i in range(12)]), "leading zeros")
    assert len(camera_of(neus_folder(tmp_path / "b", [f"{i}.png" for i in range(9)], 9))) == 9


def test_masks_of_other_numbers_are_refused(tmp_path: Path) -> None:
    masks = [name for name in NAMES if name != "005.png"]
    refuse(neus_folder(tmp_path / "a", NAMES, masks=[*masks, "004b.png"]), "'005.png'.*'004b.png'")
    named = [f"mask_{i:06d}.png" for i in range(12)]
    folder = neus_folder(tmp_path / "b", NAMES, masks=named)
    (folder / "image" / "._000.png").write_bytes(b"left by a Macintosh")
    assert len(camera_of(folder)) == 12


def test_a_camera_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    import tracemalloc

    folder = neus_folder(tmp_path, NAMES[:2], 2)
    content = dict(np.load(folder / "cameras_sphere.npz"))
    np.savez_compressed(folder / "cameras_sphere.npz", **{**content, "world_mat_1": np.zeros(5_000_000)})
    tracemalloc.start()
    refuse(folder, "world_mat_1 .* has 5000000 numbers")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def dataset(folder: Path, key: str, content: Any) -> SurfaceDataset:
    picture, file = folder / "p.png", folder / ("m.png" if isinstance(content, Image.Image) else "m.npy")
    Image.new("RGB", (W, H)).save(picture)
    if isinstance(content, Image.Image):
        content.save(file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content)
    cameras = Cameras(torch.eye(4)[None, :3], 10.0, 10.0, W / 2, H / 2, W, H, camera_type=CameraType.PERSPECTIVE)
    box = SceneBox(aabb=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    metadata = {key: [file], "depth_unit_scale_factor": 0.5}
    return SurfaceDataset(DataparserOutputs([picture], cameras, scene_box=box, metadata=metadata))


DEPTH = np.random.default_rng(0).random((H, W)).astype("f4") + 1


@pytest.mark.parametrize("content", [DEPTH, DEPTH[..., None], DEPTH[None], DEPTH.astype(">f8")])
def test_depth_maps(tmp_path: Path, content: np.ndarray) -> None:
    depth = dataset(tmp_path, "depth_filenames", content)[0]["depth"]
    assert depth.shape == (H, W, 1) and np.allclose(depth[..., 0], DEPTH / 2)


def test_depth_below_zero_is_not_measured_and_sizes_differ(tmp_path: Path) -> None:
    depth = dataset(tmp_path, "depth_filenames", np.where(DEPTH > 1.5, DEPTH, -1)[:6, :8])[0]["depth"]
    assert depth.shape == (H, W, 1) and float(depth.min()) == 0 and float(depth.max()) > 0.75


@pytest.mark.parametrize(
    "content",
    [np.repeat(DEPTH[..., None], 3, -1), DEPTH.reshape(-1), DEPTH > 1, b"\x93NUMPY", Image.new("RGB", (W, H), "red")],
)
def test_what_is_no_depth_map(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ShapeError, match=r"the depth map '.*' (is missing or damaged|holds .* for each pixel)"):
        dataset(tmp_path, "depth_filenames", content)[0]


NORMAL = np.random.default_rng(0).random((3, H, W)).astype("f4")


def test_normal_maps_are_shares(tmp_path: Path) -> None:
    normal = dataset(tmp_path, "normal_filenames", NORMAL)[0]["normal"]
    wanted = (torch.from_numpy(NORMAL).movedim(0, -1) * 2 - 1) * torch.tensor([1.0, -1.0, -1.0])
    assert torch.allclose(normal, wanted, atol=1e-6)


@pytest.mark.parametrize(
    "content", [NORMAL.transpose(1, 2, 0), NORMAL[:1], NORMAL[0], (NORMAL * 255).astype("u1"), NORMAL * 2 - 1, b"hello"]
)
def test_what_is_no_normal_map(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ShapeError, match=r"the normal map '.*' (is missing or damaged|holds .* from 0 to 1)"):
        dataset(tmp_path, "normal_filenames", content)[0]


def test_dark_pictures_of_16_bits_stay_dark(tmp_path: Path) -> None:
    bright = np.random.default_rng(0).integers(0, 65536, (H, W)).astype("u2")
    for name, values in (("bright", bright), ("dark", bright // 300)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        assert np.array_equal(read_picture(tmp_path / f"{name}.png")[..., 0], values >> 8)
    Image.fromarray((bright > 30000).astype("u2") * 255).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").max() == 255
