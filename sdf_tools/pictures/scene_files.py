"""A rendered scene as a folder that Blender-format and nerfstudio-format readers both load."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, for_numpy
from sdf_tools.io.ply import write_ply
from sdf_tools.io.writing import save_mesh, sync_folder, write_atomically, write_json
from sdf_tools.pictures.scene import (
    Lights,
    SceneFrame,
    SceneRenderer,
    SurfaceColor,
    View,
    place_in_scene,
    sphere_cameras,
)
from sdf_tools.pictures.textures import ProjectedPicture, noise_colors, plain_colors

DEPTH_UNIT = 1e-3  # nerfstudio's default depth_unit_scale_factor
# The object ends one unit behind its middle, and depths are 16-bit pictures.
_FARTHEST = (2**16 - 1) * DEPTH_UNIT - 1
_TEXTURES = ("auto", "noise", "colors", "plain")
_BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "gray": (0.5, 0.5, 0.5), "black": (0.0, 0.0, 0.0)}


@dataclass
class SceneSettings:
    """How a mesh becomes a posed image set."""

    views: int = 60
    """Training views, spread evenly over a sphere."""
    val_views: int = 8
    """Validation views."""
    test_views: int = 8
    """Test views."""
    size: tuple[int, int] = (400, 400)
    """Width and height of the pictures in pixels."""
    field_of_view: float = 40.0
    """Horizontal, degrees."""
    distance: float | None = None
    """From the object's middle to the cameras, in radii of its bounding sphere; just enough to see all if left out."""
    elevations: tuple[float, float] = (-50.0, 80.0)
    """Lowest and highest camera, degrees above the horizon."""
    up: Literal["x", "y", "z"] = "y"
    """The mesh's upward axis; it becomes z in the scene."""
    texture: str = "auto"
    """noise (a solid texture that views can be matched by), colors (of the mesh's vertices), plain, or a picture to
    project onto the surface; auto takes vertex colours where there are any, else noise."""
    lights: Lights = "studio"
    """studio: five lights fixed in the scene; headlight: one that moves with the camera; flat: no shading."""
    background: Literal["transparent", "white", "gray", "black"] = "transparent"
    """Behind the object; transparent writes RGBA pictures."""
    supersampling: int = 3
    """Rays per pixel and axis."""
    occlusion_rays: int = 48
    """Rays per vertex that darken crevices; 0 for none."""
    sparse_points: int = 2000
    """Surface points that cameras see, written as if structure from motion had found them."""
    seed: int = 0
    """Of camera positions, texture, occlusion rays and sparse points."""

    def check(self) -> None:
        """Refuse what cannot be rendered.

        Raises:
            ValueError: a count, size, angle or distance is out of range.
        """
        if min(self.views, self.val_views, self.test_views) < 1:
            raise ValueError("views, val-views and test-views must be at least 1.")
        if min(self.size) < 2 or self.supersampling < 1 or self.occlusion_rays < 0 or self.sparse_points < 0:
            raise ValueError("the picture size and supersampling must be positive, ray and point counts not negative.")
        if not 1 <= self.field_of_view <= 150:
            raise ValueError(f"the field of view must be between 1 and 150 degrees, got {self.field_of_view:g}.")
        if self.distance is not None and not 1 < self.distance <= 60:
            raise ValueError(f"the cameras must be between 1 and 60 radii away, got {self.distance:g}.")
        if self.camera_distance > _FARTHEST:
            raise ValueError(
                f"pictures of {self.size[0]} x {self.size[1]} pixels and {self.field_of_view:g} degrees show the whole "
                f"object from {self.camera_distance:.3g} radii, beyond the {_FARTHEST:.3g} of 16-bit depth; choose a "
                "wider field of view, squarer pictures, or a distance of at most 60."
            )

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.size[0] / 2 / math.tan(math.radians(self.field_of_view) / 2)

    @property
    def camera_distance(self) -> float:
        """Radius of the sphere that cameras stand on, in scene units."""
        if self.distance is not None:
            return self.distance
        return 1.04 / math.sin(math.atan(min(self.size) / 2 / self.focal))

    def poses(self) -> dict[str, Tensor]:
        """(N, 4, 4) camera-to-world matrices of each split."""
        counts = {"train": self.views, "val": self.val_views, "test": self.test_views}
        return {
            split: sphere_cameras(count, self.camera_distance, self.elevations, seed=3 * self.seed + index)
            for index, (split, count) in enumerate(counts.items())
        }


def write_scene(
    mesh: Mesh,
    folder: Path | str,
    settings: SceneSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SceneFrame:
    """Render a mesh into ``folder``.

    The folder gets ``images/ masks/ depth/ normals/``, ``transforms_train.json`` (``_val``, ``_test``; Blender format),
    ``transforms.json`` (nerfstudio format), ``mesh.ply`` (the truth in scene coordinates), ``sparse_pc.ply`` and
    ``scene.json`` (settings, and the similarity back to the mesh's own units). It appears when it is complete; an
    interrupted run leaves ``FOLDER.partial``, which the same call finishes.

    Args:
        mesh: what to show, in any units.
        folder: where to; must not exist yet.
        settings: see :class:`SceneSettings`.
        progress: called with the number of views done and of all views.

    Returns:
        The similarity from the mesh's units into the scene.

    Raises:
        ShapeError: the mesh has no faces or no extent, the texture cannot be read, or ``folder`` exists.
        ValueError: a setting is out of range.
        MissingLibraryError: embreex is not installed.
    """
    settings, folder = settings or SceneSettings(), Path(folder)
    settings.check()
    if folder.exists():
        raise ShapeError(f"'{folder}' exists already; choose another folder or remove it first.")
    poses = settings.poses()
    placed, frame = place_in_scene(mesh, settings.up)
    renderer = SceneRenderer(
        placed, surface_color(mesh, settings), settings.lights, settings.occlusion_rays, settings.seed
    )
    partial = folder.with_name(folder.name + ".partial")
    description = _describe(mesh, settings, frame)
    _start(partial, description)
    save_mesh(placed, partial / "mesh.ply")
    total = sum(len(p) for p in poses.values())
    done = 0
    size = (settings.size[1], settings.size[0])
    for split, cameras in poses.items():
        for index, pose in enumerate(cameras):
            name = f"{split}_{index:03d}"
            if not (partial / "images" / f"{name}.png").exists():
                _save_view(renderer.view(pose, settings.focal, size, settings.supersampling), partial, name, settings)
            done += 1
            if progress is not None:
                progress(done, total)
    _write_sparse_points(renderer, poses["train"], partial, settings)
    for name, content in _transforms(settings, poses).items():
        write_json(partial / name, content)
    partial.rename(folder)
    sync_folder(folder.parent)
    return frame


def load_frame(folder: Path | str) -> SceneFrame:
    """The similarity of a rendered scene, from its ``scene.json``.

    Raises:
        ShapeError: there is none.
    """
    try:
        content = json.loads((Path(folder) / "scene.json").read_text())["frame"]
    except (OSError, ValueError, KeyError) as error:
        raise ShapeError(f"'{folder}' is not a rendered scene: its scene.json is missing or damaged.") from error
    rotation, center = (torch.tensor(content[name], dtype=torch.float64) for name in ("rotation", "center"))
    return SceneFrame(rotation, center, content["scale"])


def surface_color(mesh: Mesh, settings: SceneSettings) -> SurfaceColor | None:
    """The texture that the settings name, as a function of scene points and normals; None for vertex colours or clay.

    Raises:
        ShapeError: vertex colours are asked for and there are none, or a picture cannot be read.
    """
    texture = settings.texture
    if texture == "auto":
        texture = "noise" if mesh.vertex_colors is None else "colors"
    if texture == "noise":
        return lambda points, normals: noise_colors(points, settings.seed)
    if texture == "plain":
        return plain_colors
    if texture == "colors":
        if mesh.vertex_colors is None:
            raise ShapeError(f"'{mesh.name}' has no vertex colours; choose another texture: noise, plain or a picture.")
        return None
    return ProjectedPicture(texture)


def _describe(mesh: Mesh, settings: SceneSettings, frame: SceneFrame) -> dict[str, Any]:
    mesh = for_numpy(mesh)
    parts = (mesh.vertices, mesh.faces, mesh.vertex_normals, mesh.vertex_colors)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"" if part is None else part.contiguous().numpy().tobytes())
    if settings.texture not in _TEXTURES:
        digest.update(Path(settings.texture).read_bytes())
    return {
        "shape": mesh.name,
        "faces": mesh.faces.shape[0],
        "content": digest.hexdigest(),
        "frame": {"rotation": frame.rotation.tolist(), "center": frame.center.tolist(), "scale": frame.scale},
        "frame_meaning": "scene = scale * rotation (mesh - center)",
        "depth_unit": DEPTH_UNIT,
        "settings": dataclasses.asdict(settings),
    }


def _start(partial: Path, description: dict[str, Any]) -> None:
    """An empty working folder, or the one that an interrupted run with the same settings left."""
    text, own = json.dumps(description, indent=1), partial / "scene.json"
    found = own.read_text() if own.is_file() else ""
    if partial.exists() and found != text:
        if '"frame_meaning"' not in found and any(partial.iterdir()):
            raise ShapeError(f"'{partial}' is in the way, and no scene that was begun here; move it first.")
        shutil.rmtree(partial)
    for part in ("images", "masks", "depth", "normals"):
        (partial / part).mkdir(parents=True, exist_ok=True)
    write_atomically(partial / "scene.json", text.encode())


def _save_view(view: View, folder: Path, name: str, settings: SceneSettings) -> None:
    """The picture comes last: an interrupted run renders a view again if that is missing."""
    mask = view.mask[..., None]
    _save_png((view.mask * 255).to(torch.uint8).numpy(), folder / "masks" / f"{name}.png")
    depth = (view.depth.double() / DEPTH_UNIT).round().numpy().astype(np.uint16)
    _save_png(depth, folder / "depth" / f"{name}.png")
    _save_png(
        _bytes(torch.cat([torch.where(mask, (view.normals + 1) / 2, 0.5), mask], 2)), folder / "normals" / f"{name}.png"
    )
    alpha = view.alpha[..., None]
    if settings.background == "transparent":
        picture = torch.cat([view.rgb, alpha], 2)
    else:
        picture = view.rgb * alpha + (1 - alpha) * torch.tensor(_BACKGROUNDS[settings.background])
    _save_png(_bytes(picture), folder / "images" / f"{name}.png")


def _bytes(picture: Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _save_png(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    write_atomically(path, Image.fromarray(pixels).save)


def _write_sparse_points(renderer: SceneRenderer, poses: Tensor, folder: Path, settings: SceneSettings) -> None:
    """Random surface points that at least two training views see, with colours and normals."""
    from sdf_tools.sampling import sample_surface

    if not settings.sparse_points:
        return
    drawn = sample_surface(renderer.mesh, 4 * settings.sparse_points, seed=settings.seed)
    points, normals = drawn.points.double(), drawn.normals.double()
    seen = sum((renderer.visible(points, pose[:3, 3]).long() for pose in poses), torch.zeros(len(points)).long())
    rows = torch.nonzero(seen >= min(2, len(poses)))[: settings.sparse_points, 0]
    where, normal = points[rows].numpy(), normals[rows].numpy()
    write_atomically(folder / "sparse_pc.ply", write_ply(where, None, normal, renderer.colors(where, normal)))


def _transforms(settings: SceneSettings, poses: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The JSON files by name."""
    width, height = settings.size
    files: dict[str, dict[str, Any]] = {}
    frames = []
    for split, cameras in poses.items():
        names = [f"{split}_{index:03d}" for index in range(len(cameras))]
        files[f"transforms_{split}.json"] = {
            "camera_angle_x": math.radians(settings.field_of_view),
            "frames": [
                {"file_path": f"./images/{name}", "transform_matrix": pose.tolist()}
                for name, pose in zip(names, cameras, strict=True)
            ],
        }
        # Masks are not listed as mask_path: nerfstudio would then draw no rays from the background, and nothing would
        # keep it empty. Pictures with a transparent background say the same and better.
        frames += [
            {
                "file_path": f"images/{name}.png",
                "depth_file_path": f"depth/{name}.png",
                "transform_matrix": pose.tolist(),
            }
            for name, pose in zip(names, cameras, strict=True)
        ]
    files["transforms.json"] = {
        "camera_model": "OPENCV",
        "fl_x": settings.focal,
        "fl_y": settings.focal,
        "cx": width / 2,
        "cy": height / 2,
        "w": width,
        "h": height,
        "orientation_override": "none",
        **({"ply_file_path": "sparse_pc.ply"} if settings.sparse_points else {}),
        "frames": frames,
        **{
            f"{split}_filenames": [f"images/{split}_{index:03d}.png" for index in range(len(cameras))]
            for split, cameras in poses.items()
        },
    }
    return files
