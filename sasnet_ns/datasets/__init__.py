"""Data sets of fields: thousands of shapes fitted, kept with a table of them, and loaded again."""

from sasnet_ns.datasets.listing import Entry, list_shapes, shard_of
from sasnet_ns.datasets.master import Counts, Result, fit_shapes, worst_rows
from sasnet_ns.datasets.one import FitOptions, fit_one
from sasnet_ns.datasets.rows import Row, latest_rows, write_table
from sasnet_ns.datasets.synthetic import synthetic_field, synthetic_mesh, write_synthetic
from sasnet_ns.datasets.workers import Limits

__all__ = [
    "Counts",
    "Entry",
    "FitOptions",
    "Limits",
    "Result",
    "Row",
    "fit_one",
    "fit_shapes",
    "latest_rows",
    "list_shapes",
    "shard_of",
    "synthetic_field",
    "synthetic_mesh",
    "worst_rows",
    "write_synthetic",
    "write_table",
]
