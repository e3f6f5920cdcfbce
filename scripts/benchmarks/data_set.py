"""A data set of small fields by several ways: a process for each shape, one after the other, workers, trained together.

Setting: that of ``examples/06_a_data_set_of_shapes.py`` (13,577 weights, 200 steps of 1,000 points, measured at a
resolution of 64). Every way is a process of its own, imports included; ``processor`` is the time that it and its
children had the processor for, which other programs disturb less than the wall clock. One thread a fit.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

WAYS = ("a process each", "one after the other", "workers", "together", "workers, together")
BATCH = 8


@dataclass
class Way:
    """One way."""

    way: str
    shapes: int
    processor_seconds: float
    wall_seconds: float
    mean_iou: float


def run(json_path: Path | None, quick: bool) -> None:
    """Fit the same solids by every way; print the table and write the figures as JSON."""
    from benchmarks.report import print_table, write_rows

    from sasnet_ns.datasets import latest_rows, write_synthetic

    rows: list[Way] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic(folder / "shapes", 8 if quick else 24)
        for way in WAYS:
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            output = folder / way.replace(" ", "-").replace(",", "")
            shapes = sorted((folder / "shapes").glob("*.ply"))
            for one in shapes if way == WAYS[0] else [folder / "shapes"]:
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                subprocess.run([sys.executable, __file__, way, str(one), str(output)], check=True, env=environment)
            wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found = [row.iou or 0.0 for row in latest_rows(output)]
            rows.append(Way(way, len(shapes), processor, wall, sum(found) / len(found)))
    table = []
    for row in rows:
        each, times = row.processor_seconds / row.shapes, rows[0].processor_seconds / row.processor_seconds
        figures = (f"{each:.2f}", f"{times:.2f}", f"{row.wall_seconds:.0f}", f"{row.mean_iou:.4f}")
        table.append((row.way, str(row.shapes), *figures))
    print_table("", ("way",), ("shapes", "processor s a shape", "shapes a second, times", "wall s", "mean IoU"), table)
    write_rows(json_path, rows)


def child(way: str, source: Path, output: Path) -> None:
    """What one process of a way does."""
    import torch

    from sasnet_ns.datasets import FitOptions, fit_one, fit_shapes
    from sasnet_ns.datasets.one import fit_together
    from sasnet_ns.datasets.rows import Journal
    from sasnet_ns.fitting import Recipe, ShapeFit

    torch.set_num_threads(1)
    network = {"preset": "sdf_compact", "embedding_width": 64, "hidden_widths": (48, 48), "groups": (2, 2)}
    network |= {"grid_levels": 4, "grid_log2_entries": 10}
    fit = ShapeFit(network_config=network, pool_size=50_000, points_per_batch=1_000, recipe=Recipe(steps=200))
    options = FitOptions(output, fit, resolution=64, samples=5_000, device="cpu")
    if way.startswith("workers"):
        fit_shapes(source, options, workers=2, batch=BATCH if way.endswith("together") else 1)
        return
    paths = sorted(source.glob("*.ply")) if source.is_dir() else [source]
    if way == "together":
        groups = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        rows = [row for group in groups for row in fit_together([(p, p.name) for p in group], options)]
    else:
        rows = [fit_one(path, options, path.name) for path in paths]
    journal = Journal(output / "rows.jsonl")
    for row in rows:
        journal.append(row)
    journal.close()


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
