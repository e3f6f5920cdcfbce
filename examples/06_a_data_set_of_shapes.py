"""Fifty solids become fifty fields and one table; then each field's nearest neighbour in the space of weights.

python examples/06_a_data_set_of_shapes.py --output-dir outputs/set
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

from sasnet_ns.datasets import FieldDataset, FitOptions, fit_shapes, write_synthetic
from sasnet_ns.fitting import Recipe, ShapeFit


def main(output_dir: Path = Path("outputs/set"), count: int = 50, steps: int = 200, workers: int = 2) -> None:
    """Generate, fit, load, compare.

    Args:
        output_dir: folder for shapes/ and fields/; stopped, the example goes on where it was.
        count: solids.
        steps: optimisation steps of each.
        workers: processes.
    """
    write_synthetic(output_dir / "shapes", count)
    network = {"preset": "sdf_compact", "embedding_width": 64, "hidden_widths": (48, 48), "groups": (2, 2)}
    network |= {"grid_levels": 4, "grid_log2_entries": 10}
    fit = ShapeFit(network_config=network, pool_size=50_000, points_per_batch=1_000, recipe=Recipe(steps=steps))
    # From the same first weights, fields of similar shapes end near each other.
    options = FitOptions(output_dir, fit, shared_init=True, resolution=64, samples=5_000)
    result = fit_shapes(
        output_dir / "shapes", options, workers=workers, report=lambda counts, row: print(row.path, row.iou, row.error)
    )
    print(f"{result.table}: {result.counts.done} rows, {result.counts.rate * 60:.0f} a minute")

    data = FieldDataset(output_dir)
    weights = torch.stack([data[index]["weights"] for index in range(len(data))])
    apart = torch.cdist(weights, weights).fill_diagonal_(torch.inf)
    nearest = apart.argmin(1)
    # How near are they as shapes? Mean difference of the distances at the same points of the box.
    points = torch.rand(2_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        values = data.fields(range(len(data)))(points)
    differences = torch.cdist(values, values, p=1) / len(points)
    others = (differences.sum(1) / (len(data) - 1)).mean()
    chosen = differences.gather(1, nearest[:, None]).mean()
    for index in range(min(5, len(data))):
        print(f"{data.rows[index].path}: nearest in weights {data.rows[int(nearest[index])].path}")
    print(f"mean difference of distances: nearest in weights {chosen:.3f}, any other {others:.3f}")


if __name__ == "__main__":
    # Worker processes import this file: without this line they would start workers of their own.
    tyro.cli(main)
