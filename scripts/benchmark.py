"""Benchmarks: ``python scripts/benchmark.py NAME [--json FILE] [--quick]`` prints a table.

Timings depend on what else the machine does: compare rows of one run with each other, not with another run's.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

NAMES = (
    "kernels",
    "step",
    "fused_step",
    "fewer_steps",
    "inference",
    "shapes",
    "distance",
    "sampling",
    "extraction",
    "metrics",
    "reconstruction",
    "viewer",
    "clouds",
    "clouds_table",
    "cloud_pictures",
    "unsigned",
    "network",
    "registers",
    "contention",
    "strengths",
    "data_set",
    "fit_batch",
)


def main() -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument(
        "--field", type=Path, default=None, help="extraction: this field.pt instead of a short training"
    )
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    if arguments.field is not None and arguments.name != "extraction":
        parser.error("--field belongs to the benchmark 'extraction'.")
    given = [] if arguments.field is None else [arguments.field]
    importlib.import_module(f"benchmarks.{arguments.name}").run(arguments.json, arguments.quick, *given)


if __name__ == "__main__":
    main()
