"""Dataparser of the NeuS camera format (DTU, BlendedMVS, own scenes): ``cameras_sphere.npz``, ``image/``, ``mask/``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.camera_utils import auto_orient_and_center_poses
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from sasnet_ns.data.terminal import silence_nerfstudio
from sdf_tools.errors import ShapeError
from sdf_tools.io.limits import Archive

# Imported while nerfstudio collects its dataparsers: nothing here may import a nerfstudio datamanager.
silence_nerfstudio()

SUFFIXES = (".png", ".jpg", ".jpeg")
FOREGROUND_MASKS = "foreground_mask_filenames"
"""Key of the outputs' metadata: one mask file for each picture, white where the object is."""


@dataclass
class DTUDataParserConfig(DataParserConfig):
    """Scenes in the NeuS camera format."""

    _target: type = field(default_factory=lambda: DTU)
    """Class to build."""
    data: Path = Path("data/dtu_scan65")
    """Folder with cameras_sphere.npz, image/ and, where there are masks, mask/."""
    cameras: str = "cameras_sphere.npz"
    """Name of the camera file: world_mat_i and scale_mat_i for each picture."""
    masks: Literal["foreground", "sampling", "none"] = "foreground"
    """What masks are for: foreground (the sasnet methods take them as alpha channel and learn that all else is empty),
    sampling (no pixel outside is ever drawn, whatever the method), or none."""
    eval_interval: int = 8
    """Every n-th picture is kept for evaluation; 0 trains and evaluates on all, as NeuS does."""
    orientation: Literal["up", "none"] = "up"
    """Turn the scene so that the cameras' mean upward direction is z, or leave its axes."""
    scene_scale: float = 1.0
    """Half the side of the scene box; the scale matrix puts the object into the unit sphere."""


@dataclass
class DTU(DataParser):
    """Cameras and masks of a scene, in coordinates in which the object lies in the unit sphere.

    ``dataparser_transform`` and ``dataparser_scale`` of the outputs (and so the ``dataparser_transforms.json`` that
    training leaves) hold the way from world units, in which the scene's reference scan is, to these coordinates.
    """

    config: DTUDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **_: Any) -> DataparserOutputs:
        """Read the cameras of one split.

        Raises:
            SystemExit: with one sentence, if files are missing or do not fit together.
        """
        try:
            return self._outputs(split)
        except (OSError, ValueError) as error:
            raise SystemExit(f"neus-data: {error}") from None

    def _outputs(self, split: str) -> DataparserOutputs:
        config = self.config
        images = _pictures(config.data / "image")
        masks = []
        if config.masks != "none":
            if not (config.data / "mask").is_dir():
                raise OSError(f"there is no folder '{config.data / 'mask'}'; without masks, use --masks none.")
            masks = _pictures(config.data / "mask")
        if len(masks) != len(images) and config.masks != "none":
            raise ValueError(
                f"'{config.data}' has {len(images)} pictures in image/ and {len(masks)} in mask/; there must be a mask "
                "for each, or use --masks none."
            )
        for image, mask in zip(images, masks, strict=False):
            if _number(image) != _number(mask):
                raise ValueError(
                    f"'{image.name}' in image/ and '{mask.name}' in mask/ would belong together by their order, and "
                    "their numbers differ; give each picture its mask, or use --masks none."
                )
        intrinsics, poses, world_to_sphere = read_cameras(config.data / config.cameras, len(images), images)
        turned, turn = auto_orient_and_center_poses(poses.float(), method=config.orientation, center_method="none")
        chosen = split_indices(len(images), config.eval_interval, split)
        width, height = _size(images[0])
        rows = torch.tensor(chosen)
        cameras = Cameras(
            camera_to_worlds=turned[rows, :3].float(),
            fx=intrinsics[rows, 0, 0].float(),
            fy=intrinsics[rows, 1, 1].float(),
            cx=intrinsics[rows, 0, 2].float() + 0.5,  # whole numbers are centres of pixels there, their corners here
            cy=intrinsics[rows, 1, 2].float() + 0.5,
            width=width,
            height=height,
            camera_type=CameraType.PERSPECTIVE,
        )
        # nerfstudio's convention: scene = scale * (transform applied to world).
        scale = float(world_to_sphere[0, 0])
        transform = turn.double() @ torch.cat([world_to_sphere / scale, torch.eye(4, dtype=torch.float64)[3:]])
        half = config.scene_scale
        return DataparserOutputs(
            image_filenames=[images[i] for i in chosen],
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-half] * 3, [half] * 3])),
            mask_filenames=[masks[i] for i in chosen] if config.masks == "sampling" else None,
            dataparser_transform=transform.float(),
            dataparser_scale=scale,
            metadata={FOREGROUND_MASKS: [masks[i] for i in chosen]} if config.masks == "foreground" else {},
        )


def split_indices(count: int, eval_interval: int, split: str) -> list[int]:
    """Which of ``count`` pictures belong to a split.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if eval_interval == 0:
        return list(range(count))
    evaluation = list(range(0, count, eval_interval))
    training = [i for i in range(count) if i not in set(evaluation)]
    if not training or eval_interval < 0:
        raise ValueError(f"an eval interval of {eval_interval} leaves no picture of {count} for training.")
    return training if split == "train" else evaluation


def read_cameras(
    path: Path, count: int, images: list[Path] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cameras of a NeuS-format file.

    Args:
        path: the ``.npz``.
        count: number of pictures.
        images: the pictures, the numbers in whose names choose where the file has more cameras; None takes the first.

    Returns:
        intrinsics: (N, 3, 3) float64, pixels.
        poses: (N, 4, 4) float64 camera-to-sphere, OpenGL axes.
        world_to_sphere: (3, 4) float64 similarity from world units to the unit sphere.

    Raises:
        OSError: the file cannot be read, or is no ``.npz``.
        ValueError: it has too few cameras, a matrix that is no camera, or scale matrices that differ or are no
            similarity.
    """
    indices, world, scale = _read_matrices(path, count, images)
    if any(np.abs(s - scale[0]).max() > 1e-6 * np.abs(scale[0]).max() for s in scale):
        raise ValueError(f"the scale matrices in '{path}' differ; all pictures must share one scene.")
    factor = scale[0][0, 0]
    if not factor > 0 or np.abs(scale[0][:3, :3] - factor * np.eye(3)).max() > 1e-6 * factor:
        raise ValueError(f"the scale matrix in '{path}' must scale all axes alike, without rotation.")
    parts = [
        decompose((w @ s)[:3], f"world_mat_{i} in '{path}'") for i, w, s in zip(indices, world, scale, strict=True)
    ]
    inverse = np.linalg.inv(scale[0])[:3]
    stacked = (torch.from_numpy(np.stack(values)) for values in zip(*parts, strict=True))
    intrinsics, poses = stacked
    return intrinsics, poses, torch.from_numpy(inverse)


def _read_matrices(
    path: Path, count: int, images: list[Path] | None
) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """The camera of each picture: its index in the file, its projection and the scale matrix."""
    if not path.is_file():
        raise OSError(f"there is no readable camera file '{path}'.")
    try:
        archive = Archive(path)
        indices = list(range(count)) if images is None else _indices(archive.names, images, path)
        world = [_matrix(archive, f"world_mat_{i}", [(4, 4), (3, 4)], path) for i in indices]
        scale = [_matrix(archive, f"scale_mat_{i}", [(4, 4)], path) for i in indices]
    except KeyError as error:
        raise ValueError(f"'{path}' lacks {error.args[0]} although there are {count} pictures.") from None
    except ShapeError:
        raise OSError(
            f"'{path}' is not a whole .npz of matrices of numbers; copy it again, or make it anew by numpy.savez."
        ) from None
    return indices, world, scale


def _indices(names: list[str], images: list[Path], path: Path) -> list[int]:
    """Which camera of a file each picture has: the next one, or where pictures are missing the one of its number."""
    known = {int(name[len("world_mat_") :]) for name in names if re.fullmatch(r"world_mat_\d+", name)}
    if len(known) <= len(images):
        return list(range(len(images)))
    numbers = [_number(image) for image in images]
    if len(set(numbers)) < len(numbers) or not all(number in known for number in numbers):
        raise ValueError(
            f"'{path}' has {len(known)} cameras for {len(images)} pictures, whose names do not say which are theirs; "
            "name each picture after its camera's number (world_mat_7: 007.png)."
        )
    return [number for number in numbers if number is not None]


def _matrix(archive: Archive, name: str, shapes: list[tuple[int, int]], path: Path) -> np.ndarray:
    if name not in archive.names:
        raise KeyError(name)
    shape, kind = archive.declared(name) or (None, None)
    if kind is None or kind.kind not in "fiu":
        raise ShapeError(f"'{name}' holds no numbers.")
    if shape not in shapes:
        size = " x ".join(map(str, shape or ())) or "1"
        raise ValueError(f"{name} in '{path}' has {size} numbers; it is a matrix of 4 x 4.")
    matrix = archive.read(name)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} in '{path}' has a number that is NaN or infinite.")
    return matrix.astype(np.float64)


def decompose(projection: np.ndarray, where: str = "the matrix") -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics and pose of a projection matrix ``K [R | t]``.

    Args:
        projection: (3, 4), from scene coordinates to homogeneous pixels.
        where: what messages call it.

    Returns:
        (3, 3) intrinsics with last entry 1, pixels, and (4, 4) camera-to-scene matrix in OpenGL axes.

    Raises:
        ValueError: the matrix is no camera, or its pixels are skewed by more than a thousandth.
    """
    from scipy.linalg import rq

    matrix = projection[:, :3]
    if not np.isfinite(projection).all() or abs(np.linalg.det(matrix)) <= 1e-12 * np.abs(matrix).max() ** 3:
        raise ValueError(f"{where} is not a camera's projection matrix.")
    intrinsics, rotation = rq(matrix)
    signs = np.diag(np.sign(np.diag(intrinsics)))
    intrinsics, rotation = intrinsics @ signs, signs @ rotation
    if np.linalg.det(rotation) < 0:  # the matrix is known up to its sign
        rotation, projection = -rotation, -projection
    center = -np.linalg.solve(projection[:, :3], projection[:, 3])
    intrinsics = intrinsics / intrinsics[2, 2]
    if abs(intrinsics[0, 1]) > 1e-3 * intrinsics[0, 0]:
        raise ValueError(f"{where} has skewed pixels, which nerfstudio's cameras cannot express.")
    pose = np.eye(4)
    pose[:3, :3] = rotation.T @ np.diag([1.0, -1.0, -1.0])  # OpenCV axes to OpenGL's
    pose[:3, 3] = center
    return intrinsics, pose


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise OSError(f"there is no folder '{folder}'.")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise OSError(f"'{folder}' holds no pictures ({', '.join(SUFFIXES)}).")
    numbers = [_number(path) for path in found]
    alike = len({re.sub(r"\d+", "0", path.stem) for path in found}) == 1
    if alike and None not in numbers and numbers != sorted(numbers, key=lambda n: n or 0):
        raise ValueError(
            f"the pictures in '{folder}' are in another order by their names than by their numbers, and cameras go by "
            "the order; write the numbers with leading zeros (002.png before 010.png)."
        )
    return found


def _number(path: Path) -> int | None:
    """The last number in a file's name, None where there is none."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else None


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


neus_data = DataParserSpecification(
    config=DTUDataParserConfig(), description="Scenes in the NeuS camera format: DTU, BlendedMVS and own ones."
)
