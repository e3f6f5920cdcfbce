"""A scan without normals becomes a closed surface: the points are oriented, a SASNet is fitted, a mesh extracted.

python examples/03_fit_a_scan.py --scan scan.ply --output-dir outputs/scan
"""

from __future__ import annotations

from pathlib import Path

import tyro

import sdf_tools
from sasnet_ns.fitting import ShapeFit, fit_shape
from sasnet_ns.shapes import resolve_mesh
from sasnet_ns.training import Recipe


def simulated_scan(points: int = 20_000) -> sdf_tools.PointCloud:
    """Points of the bundled Armadillo, without normals."""
    mesh = resolve_mesh("armadillo")
    return sdf_tools.PointCloud(sdf_tools.sample_surface(mesh, points, seed=0).points)


def main(
    scan: Path | None = None, output_dir: Path = Path("outputs/scan"), steps: int = 500, resolution: int = 256
) -> None:
    """Fit, extract, write; measure where the truth is known.

    Args:
        scan: a point cloud (.ply .xyz .npz .npy .pcd); a simulated one of the Armadillo if left out.
        output_dir: folder for field.pt and mesh.ply; created if it is missing.
        steps: optimisation steps; the default of ``sasnet fit-shape`` is 5,000.
        resolution: cells along the longest side.
    """
    cloud = simulated_scan() if scan is None else sdf_tools.load(scan)
    fitted = fit_shape(cloud, ShapeFit(recipe=Recipe(steps=steps), pool_size=200_000))
    output_dir.mkdir(parents=True, exist_ok=True)
    fitted.field.save(output_dir / "field.pt")  # sasnet extract --load-config field.pt, sasnet export
    mesh = fitted.extract_mesh(resolution)
    mesh = sdf_tools.largest_component(mesh)
    sdf_tools.save_mesh(mesh, output_dir / "mesh.ply")
    print(f"{output_dir / 'mesh.ply'}: {mesh.faces.shape[0]:,} triangles, loss {fitted.losses[-1]:.1e}")
    if scan is None:
        truth = resolve_mesh("armadillo")
        print(f"IoU with the mesh that was scanned: {sdf_tools.evaluate(mesh, truth, samples=20_000).iou:.3f}")


if __name__ == "__main__":
    tyro.cli(main)
