from .fields import FieldBatch, FieldDataset
from .listing import Entry, list_shapes, shard_of
from .master import Counts, Result, fit_shapes, worst_rows
from .one import FitOptions, fit_one
from .rows import Row, latest_rows, write_table
from .synthetic import synthetic_field, synthetic_mesh, write_synthetic
from .workers import Limits

__all__ = [
    "Counts",
    "Entry",
    "FieldBatch",
    "FieldDataset",
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
