"""A mesh of any function of space: a gyroid in a ball, as marching cubes and, with its edge kept, by dual contouring.

python examples/01_extract_any_function.py --output-dir outputs/gyroid
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from torch import Tensor

import sdf_tools


def gyroid(points: Tensor) -> Tensor:
    """Thickened gyroid, cut by a ball of radius 0.45: (N, 3) points to (N,) values, negative inside.

    Nothing but its sign and its zero set matters; a function need not be a distance.
    """
    x, y, z = (18 * points).unbind(dim=1)
    sheet = (x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()).abs() / 18 - 0.02
    ball = points.norm(dim=1) - 0.45
    return torch.maximum(sheet, ball)


def main(output_dir: Path = Path("outputs/gyroid"), resolution: int = 128) -> None:
    """Extract twice, say what came out, write both.

    Args:
        output_dir: folder for the two meshes; created if it is missing.
        resolution: cells along each side of the box, which reaches from -0.5 to 0.5.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    for method in ("marching_cubes", "dual_contouring"):
        mesh = sdf_tools.extract_mesh(gyroid, resolution, method=method)
        path = output_dir / f"{method}.ply"
        sdf_tools.save_mesh(mesh, path)
        off = float(gyroid(mesh.vertices.float()).abs().max())
        print(f"{path}: {mesh.faces.shape[0]:,} triangles, vertices within {off:.1e} of the surface")


if __name__ == "__main__":
    tyro.cli(main)
