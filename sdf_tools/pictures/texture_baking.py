"""Colours of a surface baked into a picture that is wrapped around its mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sdf_tools.errors import needs
from sdf_tools.geometry import Mesh, for_numpy
from sdf_tools.io.writing import encode_glb, encode_obj, write_atomically
from sdf_tools.pictures.raycast import MeshRays

SUFFIXES = (".obj", ".glb")
"""Formats that hold a texture."""


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with a picture wrapped around it.

    Attributes:
        mesh: vertices on a seam occur once for each side of it, so it is not watertight by its indices.
        uv: (V, 2) places of the vertices in the picture, from (0, 0) at its lower left to (1, 1).
        picture: (S, S, 3) colours in [0, 1], first row on top.
    """

    mesh: Mesh
    uv: Float[Tensor, "V 2"]
    picture: Float[Tensor, "S S 3"]


def bake_texture(mesh: Mesh, color: Callable[[Tensor], Tensor], size: int) -> TexturedMesh:
    """Unwrap a mesh (xatlas) and colour every texel by the surface point that it covers.

    Texels that no triangle covers repeat the nearest that is covered, so that filtering meets no other colour at seams.

    Args:
        mesh: (V, 3) vertices in any units; 50,000 faces take xatlas some ten seconds.
        color: (N, 3) points in the mesh's units to (N, 3) colours in [0, 1].
        size: S, pixels along each side of the picture.

    Raises:
        ValueError: the mesh is empty or the picture is smaller than 16 pixels.
        MissingLibraryError: xatlas (which comes with nerfstudio), scipy or embreex is not installed.
    """
    if not len(mesh.faces):
        raise ValueError("there is no surface to wrap a texture around.")
    if size < 16:
        raise ValueError(f"a texture of {size} x {size} pixels is too small; give at least 16.")
    from scipy.ndimage import distance_transform_edt

    mesh = for_numpy(mesh)
    source, faces, uv = _unwrap(mesh, size)
    vertices = mesh.vertices[torch.from_numpy(source)]
    # Seen from above, the flat mesh says for each texel which triangle covers it, and where.
    flat = np.concatenate([uv, np.zeros_like(uv[:, :1])], axis=1)
    rays = MeshRays(Mesh(torch.from_numpy(flat), torch.from_numpy(faces)))
    middles = (np.arange(size) + 0.5) / size
    v, u = np.meshgrid(middles[::-1], middles, indexing="ij")
    origins = np.stack([u.ravel(), v.ravel(), np.ones(size * size)], axis=1)
    hits = rays.first(origins, np.broadcast_to([0.0, 0.0, -1.0], origins.shape))
    if not len(hits.ray):
        raise ValueError(f"no texel of {size} x {size} lies in a triangle; give a larger picture or simplify the mesh.")
    points = torch.from_numpy(rays.interpolate(hits, vertices.numpy()))
    with torch.no_grad():
        colors = torch.cat([color(part).float().cpu() for part in points.split(1 << 15)])
    picture = torch.zeros(size * size, 3)
    picture[torch.from_numpy(hits.ray)] = colors.clamp(0, 1)
    empty = np.ones(size * size, dtype=bool)
    empty[hits.ray] = False
    rows, columns = distance_transform_edt(empty.reshape(size, size), return_distances=False, return_indices=True)
    picture = picture.reshape(size, size, 3)[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
    return TexturedMesh(Mesh(vertices, torch.from_numpy(faces), name=mesh.name), torch.from_numpy(uv), picture)


def _unwrap(mesh: Mesh, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source vertex of each new vertex, (F, 3) faces of new vertices, and (V, 2) float64 places in the picture."""
    with needs("xatlas", "A texture"):
        import xatlas
    vertices = mesh.vertices.numpy()
    center, extent = vertices.mean(axis=0), float(np.ptp(vertices, axis=0).max()) or 1.0
    atlas = xatlas.Atlas()
    atlas.add_mesh(((vertices - center) / extent).astype(np.float32), mesh.faces.numpy().astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding = size, 2
    atlas.generate(xatlas.ChartOptions(), options)
    source, faces, uv = atlas[0]
    return source.astype(np.int64), faces.astype(np.int64), np.clip(uv.astype(np.float64), 0, 1)


def save_textured(textured: TexturedMesh, path: Path) -> None:
    """Write ``.glb`` (picture inside) or ``.obj`` with ``.mtl`` and ``.png`` beside it; each file whole or not at all.

    The two are called as the ``.obj``, or ``NAME_texture`` where files that are not from here have that name already.

    Raises:
        ValueError: the format holds no texture, or both names are taken.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"'{path}' cannot hold a texture; use {' or '.join(SUFFIXES)}.")
    from PIL import Image

    picture = Image.fromarray((textured.picture * 255).round().byte().numpy())
    vertices, faces, uv = (part.numpy() for part in (textured.mesh.vertices.double(), textured.mesh.faces, textured.uv))
    if path.suffix.lower() == ".glb":
        write_atomically(path, encode_glb(vertices, faces, uv=uv, texture=picture))
        return
    name = _texture_name(path)
    # First the material, by which a later call knows the picture as its own.
    write_atomically(path.with_name(f"{name}.mtl"), _material(name))
    write_atomically(path.with_name(f"{name}.png"), picture.save)
    write_atomically(path, encode_obj(vertices, faces, uv=uv, material=f"{name}.mtl"))


def _material(name: str) -> bytes:
    return f"newmtl surface\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nmap_Kd {name}.png\n".encode()


def _texture_name(path: Path) -> str:
    """What material and picture beside ``path`` are called: a name that is free, or that of an earlier call."""
    names = (path.stem, f"{path.stem}_texture")
    for name in names:
        material, picture = (path.with_name(f"{name}{suffix}") for suffix in (".mtl", ".png"))
        if material.is_file() and material.read_bytes() == _material(name):
            return name
        if not material.exists() and not picture.exists():
            return name
    raise ValueError(
        f"the texture of '{path}' would replace other files named {names[0]} and {names[1]} (.mtl, .png); choose "
        "another name."
    )
