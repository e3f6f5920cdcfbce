"""Exact signed distances of a mesh in its own units, a picture of a slice, and its surface moved outwards.

python examples/02_distances_of_a_mesh.py --shape armadillo --output-dir outputs/distances
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

import sdf_tools
from sasnet_ns.shapes import resolve_mesh


def main(shape: str = "armadillo", output_dir: Path = Path("outputs/distances"), resolution: int = 96) -> None:
    """Measure points, draw a slice, extract an offset.

    Args:
        shape: a name (armadillo, ...) or a mesh file.
        output_dir: folder for slice.png and offset.ply; created if it is missing.
        resolution: cells along the offset's box.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    mesh = resolve_mesh(shape)
    print(sdf_tools.summarize(mesh))

    distance = sdf_tools.SignedDistance(mesh)  # any number of points, in the mesh's units, negative inside
    points = sdf_tools.geometry.positions(mesh)
    low, high = points.amin(0), points.amax(0)
    random = low + (high - low) * torch.rand(20_000, 3, dtype=points.dtype, generator=torch.Generator().manual_seed(0))
    inside = float((distance(random) < 0).double().mean())
    print(
        f"{inside:.1%} of the box around it is inside; at its vertices |d| <= {float(distance(points).abs().max()):.0e}"
    )

    box = sdf_tools.normalize(mesh)  # longest side 0.9, around the origin, and the way back
    in_box = sdf_tools.SignedDistance(box.shape)
    sdf_tools.slice_plot(in_box, output_dir / "slice.png", axis="x", resolution=200)

    offset = sdf_tools.extract_mesh(in_box, resolution, level=0.02)
    sdf_tools.save_mesh(box.mesh_to_world(offset), output_dir / "offset.ply")
    print(f"{output_dir / 'offset.ply'}: the surface {0.02 / box.scale:.3g} of its units further out")


if __name__ == "__main__":
    tyro.cli(main)
