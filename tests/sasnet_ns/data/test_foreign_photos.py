"""Folders of photographs as other programs and other people leave them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_neus_facto  # isort: skip  # noqa: F401  (nerfstudio's writer cannot come first)
from nerfstudio.data.dataparsers import nerfstudio_dataparser
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.sdfstudio_dataparser import SDFStudioDataParserConfig
from nerfstudio.data.pixel_samplers import PixelSamplerConfig
from photo_folders import SIZE, Make, Meta, edited, entry, in_two_sizes, manager, read, write

from sasnet_ns.data.checks import check_camera_file
from sasnet_ns.data.dtu_dataparser import DTUDataParserConfig
from sasnet_ns.data.frames import applied_to_data
from sasnet_ns.data.parser_errors import parser_errors
from sasnet_ns.data.picture_files import read_mask
from sasnet_ns.data.samplers import MaskSampler
from sdf_tools.errors import ShapeError


def each(**entries: Any) -> Callable[[Meta], Any]:
    """Entries for every frame."""
    return lambda meta: [frame.update(entries) for frame in meta["frames"]]


def posed(change: Callable[[np.ndarray], Any], frames: slice) -> Callable[[Meta], Any]:
    """Change poses in place."""

    def edit(meta: Meta) -> None:
        for frame in meta["frames"][frames]:
            pose = np.array(frame["transform_matrix"])
            change(pose)
            frame["transform_matrix"] = pose.tolist()

    return edit


def square(value: int = 255) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[4:12, 4:12] = value
    return mask


def with_masks(folder: Path, *masks: np.ndarray) -> Path:
    """Name a mask for every frame, the last for all that are left."""
    (folder / "masks").mkdir()
    meta = read(folder)
    for i, frame in enumerate(meta["frames"]):
        frame["mask_path"] = frame["file_path"].replace("images", "masks")
        Image.fromarray(masks[min(i, len(masks) - 1)]).save(folder / frame["mask_path"])
    write(folder, meta)
    return folder


def inside(batch: dict[str, Any], dataset: Any) -> bool:
    """Whether all pixels of a batch lie under the masks of their pictures."""
    return all(bool(dataset[int(i)]["mask"][y, x]) for i, y, x in batch["indices"])


def neus(folder: Path, change: Callable[[dict[str, np.ndarray]], Any] = lambda matrices: None) -> Path:
    """The same folder in the NeuS format."""
    meta = read(folder)
    (folder / "images").rename(folder / "image")
    (folder / "mask").mkdir()
    matrices: dict[str, np.ndarray] = {}
    intrinsics = np.array([[20, 0, 8], [0, 20, 8], [0, 0, 1.0]])
    for i, frame in enumerate(meta["frames"]):
        Image.fromarray(square()).save(folder / "mask" / f"{i:03d}.png")
        world = np.eye(4)
        world[:3] = intrinsics @ np.linalg.inv(np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1.0]))[:3]
        matrices |= {f"world_mat_{i}": world, f"scale_mat_{i}": np.eye(4)}
    change(matrices)
    np.savez(folder / "cameras_sphere.npz", **matrices)
    return folder


# Masks


@pytest.mark.parametrize("surface", [True, False], ids=["surface", "field"])
def test_one_evaluation_picture_under_a_mask(surface: bool, tmp_path: Path, make_folder: Make) -> None:
    data = manager(with_masks(make_folder(tmp_path / "data", 12, "RGB"), square()), surface=surface)
    assert len(data.eval_dataset) == 1
    _, batch = data.next_eval(0)
    assert inside(batch, data.eval_dataset)
    _, batch = data.next_train(0)
    assert inside(batch, data.train_dataset)
    assert len(batch["indices"][:, 0].unique()) > 5


def test_one_evaluation_picture_of_neus_data(tmp_path: Path, make_folder: Make) -> None:
    data = manager(neus(make_folder(tmp_path / "data", 8, "RGB")), DTUDataParserConfig(masks="sampling"))
    assert len(data.eval_dataset) == 1
    _, batch = data.next_eval(0)
    assert inside(batch, data.eval_dataset)


def test_pictures_of_two_sizes_under_masks(tmp_path: Path, make_folder: Make) -> None:
    folder = in_two_sizes(make_folder(tmp_path / "data", mode="RGB"))
    data = manager(with_masks(folder, square()))
    assert inside(data.next_train(0)[1], data.train_dataset)
    Image.new("L", (SIZE, SIZE)).save(folder / "masks" / "002.png")
    with pytest.raises(SystemExit, match=r"mask '.*002\.png' is black, .* different sizes; leave its frame out\."):
        manager(folder)


def test_several_pictures_are_drawn_as_by_nerfstudio() -> None:
    mask = torch.from_numpy(square() > 0)[None, ..., None].repeat(3, 1, 1, 1)
    drawn = []
    for kind in (PixelSamplerConfig().setup, lambda: MaskSampler(PixelSamplerConfig())):
        torch.manual_seed(0)
        drawn.append(kind().sample_method(50, 3, SIZE, SIZE, mask))
    assert torch.equal(*drawn)


@pytest.mark.filterwarnings("ignore:[^!]*Masked sampling failed")
@pytest.mark.parametrize("pictures", [1, 3])
def test_masks_of_fewer_pixels_than_a_batch(pictures: int) -> None:
    mask = torch.zeros(pictures, SIZE, SIZE, 1, dtype=torch.bool)
    mask[-1, 3, 5] = True
    sampler = MaskSampler(PixelSamplerConfig(max_num_iterations=2))
    for _ in range(2):  # nerfstudio goes another way after it has failed once
        indices = sampler.sample_method(500, pictures, SIZE, SIZE, mask)
        assert (indices == torch.tensor([pictures - 1, 3, 5])).all()
    mask[:] = False
    assert sampler.sample_method(500, pictures, SIZE, SIZE, mask).shape == (500, 3)


@pytest.mark.filterwarnings("ignore:[^!]*Masked sampling failed")
@pytest.mark.parametrize("pictures", [1, 3])
def test_a_draw_depends_on_torchs_generator_alone(pictures: int) -> None:
    """Not on whether an earlier one failed, nor on Python's generator: a resumed run knows of neither."""
    mask = torch.zeros(pictures, SIZE, SIZE, 1, dtype=torch.bool)
    mask[:, 2:4, 3:] = True
    sampler = MaskSampler(PixelSamplerConfig(max_num_iterations=1))
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(sampler.sample_method(40, pictures, SIZE, SIZE, mask))
    assert torch.equal(*drawn) and sampler.config.rejection_sample_mask
    picture, row, column = drawn[0].T
    assert mask[picture, row, column].all() and len(drawn[0].unique(dim=0)) > 10


def test_masks_in_the_alpha_channel(tmp_path: Path, make_folder: Make, capsys: pytest.CaptureFixture[str]) -> None:
    cutout = np.full((SIZE, SIZE, 4), 255, np.uint8)
    cutout[..., 3] = square()
    empty = cutout.copy()
    empty[..., 3] = 0
    folder = with_masks(make_folder(tmp_path / "data", mode="RGB"), empty, cutout)
    data = manager(folder)
    assert "has one colour and an alpha channel" in " ".join(capsys.readouterr().out.split())
    shares = [float(data.train_dataset[i]["mask"].float().mean()) for i in range(6)]
    assert shares == [0.0] + [0.25] * 5
    # Where the colours vary, they are the mask, whatever the alpha channel holds.
    cutout[..., :3] = np.arange(SIZE)[:, None, None] * 17
    Image.fromarray(cutout).save(tmp_path / "colours.png")
    assert np.array_equal(read_mask(tmp_path / "colours.png"), cutout[..., 0])


@pytest.mark.parametrize("value", [1, 2, 100, 127])
def test_masks_of_one_dark_grey(value: int, tmp_path: Path, make_folder: Make) -> None:
    data = manager(with_masks(make_folder(tmp_path / "data", mode="RGB"), square(value)))
    assert torch.equal(data.train_dataset[0]["mask"][..., 0], torch.from_numpy(square() > 0))


def test_dark_masks_of_many_greys_are_black(tmp_path: Path, make_folder: Make) -> None:
    noise = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) // 4
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert np.array_equal(read_mask(tmp_path / "noise.png"), noise)
    with pytest.raises(SystemExit, match="black, or of several values darker than half grey"):
        manager(with_masks(make_folder(tmp_path / "data", mode="RGB"), noise))


# What transforms.json says


def mirror(pose: np.ndarray) -> None:
    pose[:3, 0] *= -1


def shear(pose: np.ndarray) -> None:
    pose[0, 1] += 3


def transpose(pose: np.ndarray) -> None:
    pose[:] = pose.T.copy()


def far_away(pose: np.ndarray) -> None:
    pose[:3, 3] += [450_000, 5_400_000, 300]


REFUSED: dict[str, tuple[Callable[[Meta], Any], str]] = {
    "focal length 0": (entry(fl_x=0), r"transforms\.json' has 'fl_x' 0; a focal length is a positive number"),
    "focal length negative": (entry(fl_y=-20.0), "'fl_y' -20.0; a focal length"),
    "focal length NaN": (entry(fl_x=float("nan")), "'fl_x' nan; a focal length"),
    "focal length null": (entry(fl_x=None), r"frame 0 .* has no 'fl_x'"),
    "focal length in words": (entry(fl_x="wide"), "'fl_x' 'wide'; a focal length"),
    "focal length of a frame": (
        lambda m: (m.pop("fl_x"), each(fl_x=20.0)(m), m["frames"][2].update(fl_x=0)),
        r"frame 2 \('images/002\.png'\) in .* has 'fl_x' 0",
    ),
    "size in words": (entry(w="16.0"), "'w' '16.0'; the size of a picture"),
    "size 0": (entry(h=0), "'h' 0; the size of a picture"),
    "principal point NaN": (entry(cx=float("nan")), "'cx' nan, which is not a finite number"),
    "lens NaN": (entry(k1=float("nan")), "'k1' nan, which is not a finite number"),
    "lens short": (entry(distortion_params=[0.1, 0.0]), "'distortion_params' that are not six numbers"),
    "all mirrored": (posed(mirror, slice(None)), r"frame 0 .* mirrored pose"),
    "one mirrored": (posed(mirror, slice(1, 2)), r"frame 1 \('images/001\.png'\).* mirrored pose"),
    "one sheared": (posed(shear, slice(4, 5)), r"frame 4 .* no rotation"),
    "stretched": (posed(lambda p: p[:3, 2].__imul__(1.2), slice(None)), r"frame 0 .* no rotation"),
    "transposed": (posed(transpose, slice(None)), r"frame 0 .* last row is not 0 0 0 1; is it transposed\?"),
    "unknown lens": (entry(camera_model="FULL_OPENCV"), "'camera_model' 'FULL_OPENCV', .*COLMAP's image_undistorter"),
    "lens in lower case": (entry(camera_model="perspective"), "'camera_model' 'perspective'"),
    "orientation": (entry(orientation_override="foo"), "'orientation_override' 'foo'; it may be pca, up"),
    "scale 0": (entry(applied_scale=0), "'applied_scale' 0; it is a positive number"),
    "transform": (entry(applied_transform=[1, 2]), "'applied_transform' that is no transform"),
    "projective transform": (
        entry(applied_transform=[*np.eye(4)[:3].tolist(), [0, 0, 1, 1]]),
        "'applied_transform' that is no transform",
    ),
    "train only": (entry(train_filenames=["images/000.png"]), "'train_filenames' but has no 'val_filenames'"),
    "evaluation only": (entry(val_filenames=["images/000.png"]), "'val_filenames' but has no 'train_filenames'"),
    "numbers of pictures": (entry(train_filenames=[0, 1], val_filenames=[2]), "not a list of names of pictures"),
    "one name": (entry(train_filenames="images/000.png", val_filenames=[]), "not a list of names of pictures"),
    "nothing to train on": (entry(train_filenames=[], val_filenames=[]), "fewer than two pictures"),
    "some masks null": (
        lambda m: (each(mask_path="masks/1.png")(m), m["frames"][3].update(mask_path=None)),
        r"frame 3 .* has no mask \('mask_path'\)",
    ),
    "far from the origin": (
        posed(far_away, slice(None)),
        r"stand within \S+ of each other, but 5\.4e\+06 from the origin, .*subtract \(450000, 5400000, 300\)",
    ),
    "shifted from the origin": (
        entry(applied_transform=[[1, 0, 0, -450_000], [0, 1, 0, -5_400_000], [0, 0, 1, -300]]),
        r"transforms\.json' has an 'applied_transform' that shifts by 5\.419e\+06, .* float32 .*; make its last",
    ),
    "singular": (posed(lambda p: p[:3, 0].__imul__(0), slice(2, 3)), "frame 2 .* singular"),
    "number of a mask": (each(mask_path=3), r"frame 0 .* has a 'mask_path' that is not the name of a file"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_is_one_sentence(name: str, tmp_path: Path, make_folder: Make) -> None:
    change, words = REFUSED[name]
    with pytest.raises(SystemExit, match=words) as caught:
        manager(edited(make_folder(tmp_path / "data"), change))
    message = str(caught.value)
    assert message.startswith("--data: ") and "\n" not in message and message.endswith((".", "?"))


TAKEN: dict[str, Callable[[Meta], Any]] = {
    "null lens": entry(k1=None, p2=None, camera_model=None),
    "null masks and depths": each(mask_path=None, depth_file_path=None),
    "null in the file": entry(applied_scale=None, applied_transform=None, orientation_override=None),
    "null splits": entry(train_filenames=None, val_filenames=None, test_filenames=None),
    "null lens of frames": each(k1=None, k2=None),
    "identity of 4 x 4": entry(applied_transform=np.eye(4).tolist()),
    "numbers as words": entry(fl_x="20.0", w="16"),
    "scaled rotations": posed(lambda pose: pose[:3, :3].__imul__(2), slice(None)),
    "rotations of a small scale": posed(lambda pose: pose[:3, :3].__imul__(0.005), slice(None)),
    "some rotations scaled": posed(lambda pose: pose[:3, :3].__imul__(3), slice(0, 3)),
    "the same intrinsics twice": each(fl_x=20.0, w=16, k1=0.0),
    "rounded poses": posed(lambda pose: pose.__setitem__(..., pose.round(2)), slice(None)),
}


@pytest.mark.parametrize("name", list(TAKEN))
def test_what_is_meant_is_taken(name: str, tmp_path: Path, make_folder: Make) -> None:
    plain = manager(make_folder(tmp_path / "plain")).next_train(0)[0]
    data = manager(edited(make_folder(tmp_path / "data"), TAKEN[name]))
    rays = data.next_train(0)[0]
    assert torch.allclose(rays.directions, plain.directions, atol=0.02)
    assert torch.allclose(rays.origins, plain.origins, atol=0.02)
    assert data.train_dataparser_outputs.mask_filenames is None


@pytest.mark.parametrize("scale", [2.0, 0.3])
def test_scaled_rotations_leave_depths_and_normals_as_they_are(scale: float, tmp_path: Path, make_folder: Make) -> None:
    data = manager(edited(make_folder(tmp_path / "data"), posed(lambda p: p[:3, :3].__imul__(scale), slice(None))))
    rays = data.next_train(0)[0]
    assert torch.allclose(torch.linalg.det(data.train_dataset.cameras.camera_to_worlds[:, :, :3]), torch.ones(6))
    plain = manager(make_folder(tmp_path / "plain")).next_train(0)[0]
    assert torch.allclose(rays.metadata["directions_norm"], plain.metadata["directions_norm"], atol=1e-5)


def test_a_frames_own_intrinsics_count(tmp_path: Path, make_folder: Make) -> None:
    """instant-ngp goes by them; nerfstudio-data would pass over them beside the file's."""

    def change(meta: Meta) -> None:
        meta.update(k1=0.1, p1=0.02)
        meta["frames"][2].update(fl_x=30.0, k1=-0.2)

    folder = edited(make_folder(tmp_path / "data"), change)
    cameras = manager(folder).train_dataset.cameras
    assert cameras.fx.flatten().tolist() == [20, 20, 30, 20, 20, 20] and (cameras.fy == 20).all()
    assert cameras.distortion_params is not None
    assert torch.allclose(cameras.distortion_params[:, 0], torch.tensor([0.1, 0.1, -0.2, 0.1, 0.1, 0.1]))
    assert torch.allclose(cameras.distortion_params[:, 4], torch.tensor(0.02))
    words = r"frame 2 .* has 'fl_x' 30\.0, not 20\.0 as others, .*nerfstudio-data at the end of the command"
    with pytest.raises(SystemExit, match=words):
        manager(folder, InstantNGPDataParserConfig(), surface=False)


def test_a_byte_order_mark(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    loader = nerfstudio_dataparser.load_from_json
    plain = manager(folder).next_train(0)
    path = folder / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = manager(folder, NerfstudioDataParserConfig(center_method="focus", load_3D_points=False))
    assert len(marked.train_dataset) == 6
    assert torch.equal(manager(folder).next_train(0)[1]["image"], plain[1]["image"])
    assert nerfstudio_dataparser.load_from_json is loader


def test_a_transform_of_four_rows_leads_back(tmp_path: Path, make_folder: Make) -> None:
    transform = [[0.0, 1, 0, 2], [1, 0, 0, 0], [0, 0, -1, 0]]
    outputs = []
    for rows in (transform, [*transform, [0, 0, 0, 1]]):
        folder = edited(make_folder(tmp_path / str(len(rows))), entry(applied_transform=rows))
        data = manager(folder)
        assert applied_to_data(data.config.dataparser) == {"applied_transform": transform, "applied_scale": 1.0}
        outputs.append(data.train_dataparser_outputs.dataparser_transform)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("evaluation", ["val", "test"])
def test_one_list_for_evaluation_is_both(evaluation: str, tmp_path: Path, make_folder: Make) -> None:
    names = [f"images/{i:03d}.png" for i in range(6)]
    split = {"train_filenames": names[:4], f"{evaluation}_filenames": names[4:]}
    folder = edited(make_folder(tmp_path / "data"), lambda meta: meta.update(split))
    for mode in ("val", "test", "inference"):
        data = manager(folder, test_mode=mode)
        assert [path.name for path in data.eval_dataset.image_filenames] == ["004.png", "005.png"]


def test_every_picture_of_several_sizes_is_drawn(tmp_path: Path, make_folder: Make) -> None:
    folder = in_two_sizes(make_folder(tmp_path / "data", 40, "RGB"))
    data = manager(folder, NerfstudioDataParserConfig(eval_mode="all"))
    seen = [set(data.next_train(step)[1]["indices"][:, 0].tolist()) for step in range(12)]
    assert set.union(*seen) == set(range(40)) and all(len(found) == 32 for found in seen)  # 64 rays


# What is only odd


def test_odd_folders_are_spoken_of(tmp_path: Path, make_folder: Make, capsys: pytest.CaptureFixture[str]) -> None:
    def said(name: str, change: Callable[[Meta], Any], **kwargs: Any) -> str:
        manager(edited(make_folder(tmp_path / name), change), **kwargs)
        return "".join(capsys.readouterr().out.split())

    def repeat(pose: int) -> Callable[[Meta], Any]:
        matrix = "transform_matrix"
        return lambda meta: meta["frames"].append({**meta["frames"][0], matrix: meta["frames"][pose][matrix]})

    everything = NerfstudioDataParserConfig(eval_mode="all")
    assert "principalpoint" not in (out := said("plain", entry(), parser=everything)) and "twice" not in out
    assert "000.png'(and5more)liesoutsidethepicture" in said("far", entry(cx=8000.0))
    assert "principalpoint" not in said("looked at", entry(cx=8000.0), test_mode="test")
    assert "000.png'islistedtwiceandcountstwice" in said("same", repeat(0), parser=everything)
    assert "000.png'islistedtwicewithdifferentposes" in said("moved", repeat(3))
    astray = posed(lambda pose: pose[:3, 3].__imul__(100), slice(2, 3))
    assert "002.png'stands" in said("astray", astray) and "timesasfar" not in out


# Other parsers


def blender(folder: Path, splits: tuple[str, ...] = ("train", "val", "test"), **entries: Any) -> Path:
    frames = [{**frame, "file_path": frame["file_path"].removesuffix(".png")} for frame in read(folder)["frames"]]
    for split in splits:
        meta = {"camera_angle_x": 0.8, "frames": frames, **entries}
        (folder / f"transforms_{split}.json").write_text(json.dumps(meta), encoding="utf-8-sig")
    return folder


@pytest.mark.parametrize("angle", [0, 40.0, -0.5, "wide", float("nan")])
def test_blender_data_with_an_angle_that_cannot_be(angle: Any, tmp_path: Path, make_folder: Make) -> None:
    with pytest.raises(SystemExit, match=r"transforms_train\.json' has 'camera_angle_x' .*in radians, between 0 and 3"):
        manager(blender(make_folder(tmp_path / "data"), camera_angle_x=angle), BlenderDataParserConfig())


def test_blender_data_that_is_incomplete(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    with pytest.raises(SystemExit, match=r"no 'transforms_train\.json' .*nerfstudio-data at the end"):
        manager(folder, BlenderDataParserConfig())
    blender(folder, ("train", "test"))
    with pytest.raises(SystemExit, match=r"no 'transforms_val\.json' .* a copy of another will do") as caught:
        manager(folder, BlenderDataParserConfig())
    assert "at the end of the command" not in str(caught.value)
    assert len(manager(blender(folder), BlenderDataParserConfig()).train_dataset) == 6  # with byte order marks


def test_instant_ngp_data(tmp_path: Path, make_folder: Make) -> None:
    folder = edited(make_folder(tmp_path / "data"), entry(k1=None))
    path = folder / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(manager(folder, InstantNGPDataParserConfig(), surface=False).train_dataset) == 6
    path.write_text(path.read_text(encoding="utf-8-sig").replace('"fl_x": 20.0', '"fl_x": "wide"'))
    with pytest.raises(SystemExit, match="'fl_x' 'wide'"):
        manager(folder, InstantNGPDataParserConfig(), surface=False)
    path.unlink()
    with pytest.raises(ShapeError, match="ns-process-data makes one"):
        check_camera_file(InstantNGPDataParserConfig(data=folder))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.eye(4))


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:230] = bytes(30)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [cut, single_array, damaged, lambda path: path.write_bytes(b""), lambda path: path.write_text("hello")],
    ids=["cut short", "single array", "damaged", "empty", "text"],
)
def test_camera_files_of_neus_that_cannot_be_read(
    spoil: Callable[[Path], Any], tmp_path: Path, make_folder: Make
) -> None:
    folder = neus(make_folder(tmp_path / "data", mode="RGB"))
    spoil(folder / "cameras_sphere.npz")
    with pytest.raises(SystemExit, match=r"neus-data: '.*cameras_sphere\.npz' is not a whole \.npz of matrices"):
        manager(folder, DTUDataParserConfig())


@pytest.mark.parametrize(
    ("name", "matrix", "words"),
    [
        ("world_mat_2", np.eye(3), r"world_mat_2 in '.*' has 3 x 3 numbers; it is a matrix of 4 x 4"),
        ("scale_mat_0", np.eye(4)[:3], r"scale_mat_0 in '.*' has 3 x 4 numbers"),
        ("world_mat_0", np.array(1.0), r"world_mat_0 in '.*' has 1 numbers"),
        ("world_mat_0", np.array([None]), "not a whole .npz of matrices of numbers"),
    ],
)
def test_matrices_of_neus_of_another_shape(
    name: str, matrix: np.ndarray, words: str, tmp_path: Path, make_folder: Make
) -> None:
    folder = neus(make_folder(tmp_path / "data", mode="RGB"), lambda matrices: matrices.update({name: matrix}))
    with pytest.raises(SystemExit, match=words):
        manager(folder, DTUDataParserConfig())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"SDFStudio cannot read '.*': there is no '.*meta_data\.json'\."),
        ('{"height": 16, "frames": [', r"SDFStudio cannot read '.*': a file is not complete JSON \(.*line 1, .*\)\."),
        ('{"height": 16}', r"SDFStudio cannot read '.*': an entry is missing, '\w+'\."),
    ],
    ids=["missing", "cut", "incomplete"],
)  # fmt: skip
def test_what_only_a_parser_of_nerfstudio_reads_is_one_sentence(
    content: str | None, words: str, tmp_path: Path, make_folder: Make
) -> None:
    folder = make_folder(tmp_path / "data")
    if content is not None:
        (folder / "meta_data.json").write_text(content)
    with pytest.raises(SystemExit, match=words):
        manager(folder, SDFStudioDataParserConfig())


def test_errors_of_other_origin_are_left_alone() -> None:
    with pytest.raises(KeyError), parser_errors(SDFStudioDataParserConfig()):
        raise KeyError("a fault of this package")


def test_instant_ngp_data_with_one_evaluation_picture(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data", 12)
    config = InstantNGPDataParserConfig(scene_scale=0.5)
    data = manager(folder, config, surface=False)
    assert len(data.train_dataset) == 11 and len(data.eval_dataset) == 1
    (path,), camera = data.eval_dataset.image_filenames, data.eval_dataset.cameras
    pose = next(f for f in read(folder)["frames"] if f["file_path"].endswith(path.name))["transform_matrix"]
    wanted = torch.tensor(pose)[:3]
    wanted[:, 3] *= 0.5
    assert torch.allclose(camera.camera_to_worlds, wanted[None]) and camera.fx.shape == (1, 1)
    rays, batch = data.next_eval(0)
    assert rays.origins.shape == (64, 3) and torch.allclose(rays.origins, wanted[:, 3].expand(64, 3))
    assert batch["image"].shape == (64, 4)


def test_instant_ngp_data_that_is_incomplete(tmp_path: Path, make_folder: Make) -> None:
    def refused(name: str, change: Callable[[Meta], Any]) -> str:
        folder = edited(make_folder(tmp_path / name), change)
        with pytest.raises(SystemExit) as caught:
            manager(folder, InstantNGPDataParserConfig(), surface=False)
        return str(caught.value)

    assert "has no 'fl_x', and no 'camera_angle_x'" in refused("focal", lambda meta: meta.pop("fl_x"))
    assert "no picture '" in refused("picture", lambda m: m["frames"][4].update(file_path="images/lost.png"))
    assert "'y_fov' 300" in refused("angle", lambda meta: meta.update(y_fov=300))
    assert "('images/000.png')" in refused("mask", lambda meta: meta["frames"][1].update(mask_path="images/001.png"))


@pytest.mark.parametrize(
    "entries",
    [{"fl_y": 30.0}, {"camera_angle_y": 2 * math.atan(8 / 30)}, {"y_fov": 2 * math.degrees(math.atan(8 / 30))}],
)
def test_instant_ngp_data_has_two_focal_lengths(entries: Meta, tmp_path: Path, make_folder: Make) -> None:
    def change(meta: Meta) -> None:
        del meta["fl_y"]
        meta.update(entries)

    cameras = manager(
        edited(make_folder(tmp_path / "data"), change), InstantNGPDataParserConfig(), surface=False
    ).train_dataset.cameras
    assert torch.allclose(cameras.fx, torch.tensor(20.0)) and torch.allclose(cameras.fy, torch.tensor(30.0))
