"""COLMAP's own models, as nerfstudio's parser ``colmap`` reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_neus_facto  # isort: skip  # noqa: F401  (nerfstudio's writer cannot come first)
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from photo_folders import SIZE, Make, manager, read
from scipy.spatial.transform import Rotation

PARSER = ColmapDataParserConfig(downscale_factor=1, orientation_method="none", center_method="poses")


def with_model(folder: Path, place: str = "colmap/sparse/0", shift: float = 0.0) -> Path:
    """The cameras of transforms.json as a text model."""
    model = folder / place
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE {SIZE} {SIZE} 20 20 {SIZE / 2} {SIZE / 2}\n")
    lines = []
    for number, frame in enumerate(read(folder)["frames"], 1):
        pose = np.array(frame["transform_matrix"])
        pose[:3, 3] += shift
        inverse = np.linalg.inv(pose @ np.diag([1, -1, -1, 1]))
        x, y, z, w = Rotation.from_matrix(inverse[:3, :3]).as_quat()
        numbers = [number, *map(float, (w, x, y, z, *inverse[:3, 3])), 1]
        lines.append(" ".join(map(str, numbers)) + f" {Path(frame['file_path']).name}\n\n")
    (model / "images.txt").write_text("".join(lines))
    points = np.random.default_rng(0).normal(size=(20, 3))
    rows = (f"{i} {x} {y} {z} 9 9 9 0.1 1 0 2 0\n" for i, (x, y, z) in enumerate(points, 1))
    (model / "points3D.txt").write_text("".join(rows))
    (folder / "transforms.json").unlink()
    return folder


def test_a_model_is_read(tmp_path: Path, make_folder: Make) -> None:
    data = manager(with_model(make_folder(tmp_path / "data", 12)), PARSER)
    origins = data.train_dataset.cameras.camera_to_worlds[:, :, 3]
    assert (
        len(origins) == 10
        and len(data.eval_dataset) == 2
        and torch.allclose(origins.norm(dim=1), origins.norm(dim=1).mean(), rtol=0.2)
    )


@pytest.mark.parametrize("name", ["none", "elsewhere", "empty", "cut", "unknown lens", "far"])
def test_what_is_wrong_with_a_model_is_one_sentence(name: str, tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    words = {
        "none": r"no COLMAP model in '.*0'; it has cameras, images and points3D, .*ns-process-data makes one",
        "elsewhere": r"there is one in '.*sparse.0': --colmap-path sparse/0 behind 'colmap' reads it\.",
        "empty": r"cannot read '.*sparse.0': No images found in the colmap model\.",
        "cut": r"cannot read '.*sparse.0': a file is damaged or ends too early .*\.",
        "unknown lens": r"cannot read '.*sparse.0': .*THIN_PRISM",
        "far": r"from the origin, where nerfstudio's float32 places them to \S+ only; subtract their mean",
    }[name]
    if name != "none":
        with_model(folder, "sparse/0" if name == "elsewhere" else "colmap/sparse/0", 5e6 if name == "far" else 0.0)
    images = folder / "colmap/sparse/0/images.txt"
    if name == "empty":
        images.write_text("# nothing\n")
    if name == "cut":
        images.write_text(images.read_text()[:150])
    if name == "unknown lens":
        lens = f"1 THIN_PRISM_FISHEYE {SIZE} {SIZE} 20 20 8 8" + " 0" * 8
        images.with_name("cameras.txt").write_text(lens + "\n")
    with pytest.raises(SystemExit, match=words) as caught:
        manager(folder, PARSER)
    assert str(caught.value).startswith("--data: ") and "\n" not in str(caught.value)
