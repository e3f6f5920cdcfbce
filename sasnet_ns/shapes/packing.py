"""A compact file for one triangle mesh: how the Armadillo fits into the wheel.

Vertices are rounded to a grid of 2^bits cells along the longest side of the bounding box, put in Morton order and
stored as differences; faces are sorted by their smallest vertex and stored as differences too. LZMA then finds little
but zeros. With 20 bits the rounding moves a vertex by at most 2^-21 of the longest side along each axis: 4.3e-7 box
units, 7.4e-7 in any direction. Connectivity and orientation are exact.

``scripts/pack_mesh.py`` writes such files; ``armadillo.mesh.xz`` was made from the 49,990-vertex copy of the Stanford
Armadillo with ``--bits 20``.
"""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.io.writing import write_atomically

Array = np.ndarray[Any, np.dtype[Any]]

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def pack_mesh(mesh: Mesh, path: Path | str, bits: int = 20) -> None:
    """Write a mesh in the compact format of this module; the file appears whole or not at all.

    Args:
        mesh: the mesh; normals and colours are not kept, unreferenced vertices are.
        path: where to write; the name conventionally ends in ``.mesh.xz``.
        bits: grid cells along the longest side, as a power of two; 8 to 21.

    Raises:
        ValueError: ``bits`` is out of range.
    """
    if not 8 <= bits <= 21:
        raise ValueError(f"bits must lie between 8 and 21, not {bits}.")
    vertices = mesh.vertices.double().cpu().numpy()
    faces = mesh.faces.cpu().numpy().astype(np.int64)
    low = vertices.min(0)
    step = float((vertices.max(0) - low).max()) / (2**bits - 1)
    grid = np.rint((vertices - low) / step).astype(np.int64)

    order = np.argsort(_morton_code(grid, bits), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    faces = _sorted_faces(rank[faces])

    buffer = io.BytesIO()
    np.savez(
        buffer,
        low=low,
        step=np.float64(step),
        vertices=_to_planes(np.diff(grid[order], axis=0, prepend=0)),
        faces=_to_planes(
            np.stack([np.diff(faces[:, 0], prepend=0), faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 1]], 1)
        ),
    )
    write_atomically(path, lzma.compress(buffer.getvalue(), filters=_FILTERS))


def unpack_mesh(path: Path | str, name: str = "mesh") -> Mesh:
    """Read a mesh that :func:`pack_mesh` wrote.

    Raises:
        ShapeError: the file is damaged or something else.
    """
    try:
        with np.load(io.BytesIO(lzma.decompress(Path(path).read_bytes())), allow_pickle=False) as stored:
            grid = np.cumsum(_from_planes(stored["vertices"]), axis=0)
            first, second, third = _from_planes(stored["faces"]).T
            low, step = stored["low"], float(stored["step"])
    except (lzma.LZMAError, ValueError, KeyError, EOFError) as error:
        raise ShapeError(f"'{path}' is not a packed mesh or is damaged; install the package again.") from error
    first = np.cumsum(first)
    second = second + first
    vertices: Float[torch.Tensor, "V 3"] = torch.from_numpy(grid * step + low)
    faces: Int[torch.Tensor, "F 3"] = torch.from_numpy(np.stack([first, second, third + second], 1))
    return Mesh(vertices, faces, name=name)


def _morton_code(grid: Array, bits: int) -> Array:
    """Interleaved bits of (V, 3) non-negative integers: neighbours in space become neighbours in the file."""
    code = np.zeros(len(grid), np.int64)
    for bit in range(bits):
        for axis in range(3):
            code |= ((grid[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code


def _sorted_faces(faces: Array) -> Array:
    """The same (F, 3) oriented triangles, each turned to start at its smallest index, in lexicographic order."""
    start = faces.argmin(1)
    rows = np.arange(len(faces))
    turned = np.stack([faces[rows, (start + corner) % 3] for corner in range(3)], 1)
    return turned[np.lexsort((turned[:, 2], turned[:, 1], turned[:, 0]))]


def _to_planes(values: Array) -> Array:
    """(N, 3) small signed integers as bytes, byte 0 of all values first: (3, 4, N) uint8."""
    zigzag = ((values << 1) ^ (values >> 63)).astype("<u4")
    planes = np.ascontiguousarray(zigzag.T).view(np.uint8).reshape(3, -1, 4).transpose(0, 2, 1)
    return np.ascontiguousarray(planes)


def _from_planes(planes: Array) -> Array:
    """The inverse of :func:`_to_planes`: (3, 4, N) uint8 to (N, 3) int64."""
    zigzag = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<u4")[..., 0].astype(np.int64).T
    return (zigzag >> 1) ^ -(zigzag & 1)
