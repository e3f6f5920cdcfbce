"""Pack a mesh into the compact format that bundled shapes use (see sasnet_ns/shapes/packing.py).

python scripts/pack_mesh.py --mesh armadillo.obj --output-path sasnet_ns/shapes/assets/armadillo.mesh.xz
"""

from __future__ import annotations

from pathlib import Path

import tyro
from scipy.spatial import cKDTree

from sasnet_ns.shapes.packing import pack_mesh, unpack_mesh
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.io.loading import load


def main(mesh: Path, output_path: Path, bits: int = 20) -> None:
    """Pack a mesh and say how large the file is and how far the rounding moved a vertex.

    Args:
        mesh: any mesh file that ``sdf_tools.load`` reads.
        output_path: the file to write, conventionally ``name.mesh.xz``.
        bits: grid cells along the longest side, as a power of two.
    """
    try:
        shape = load(mesh)
    except ShapeError as error:
        raise SystemExit(str(error)) from None
    if not isinstance(shape, Mesh):
        raise SystemExit(f"'{mesh}' holds points without triangles; only meshes can be packed.")
    pack_mesh(shape, output_path, bits)
    packed = unpack_mesh(output_path)
    extent = float((shape.vertices.amax(0) - shape.vertices.amin(0)).max())
    distance, _ = cKDTree(packed.vertices.numpy()).query(shape.vertices.numpy())
    counts = f"{packed.vertices.shape[0]:,} vertices, {packed.faces.shape[0]:,} faces"
    moved = f"vertices moved by at most {distance.max() / extent * 0.9:.1e} box units"
    print(f"{output_path}: {counts}, {output_path.stat().st_size / 1e6:.2f} MB, {moved}")


if __name__ == "__main__":
    tyro.cli(main)
