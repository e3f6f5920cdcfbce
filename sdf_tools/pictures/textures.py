"""Colours for meshes that have none: solid noise with detail at every scale, or a picture projected onto them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdf_tools.errors import ShapeError

_CLAY = np.array([0.72, 0.74, 0.78])


def noise_colors(points: np.ndarray, seed: int = 0, cells: float = 4.0, octaves: int = 5) -> np.ndarray:
    """A marbled solid texture: no seams on any shape, detail fine and coarse, so that views can be matched.

    Args:
        points: (N, 3) points of a shape of extent about 2.
        seed: of the pattern.
        cells: lattice cells per unit length of the coarsest octave; every further one doubles them.
        octaves: how many.

    Returns:
        (N, 3) RGB in [0, 1].
    """
    hue = np.stack([value_noise(points * cells / 2, 3 * seed + channel) for channel in range(3)], 1)
    detail = np.zeros(len(points))
    for octave in range(octaves):
        detail += value_noise(points * cells * 2**octave + 0.37 * octave, 1000 * (seed + 1) + octave) * 0.75**octave
    brightness = 0.5 + 0.5 * np.tanh(1.6 * detail)
    color = 0.68 + 0.45 * hue
    return np.clip(color * (0.35 + 0.85 * brightness[:, None]), 0.02, 1)


def plain_colors(points: np.ndarray, normals: np.ndarray | None = None) -> np.ndarray:
    """(N, 3) times the same light gray, for (N, 3) points."""
    return np.broadcast_to(_CLAY, points.shape)


def value_noise(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """(N,) smooth noise in [-1, 1] at (N, 3) points: random values on the integer lattice, smoothly interpolated."""
    cell = np.floor(points)
    t = points - cell
    t = t * t * (3 - 2 * t)
    base = cell.astype(np.int64)
    result = np.zeros(len(points))
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(np.array(corner) == 1, t, 1 - t), axis=1)
        result += weight * _lattice_values(base + corner, seed)
    return result


def _lattice_values(cells: np.ndarray, seed: int) -> np.ndarray:
    """(N,) values in [-1, 1] from integer coordinates, by multiply-and-xorshift hashing."""
    with np.errstate(over="ignore"):
        x, y, z = (cells[:, k].astype(np.uint64) for k in range(3))
        h = x * np.uint64(0x9E3779B97F4A7C15) ^ y * np.uint64(0xC2B2AE3D27D4EB4F) ^ z * np.uint64(0x165667B19E3779F9)
        h ^= np.uint64((seed * 0xD6E8FEB86659FD93 + 1) & (2**64 - 1))
        h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        h = (h ^ (h >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return (h >> np.uint64(40)).astype(np.float64) / (2**23) - 1


class ProjectedPicture:
    """A picture tiled onto a shape from three sides and blended by the normal, for shapes without texture coordinates.

    Args:
        path: any picture that Pillow reads.
        tile: length that the picture's width covers, in units of the points.

    Raises:
        ShapeError: the file is missing or no picture.
    """

    def __init__(self, path: Path | str, tile: float = 1.0) -> None:
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            picture = ImageOps.exif_transpose(Image.open(path))
            if picture.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
                pixels = np.repeat(np.asarray(picture, dtype=np.float64)[..., None] / 65535, 3, axis=2)
            else:
                pixels = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
        except FileNotFoundError:
            raise ShapeError(f"There is no picture '{path}' to use as a texture.") from None
        except (UnidentifiedImageError, OSError) as error:
            raise ShapeError(f"'{path}' cannot be read as a picture for a texture: {error}.") from None
        self.pixels = pixels
        self.tile = tile

    def __call__(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(N, 3) RGB at (N, 3) points with (N, 3) normals."""
        weights = np.abs(normals) ** 6
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-300)
        sides = ((1, 2), (0, 2), (0, 1))
        return sum(
            (weights[:, k, None] * self._sample(points[:, u], points[:, v]) for k, (u, v) in enumerate(sides)),
            np.zeros_like(points),
        )

    def _sample(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Bilinear look-up with wrap-around; v runs upwards."""
        height, width = self.pixels.shape[:2]
        x, y = u / self.tile * width - 0.5, -v / self.tile * width - 0.5
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        fx, fy = (x - column)[:, None], (y - row)[:, None]
        top, bottom = (
            self.pixels[(row + k) % height, column % width] * (1 - fx)
            + self.pixels[(row + k) % height, (column + 1) % width] * fx
            for k in (0, 1)
        )
        return top * (1 - fy) + bottom * fy
