"""A mesh seen by known cameras: colour, coverage, mask, depth and normals, to measure reconstruction against truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, for_numpy
from sdf_tools.pictures.lighting import HEADLIGHT, STUDIO_LIGHTS
from sdf_tools.pictures.raycast import MeshHits, MeshRays
from sdf_tools.pictures.textures import plain_colors
from sdf_tools.topology import vertex_normals

Lights = Literal["studio", "headlight", "flat"]
SurfaceColor = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SceneFrame:
    """The similarity from a mesh's own units into the scene: ``scene = scale * rotation (mesh - center)``.

    Attributes:
        rotation: (3, 3) float64, turns the mesh's upward axis to z.
        center: (3,) float64, the middle of the bounding box in the mesh's units.
        scale: scene units per unit of the mesh; the farthest vertex is at distance 1 from the scene's origin.
    """

    rotation: Float[Tensor, "3 3"]
    center: Float[Tensor, "3"]
    scale: float

    def to_scene(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points in the mesh's units to scene coordinates, float64."""
        return self.scale * (points.double() - self.center) @ self.rotation.T

    def to_world(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Scene coordinates to the mesh's own units, float64."""
        return points.double() / self.scale @ self.rotation + self.center


def place_in_scene(mesh: Mesh, up: Literal["x", "y", "z"] = "y") -> tuple[Mesh, SceneFrame]:
    """Centre a mesh, turn its upward axis to z and scale it into the unit sphere (where NeuS expects the object).

    Raises:
        ShapeError: the mesh has no faces or no extent.
    """
    if mesh.faces.shape[0] == 0:
        raise ShapeError(f"'{mesh.name}' has no faces to show.")
    mesh = for_numpy(mesh)
    # Cyclic permutations of the axes, hence rotations.
    rotation = torch.eye(3, dtype=torch.float64).roll({"x": 2, "y": 1, "z": 0}[up], dims=0)
    vertices = mesh.vertices.double()
    center = (vertices.amin(0) + vertices.amax(0)) / 2
    radius = float((vertices - center).norm(dim=1).max())
    if not radius > 0 or not math.isfinite(radius):
        raise ShapeError(f"'{mesh.name}' has no finite extent; there is nothing to show.")
    frame = SceneFrame(rotation, center, 1 / radius)
    normals = None if mesh.vertex_normals is None else mesh.vertex_normals.double() @ rotation.T
    return replace(mesh, vertices=frame.to_scene(vertices), vertex_normals=normals), frame


def sphere_cameras(
    count: int, distance: float, elevations: tuple[float, float] = (-50.0, 80.0), seed: int = 0
) -> Float[Tensor, "N 4 4"]:
    """Cameras spread evenly over a zone of a sphere around the origin, looking at its centre.

    Args:
        count: how many.
        distance: radius of the sphere.
        elevations: lowest and highest camera, degrees above the horizon.
        seed: turns the spiral on which they stand, so that two sets with different seeds do not share views.

    Returns:
        (N, 4, 4) float64 camera-to-world matrices in OpenGL axes (x right, y up, looking along -z), z up in the scene.

    Raises:
        ValueError: no cameras, or elevations out of order or beyond the poles.
    """
    low, high = elevations
    if count < 1 or not -90 <= low <= high <= 90:
        raise ValueError(f"need at least one camera and -90 <= low <= high <= 90 degrees, got {count}, {elevations}.")
    start, shift = np.random.default_rng(seed).random(2)
    # Equal areas in equal steps of sin(elevation); the golden angle keeps neighbours apart.
    share = (np.arange(count) + 0.25 + 0.5 * shift) / count
    height = np.sin(np.radians(low)) + share * (np.sin(np.radians(high)) - np.sin(np.radians(low)))
    azimuth = np.arange(count) * math.pi * (3 - math.sqrt(5)) + 2 * math.pi * start
    flat = np.sqrt(np.maximum(1 - height**2, 0))
    back = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height], 1)
    # From the azimuth rather than a cross product with z: defined at the poles as well.
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), np.zeros(count)], 1)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2] = right, np.cross(back, right), back
    poses[:, :3, 3] = distance * back
    return torch.from_numpy(poses)


@dataclass(frozen=True)
class View:
    """One picture of the scene.

    Attributes:
        rgb: (H, W, 3) float32 in [0, 1], not multiplied by alpha; 0 where nothing is covered.
        alpha: (H, W) float32, share of the pixel that the mesh covers.
        mask: (H, W) bool, whether the ray through the pixel's centre hits the mesh.
        depth: (H, W) float32 along the camera's axis to that hit, scene units; 0 where there is none.
        normals: (H, W, 3) float32 unit normals of the faces hit, scene axes, towards the camera; 0 where there is none.
    """

    rgb: Float[Tensor, "H W 3"]
    alpha: Float[Tensor, "H W"]
    mask: Bool[Tensor, "H W"]
    depth: Float[Tensor, "H W"]
    normals: Float[Tensor, "H W 3"]


class SceneRenderer:
    """Renders a mesh whose colours stay the same from every side (Lambertian), as reconstruction assumes.

    Args:
        mesh: a mesh in scene coordinates, see :func:`place_in_scene`.
        color: (N, 3) RGB from (N, 3) points and normals; None takes the mesh's vertex colours, else light gray.
        lights: ``studio``: five lights fixed in the scene; ``headlight``: one at the camera (colours then change with
            the view); ``flat``: none, the surface colour as it is.
        occlusion_rays: rays per vertex that darken crevices; 0 for none.
        seed: of those rays.

    Raises:
        MissingLibraryError: embreex is not installed.
    """

    def __init__(
        self,
        mesh: Mesh,
        color: SurfaceColor | None = None,
        lights: Lights = "studio",
        occlusion_rays: int = 48,
        seed: int = 0,
    ) -> None:
        mesh = for_numpy(mesh)
        self.mesh, self.color, self.lights = mesh, color, lights
        self._rays = MeshRays(mesh)
        if color is None and mesh.vertex_colors is None:
            self.color = plain_colors
        self._colors = np.zeros((0, 3)) if mesh.vertex_colors is None else mesh.vertex_colors.double().numpy()
        # Per vertex, not per pixel: the same point must look the same in every view.
        rays = 0 if lights == "flat" else occlusion_rays
        normals = vertex_normals(self._rays.vertices, self._rays.faces)
        self._openness = self._rays.openness(self._rays.vertices, normals, rays, seed, offset=2e-3)

    def view(self, pose: Float[Tensor, "4 4"], focal: float, size: tuple[int, int], supersampling: int = 2) -> View:
        """Render one view.

        Args:
            pose: camera-to-world, OpenGL axes.
            focal: focal length in pixels; the principal point is the picture's middle.
            size: height and width in pixels.
            supersampling: rays per pixel and axis for colour and coverage.
        """
        camera = pose.double().numpy()
        origin, back = camera[:3, 3], camera[:3, 2]
        height, width = size
        rays = pixel_rays(camera, focal, size, 1)
        hits = self._rays.first(origin, rays)
        mask, depth, normals = np.zeros(height * width, bool), np.zeros(height * width), np.zeros((height * width, 3))
        mask[hits.ray], normals[hits.ray] = True, hits.normal
        depth[hits.ray] = -(hits.point - origin) @ back
        if supersampling > 1:
            rays = pixel_rays(camera, focal, size, supersampling)
            hits = self._rays.first(origin, rays)
        color = np.zeros((len(rays), 4))
        color[hits.ray, :3], color[hits.ray, 3] = self._shade(hits, camera[:3, :3].T), 1
        color = color.reshape(height, supersampling, width, supersampling, 4).mean((1, 3))
        rgb = color[..., :3] / np.maximum(color[..., 3:], 1e-9)
        return View(
            rgb=torch.from_numpy(rgb).float(),
            alpha=torch.from_numpy(color[..., 3]).float(),
            mask=torch.from_numpy(mask.reshape(size)),
            depth=torch.from_numpy(depth.reshape(size)).float(),
            normals=torch.from_numpy(normals.reshape(height, width, 3)).float(),
        )

    def colors(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(N, 3) RGB of the surface itself, without light, at (N, 3) points on it."""
        if self.color is not None:
            return self.color(points, normals)
        return self._rays.interpolate(self._rays.first(points + 1e-3 * normals, -normals), self._colors)

    def visible(self, points: Float[Tensor, "N 3"], origin: Float[Tensor, "3"]) -> Bool[Tensor, " N"]:
        """Which surface points nothing hides from a camera at ``origin``, to a thousandth of the scene's unit."""
        hits = self._rays.first(origin.double().numpy(), (points.double() - origin).numpy())
        seen = torch.zeros(len(points), dtype=torch.bool)
        near = np.abs(hits.distance - 1) * (points[hits.ray] - origin).norm(dim=1).numpy() < 1e-3
        seen[hits.ray[near]] = True
        return seen

    def _shade(self, hits: MeshHits, axes: np.ndarray) -> np.ndarray:
        if self.color is not None:
            base = self.color(hits.point, hits.normal)
        else:
            base = self._rays.interpolate(hits, self._colors)
        if self.lights == "flat":
            return np.clip(base, 0, 1)
        open_share = self._rays.interpolate(hits, self._openness[:, None])[:, 0]
        lights = STUDIO_LIGHTS if self.lights == "studio" else HEADLIGHT.turned(torch.from_numpy(axes))
        light = lights.on(torch.from_numpy(hits.smooth), torch.from_numpy(open_share)).numpy()
        return np.clip(base * light, 0, 1)


def pixel_rays(camera: np.ndarray, focal: float, size: tuple[int, int], supersampling: int) -> np.ndarray:
    """(H s W s, 3) directions, row by row, whose component along the camera's axis is 1."""
    height, width = size[0] * supersampling, size[1] * supersampling
    x = ((np.arange(width) + 0.5) / supersampling - size[1] / 2) / focal
    y = (size[0] / 2 - (np.arange(height) + 0.5) / supersampling) / focal
    y, x = np.meshgrid(y, x, indexing="ij")
    return (x[..., None] * camera[:3, 0] + y[..., None] * camera[:3, 1] - camera[:3, 2]).reshape(-1, 3)


def project(
    points: Float[Tensor, "N 3"], pose: Float[Tensor, "4 4"], focal: float, size: tuple[int, int]
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, " N"]]:
    """Where points are in a picture.

    Returns:
        (N, 2) column and row in pixels, pixel centres at .5, and (N,) depth along the camera's axis.
    """
    local = (points.double() - pose[:3, 3]) @ pose[:3, :3].double()
    depth = -local[:, 2]
    column = size[1] / 2 + focal * local[:, 0] / depth
    row = size[0] / 2 - focal * local[:, 1] / depth
    return torch.stack([column, row], 1), depth
