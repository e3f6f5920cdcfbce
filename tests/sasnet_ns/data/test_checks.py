"""Folders of photographs that cannot be trained on are refused in one sentence; odd ones are read right."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_neus_facto  # isort: skip  (nerfstudio's writer cannot come first)
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from sasnet_ns.data.dtu_dataparser import DTUDataParserConfig
from sasnet_ns.data.picture_files import is_transparent, open_picture, read_mask, read_picture
from sasnet_ns.data.surface_photos import SurfaceDataManager, SurfaceDataManagerConfig

SIZE = 16
Edit = Callable[[dict[str, Any]], Any]
Make = Callable[..., Path]


def edit(folder: Path, change: Edit) -> None:
    """Change what transforms.json says."""
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def manager(folder: Path, parser: Any = None, test_mode: str = "val") -> SurfaceDataManager:
    """The datamanager of the surface methods on a folder."""
    config = SurfaceDataManagerConfig(
        dataparser=parser or NerfstudioDataParserConfig(),
        data=folder,
        train_num_rays_per_batch=64,
        eval_num_rays_per_batch=64,
    )
    return SurfaceDataManager(config, test_mode=test_mode)


def masks(folder: Path, make: Callable[[int], Image.Image], skip: int = -1) -> None:
    """A mask for each picture, named in transforms.json."""
    (folder / "masks").mkdir()
    for i in range(6):
        if i != skip:
            make(i).save(folder / "masks" / f"{i:03d}.png")
    edit(folder, lambda meta: [f.update(mask_path=f["file_path"].replace("images", "masks")) for f in meta["frames"]])


def set_pose(frame: int, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda meta: meta["frames"][frame].update(transform_matrix=value))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:120])


def resave(folder: Path, frame: int, size: tuple[int, int]) -> None:
    path = folder / "images" / f"{frame:03d}.png"
    Image.open(path).resize(size).save(path)


def all_transparent(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        picture = Image.open(path)
        picture.putalpha(0)
        picture.save(path)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no camera file": (lambda f: (f / "transforms.json").unlink(), r"no 'transforms\.json' in .*ns-process-data"),
    "broken JSON": (
        lambda f: (f / "transforms.json").write_text('{"frames": ['),
        r"transforms\.json' is not complete JSON: .* line 1, column 13",
    ),
    "no list": (lambda f: (f / "transforms.json").write_text("[]"), "has no list 'frames'"),
    "no frames": (lambda f: edit(f, lambda m: m["frames"].clear()), "lists no frames"),
    "one picture": (lambda f: edit(f, lambda m: m.update(frames=m["frames"][:1])), "single picture"),
    "no matrix": (
        lambda f: edit(f, lambda m: m["frames"][2].pop("transform_matrix")),
        r"frame 2 \('images/002\.png'\).* has no 'transform_matrix'",
    ),
    "3 x 4 matrix": (set_pose(1, np.eye(4)[:3].tolist()), r"frame 1 .*not 4 x 4"),
    "NaN pose": (set_pose(3, [[float("nan")] * 4] * 3 + [[0, 0, 0, 1]]), r"frame 3 \('images/003\.png'\).*not finite"),
    "zero rotation": (set_pose(3, np.diag([0, 0, 0, 1]).tolist()), r"frame 3 .*singular"),
    "equal poses": (
        lambda f: edit(f, lambda m: [x.update(transform_matrix=np.eye(4).tolist()) for x in m["frames"]]),
        "all 6 cameras .* stand at one point",
    ),
    "no focal length": (lambda f: edit(f, lambda m: m.pop("fl_x")), r"frame 0 .* has no 'fl_x'"),
    "unknown split": (lambda f: edit(f, lambda m: m.update(train_filenames=["images/9.png"])), "images/9.png"),
    "missing picture": (lambda f: (f / "images" / "004.png").unlink(), r"no picture '.*004\.png'"),
    "missing first picture": (lambda f: (f / "images" / "000.png").unlink(), r"no picture '.*000\.png'"),
    "truncated picture": (lambda f: truncate(f / "images" / "003.png"), r"003\.png' is damaged or ends too early"),
    "no picture at all": (lambda f: (f / "images" / "003.png").write_text("x"), r"003\.png' is not a readable picture"),
    "wrong size": (lambda f: resave(f, 3, (8, 8)), r"003\.png' has 8 x 8 pixels, its camera 16 x 16"),
    "all transparent": (all_transparent, "all 6 pictures .* transparent throughout"),
    "black masks": (lambda f: masks(f, lambda i: Image.new("L", (SIZE, SIZE))), "all 6 masks .* are black"),
    "missing mask": (lambda f: masks(f, lambda i: Image.new("L", (SIZE, SIZE), 255), 2), r"no mask '.*002\.png'"),
    "some masks": (lambda f: edit(f, lambda m: m["frames"][0].update(mask_path="x.png")), r"frame 1 .* no mask"),
    "missing depth": (
        lambda f: edit(f, lambda m: [x.update(depth_file_path="depth/1.png") for x in m["frames"]]),
        r"no depth map '.*depth/1\.png' for the picture",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_folder_is_one_sentence(name: str, tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    spoil, words = BAD[name]
    spoil(folder)
    with pytest.raises(SystemExit, match=words) as caught:
        manager(folder)
    message = str(caught.value)
    assert message.startswith("--data: ") and "\n" not in message and message.endswith(".")


def test_a_refused_folder_leaves_no_run_behind(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    truncate(folder / "images" / "003.png")
    config = copy.deepcopy(sasnet_neus_facto.config)
    config.output_dir, config.timestamp, config.vis = tmp_path / "outputs", "run", "tensorboard"
    config.data = config.pipeline.datamanager.data = folder
    config.machine.device_type = "cpu"
    config.save_config()
    assert config.get_base_dir().is_dir()
    with pytest.raises(SystemExit, match="damaged"):
        config.setup(local_rank=0, world_size=1).setup()
    assert not (tmp_path / "outputs").exists()


def test_pictures_with_and_without_transparency_go_together(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    Image.open(folder / "images" / "001.png").convert("RGB").save(folder / "images" / "001.png")
    data = manager(folder)
    _, batch = data.next_train(0)
    assert batch["image"].shape == (64, 4)
    item = data.train_dataset[[p.stem for p in data.train_dataset.image_filenames].index("001")]
    assert (item["image"][..., 3] == 1).all()


def test_one_opaque_kind_keeps_three_channels(tmp_path: Path, make_folder: Make) -> None:
    assert manager(make_folder(tmp_path / "data", mode="RGB")).train_dataset[0]["image"].shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: Image.fromarray(np.tri(SIZE, dtype=np.uint8) * 255).convert("RGB"),
        lambda i: Image.fromarray(np.tri(SIZE, dtype=np.uint8) * 255).convert("RGBA"),
        lambda i: Image.fromarray(np.kron(np.tri(SIZE, dtype=np.uint8), np.ones((2, 2), np.uint8)) * 255),
        lambda i: Image.fromarray(np.tri(SIZE, dtype=np.uint8)),
        lambda i: Image.fromarray(np.tri(SIZE, dtype=bool)),
    ],
    ids=["RGB", "RGBA", "twice the size", "zeros and ones", "bits"],
)
def test_masks_of_any_kind(make: Callable[[int], Image.Image], tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data", mode="RGB")
    masks(folder, make)
    item = manager(folder).train_dataset[0]
    expected = torch.from_numpy(np.tri(SIZE, dtype=bool))
    assert item["mask"].dtype == torch.bool
    assert torch.equal(item["mask"][..., 0], expected)


def test_neus_data_without_masks_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "image" / "0.png")
    with pytest.raises(SystemExit, match=r"no folder '.*mask'; without masks, use --masks none"):
        manager(tmp_path, DTUDataParserConfig())


def test_blender_data(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    meta = json.loads((folder / "transforms.json").read_text())
    frames = [{**f, "file_path": f["file_path"].removesuffix(".png")} for f in meta["frames"]]
    with pytest.raises(SystemExit, match=r"no 'transforms_train\.json'"):
        manager(folder, BlenderDataParserConfig())
    for split in ("train", "val", "test"):
        text = json.dumps({"camera_angle_x": 0.8, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)
    assert manager(folder, BlenderDataParserConfig()).train_dataset[0]["image"].shape == (SIZE, SIZE, 4)
    (folder / "transforms.json").unlink()
    with pytest.raises(SystemExit, match="blender-data at the end of the command"):
        manager(folder)
    resave(folder, 2, (8, 8))
    with pytest.raises(SystemExit, match=r"002\.png' has 8 x 8 pixels"):
        manager(folder, BlenderDataParserConfig())


def test_pictures_of_every_mode_have_their_colours(tmp_path: Path) -> None:
    colors = np.zeros((2, 2, 3), np.uint8)
    colors[0, 0], colors[1, 1] = (200, 30, 60), (10, 250, 100)
    Image.fromarray(colors).quantize(8).save(tmp_path / "palette.png")
    assert np.array_equal(read_picture(tmp_path / "palette.png"), colors)
    gray = np.array([[0, 257 * 10], [257 * 100, 65535]], np.uint16)
    Image.fromarray(gray).save(tmp_path / "wide.png")
    assert np.array_equal(read_picture(tmp_path / "wide.png")[..., 1], [[0, 10], [100, 255]])
    Image.fromarray(gray).save(tmp_path / "clear.png", transparency=0)
    assert np.array_equal(read_picture(tmp_path / "clear.png")[..., 3], [[0, 255], [255, 255]])
    assert np.array_equal(read_picture(tmp_path / "clear.png")[..., 1], [[0, 10], [100, 255]])
    with open_picture(tmp_path / "clear.png") as picture:
        assert is_transparent(picture)
    Image.fromarray(np.array([[0, 128], [64, 255]], np.uint8)).convert("LA").save(tmp_path / "la.png")
    assert read_picture(tmp_path / "la.png").shape == (2, 2, 4)
    assert np.array_equal(read_picture(tmp_path / "la.png")[..., 0], [[0, 128], [64, 255]])
    assert read_picture(tmp_path / "palette.png", alpha=True)[..., 3].min() == 255
    assert read_mask(tmp_path / "wide.png", (4, 4)).shape == (4, 4)


def test_rendering_along_a_path_needs_no_pictures(tmp_path: Path, make_folder: Make) -> None:
    """nerfstudio's "inference": only cameras and the checkpoint are wanted, the pictures may be elsewhere."""
    folder = make_folder(tmp_path / "data")
    for path in (folder / "images").iterdir():
        path.unlink()
    assert len(manager(folder, test_mode="inference").train_dataset) == 6
    with pytest.raises(SystemExit, match="no picture"):
        manager(folder, test_mode="test")
