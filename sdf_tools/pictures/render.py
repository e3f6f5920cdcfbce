"""Pictures of meshes without a display or OpenGL: rays through Embree, lights, ambient occlusion."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.errors import ShapeError, needs
from sdf_tools.geometry import Mesh, for_numpy, require_finite
from sdf_tools.io.limits import memory_limit, size_text
from sdf_tools.io.writing import write_atomically
from sdf_tools.pictures.lighting import CAMERA_LIGHTS, shade
from sdf_tools.pictures.raycast import MeshRays
from sdf_tools.topology import corner_normals, unit_face_normals
from sdf_tools.vectors import unit_vectors

BACKGROUND = (0.965, 0.968, 0.975)
"""RGB behind every picture."""
_CLAY = (0.75, 0.765, 0.79)
_UNKNOWN = 0.6  # grey of values that are not finite, as in the viewer
_BYTES_OF_A_RAY = 100  # of memory, if it hits nothing
_SHARP = 30.0  # degrees between faces from which on an edge is drawn as one


@dataclass
class Camera:
    """A camera on a sphere around the mesh's bounding box.

    Attributes:
        azimuth: degrees around the up axis; 0 looks along the negative z axis (x or y up) or along y (z up).
        elevation: degrees above the horizon.
        field_of_view: vertical, degrees.
        zoom: 1 just fits the bounding sphere into the picture's smaller side; a larger one narrows the view.
        up: the axis that points up in the picture.
    """

    azimuth: float = 20.0
    elevation: float = 12.0
    field_of_view: float = 30.0
    zoom: float = 1.0
    up: Literal["x", "y", "z"] = "y"


def render_mesh(
    mesh: Mesh,
    camera: Camera | None = None,
    size: tuple[int, int] = (800, 800),
    *,
    color: tuple[float, float, float] = _CLAY,
    supersampling: int = 2,
    occlusion_rays: int = 12,
    seed: int = 0,
    frame: Float[Tensor, "M 3"] | None = None,
) -> Float[Tensor, "H W 3"]:
    """A shaded picture of a mesh.

    Args:
        mesh: what to show; smooth, but for edges sharper than 30 degrees; vertex normals and colours are used where it
            has them.
        camera: where from.
        size: height and width in pixels.
        color: of a mesh without vertex colours, RGB in [0, 1].
        supersampling: rays per pixel and axis.
        occlusion_rays: rays per visible point that darken crevices; 0 for none.
        seed: of those rays.
        frame: points that fill the picture in the place of the mesh's vertices: the same ones for meshes that are to be
            compared.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        ShapeError: the mesh has no faces, coordinates that are not finite, or faces of vertices that are not there;
            the picture does not fit into memory.
        ValueError: the picture has no pixels, ``frame`` is not finite, or the camera's numbers are out of range.
        MissingLibraryError: embreex is not installed.
    """
    if mesh.faces.shape[0] == 0:
        raise ShapeError(f"'{mesh.name}' has no faces to show.")
    require_finite(mesh)
    mesh = for_numpy(mesh)
    camera = camera or Camera()
    _check(camera, size, supersampling)
    check_picture_size(size, supersampling)
    height, width = size[0] * supersampling, size[1] * supersampling
    framed = (mesh.vertices if frame is None else frame.detach().cpu()).double().numpy()
    if not np.isfinite(framed).all():
        raise ValueError("frame has points that are NaN or infinite; leave those out.")
    center = (framed.min(0) + framed.max(0)) / 2
    radius = float(np.linalg.norm(framed - center, axis=1).max()) or 1.0
    vertices = (mesh.vertices.double().numpy() - center) / radius
    right, up, back = _axes(camera)
    half = np.radians(camera.field_of_view) / 2
    slope = np.tan(half)
    narrower = half if width >= height else np.arctan(slope * width / height)
    distance = 1.0 / np.sin(narrower)
    slope /= camera.zoom  # a longer lens, as a nearer camera would end up inside
    y, x = np.meshgrid(
        1 - (np.arange(height) + 0.5) / height * 2, (np.arange(width) + 0.5) / width * 2 - 1, indexing="ij"
    )
    rays = slope * (x[..., None] * right * (width / height) + y[..., None] * up) - back
    rays = unit_vectors(rays).reshape(-1, 3)
    origin = back * distance
    scene = MeshRays(replace(mesh, vertices=torch.from_numpy(vertices)), _shading_normals(mesh))
    picture = np.tile(np.array(BACKGROUND), (len(rays), 1))
    hits = scene.first(origin, rays)
    if len(hits.ray):
        base = np.tile(np.asarray(color, dtype=np.float64), (len(hits.ray), 1))
        if mesh.vertex_colors is not None:
            base = scene.interpolate(hits, mesh.vertex_colors.double().numpy())
        openness = scene.openness(hits.point, hits.normal, occlusion_rays, seed, offset=2e-3)
        lights = CAMERA_LIGHTS.turned(torch.from_numpy(np.stack([right, up, back])))
        parts = (torch.from_numpy(part) for part in (base, hits.smooth, rays[hits.ray], openness))
        picture[hits.ray] = shade(lights, *parts).numpy()
    picture = picture.reshape(size[0], supersampling, size[1], supersampling, 3).mean((1, 3))
    return torch.from_numpy(np.clip(picture, 0, 1).astype(np.float32))


def error_range(errors: Float[Tensor, " V"], largest: float | None = None) -> tuple[float, float]:
    """The values of the first and last colour of :func:`error_colors`; those that are not finite do not count.

    Raises:
        ValueError: ``largest`` is not positive or not finite.
    """
    if largest is not None and not 0 < largest < math.inf:
        raise ValueError(f"the value of the last colour must be positive and finite, not {largest:g}.")
    known = errors[errors.isfinite()].detach().cpu().double()
    top = largest
    if top is None:
        top = float(np.percentile(known.abs().numpy(), 99)) if len(known) else 1.0
        top = max(top, 1e-300)  # where all is zero
    return (-top if bool((known < 0).any()) else 0.0), top


def error_colors(
    errors: Float[Tensor, " V"], largest: float | None = None, colormap: str = "viridis"
) -> Float[Tensor, "V 3"]:
    """(V, 3) RGB for values per vertex, for ``Mesh.vertex_colors``.

    Args:
        errors: (V,) values; signed values want a diverging colour map and are centred on zero; NaN and infinity are
            grey.
        largest: the value of the last colour; default the 99th percentile of the absolute values.
        colormap: name of a matplotlib colour map.

    Raises:
        ValueError: ``largest`` is not positive or not finite.
    """
    import matplotlib

    values = errors.detach().cpu().double()
    low, top = error_range(errors, largest)
    share = ((values - low) / max(top - low, 1e-300)).clamp(0, 1).numpy()
    colors = torch.from_numpy(matplotlib.colormaps[colormap](share)[:, :3].astype(np.float32))
    colors[~values.isfinite()] = _UNKNOWN
    return colors


def turntable(
    mesh: Mesh,
    frames: int = 36,
    camera: Camera | None = None,
    size: tuple[int, int] = (800, 800),
    *,
    color: tuple[float, float, float] = _CLAY,
    supersampling: int = 2,
    occlusion_rays: int = 12,
    seed: int = 0,
    progress: bool = False,
) -> list[Float[Tensor, "H W 3"]]:
    """``frames`` pictures all the way round, with a progress bar if asked; other options are :func:`render_mesh`'s.

    Raises:
        ShapeError: the mesh has no faces.
        ValueError: fewer than two frames.
    """
    from rich.console import Console
    from rich.progress import track

    if frames < 2:
        raise ValueError(f"a turntable needs at least 2 frames, not {frames}.")
    draw = partial(render_mesh, mesh, size=size, color=color, supersampling=supersampling, seed=seed)
    start = camera or Camera()
    views = [replace(start, azimuth=start.azimuth + 360 * index / frames) for index in range(frames)]
    bar = track(views, "drawing", console=Console(stderr=True), transient=True, disable=not progress)
    return [draw(view, occlusion_rays=occlusion_rays) for view in bar]


STILL = (".png", ".jpg", ".jpeg")
"""What one picture can be written as."""
MOVING = (".gif", ".mp4", ".png")
"""What several can be: .png as an animated PNG."""
_FRAME_SECONDS = 0.08


def check_picture_name(path: Path | str, moving: bool = False) -> None:
    """See that :func:`save_picture` can write one picture, or several, to a file of this name.

    Raises:
        ValueError: another ending.
        MissingLibraryError: .mp4 without imageio and PyAV.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (*STILL, *MOVING):
        raise ValueError(f"a picture must end in .png, .jpg, .gif or .mp4, not '{path}'.")
    if moving and suffix not in MOVING:
        raise ValueError(f"several pictures need a .gif, .mp4 or .png, not '{path}'.")
    if suffix == ".mp4":
        _video_library()


def check_picture_size(size: tuple[int, int], supersampling: int = 2) -> None:
    """See that :func:`render_mesh` has the memory for a picture, before a mesh is made for it.

    Args:
        size: height and width in pixels.
        supersampling: rays per pixel and axis.

    Raises:
        ShapeError: it needs more than :func:`sdf_tools.io.limits.memory_limit`.
    """
    needed = _BYTES_OF_A_RAY * size[0] * size[1] * supersampling**2
    if needed > memory_limit():
        raise ShapeError(
            f"a picture of {size[0]} x {size[1]} pixels needs {size_text(needed)} of memory, more than the "
            f"{size_text(memory_limit())} it may take; give a smaller one, or allow more (SDF_TOOLS_MAX_MEMORY)."
        )


def save_picture(picture: Float[Tensor, "H W 3"] | list[Float[Tensor, "H W 3"]], path: Path | str) -> None:
    """Write a picture (.png .jpg), or several as an animation (.gif .mp4 .png); the file appears whole or not at all.

    Raises:
        ValueError: another ending, or no picture.
        MissingLibraryError: .mp4 without imageio and PyAV.
    """
    from PIL import Image

    pictures = picture if isinstance(picture, list) else [picture]
    if not pictures:
        raise ValueError(f"there is no picture to write to '{path}'.")
    suffix = Path(path).suffix.lower()
    check_picture_name(path, len(pictures) > 1)
    arrays = [(p.clamp(0, 1) * 255).round().to(torch.uint8).numpy() for p in pictures]
    if suffix == ".mp4":
        write_atomically(path, partial(_write_video, arrays))
        return
    images = [Image.fromarray(array) for array in arrays]
    more: dict[str, Any] = {}
    if len(images) > 1 or suffix == ".gif":
        more = {"save_all": True, "append_images": images[1:], "duration": round(1000 * _FRAME_SECONDS), "loop": 0}
    write_atomically(path, partial(images[0].save, **more))


def _write_video(frames: list[np.ndarray], path: Path) -> None:
    """H.264 in .mp4; its pictures have even sides."""
    imageio = _video_library()
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    movie = np.stack([frame[:height, :width] for frame in frames])
    imageio.imwrite(path, movie, plugin="pyav", codec="h264", fps=round(1 / _FRAME_SECONDS))


def _video_library() -> Any:
    with needs("imageio[pyav]", "A video"):
        import av  # noqa: F401
        import imageio.v3
    return imageio.v3


def _check(camera: Camera, size: tuple[int, int], supersampling: int) -> None:
    if min(size) < 1 or supersampling < 1:
        raise ValueError(
            f"a picture needs at least one pixel a side and one ray a pixel, not {size[0]} x {size[1]} and "
            f"{supersampling}."
        )
    if not (math.isfinite(camera.azimuth) and math.isfinite(camera.elevation)):
        raise ValueError(f"azimuth and elevation must be finite, not {camera.azimuth:g} and {camera.elevation:g}.")
    if not (0 < camera.field_of_view < 180 and 0 < camera.zoom < math.inf):
        raise ValueError(
            f"the field of view must be between 0 and 180 degrees and zoom positive, not {camera.field_of_view:g} and "
            f"{camera.zoom:g}."
        )


def _axes(camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and backward unit vectors of the camera in world axes."""
    if camera.up not in ("x", "y", "z"):
        raise ValueError(f"up must be x, y or z, not '{camera.up}'.")
    world_up = np.eye(3)["xyz".index(camera.up)]
    ahead = np.eye(3)[{"x": 2, "y": 2, "z": 1}[camera.up]] * (-1 if camera.up == "z" else 1)
    side = np.cross(world_up, ahead)
    azimuth, elevation = np.radians(camera.azimuth), np.radians(camera.elevation)
    back = np.cos(elevation) * (np.cos(azimuth) * ahead + np.sin(azimuth) * side) + np.sin(elevation) * world_up
    right = unit_vectors(np.cross(world_up, back))
    return right, np.cross(back, right), back


def _shading_normals(mesh: Mesh) -> np.ndarray:
    """(F, 3, 3) normals of the corners: the mesh's own, except where they would round off a sharp edge."""
    vertices, faces = mesh.vertices.double().numpy(), mesh.faces.numpy()
    normals = corner_normals(vertices, faces, _SHARP)
    if mesh.vertex_normals is not None:
        given = unit_vectors(mesh.vertex_normals.double().numpy())[faces]
        fits = np.einsum("fij,fj->fi", given, unit_face_normals(vertices, faces)) > np.cos(np.radians(_SHARP))
        normals = np.where(fits[..., None], given, normals)
    return normals
