"""The table of a data set: one row a shape, as JSON lines while it grows and as Parquet or CSV when it is done."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

Status = Literal["fitted", "failed", "timeout", "memory", "crashed"]
VARYING = ("seconds", "fit_seconds")
"""Columns that differ between two runs of the same shape; all others are equal bit for bit on the same machine."""


@dataclass
class Row:
    """What is known about one shape and its field; None where it does not apply.

    Lengths are in box units (longest side 0.9) as in :class:`sdf_tools.Evaluation`.
    """

    path: str
    """As the list or the folder has it."""
    status: Status = "failed"
    """fitted; failed (input or fit, see error); timeout and memory (a limit); crashed (its process died)."""
    error: str | None = None
    """The sentence of an error."""
    key: str | None = None
    """Name of the field, ``fields/KEY.pt``: 32 digits of content_hash, a dash, 8 of configuration_hash."""
    content_hash: str | None = None
    """SHA-256 of the file's bytes."""
    configuration_hash: str | None = None
    """SHA-256 of everything that was asked for: network, recipe, samples, seed, mending, measuring."""
    kind: str | None = None
    """mesh or point cloud."""
    vertices: int | None = None
    """Vertices or points of the input."""
    faces: int | None = None
    """Triangles of the input."""
    watertight: bool | None = None
    """Whether the input, after mending, is closed; an IoU with an open mesh means little."""
    mended: str | None = None
    """What was changed in the input before the fit, one sentence after the other."""
    warnings: str | None = None
    """Warnings on the way."""
    steps: int | None = None
    """Optimisation steps."""
    seconds: float | None = None
    """The shape's whole time: reading, distances, fit, measuring, writing."""
    fit_seconds: float | None = None
    """Of these, optimisation."""
    loss: float | None = None
    """Last loss."""
    iou: float | None = None
    """Overlap of the extracted mesh with the input."""
    accuracy: float | None = None
    """Mean distance from the extracted mesh to the input."""
    completeness: float | None = None
    """Mean distance from the input to the extracted mesh; for a point cloud, from its points."""
    normal_error: float | None = None
    """Mean angle between the normals of both, degrees."""
    mesh_faces: int | None = None
    """Triangles of the extracted mesh."""
    parameters: int | None = None
    """Trained values of the network."""
    input_bytes: int | None = None
    """Size of the input file."""
    input_mtime_ns: int | None = None
    """When the input file was last changed, nanoseconds since 1970; a changed file is fitted again."""
    field_bytes: int | None = None
    """Size of the field's file."""
    field_hash: str | None = None
    """SHA-256 of the field's file."""
    seed: int | None = None
    """Of first weights and samples."""
    initial_hash: str | None = None
    """With --shared-init: SHA-256 of the weights that all fields started from, which are in initial.pt."""
    threads: int | None = None
    """Processor threads of the fit; another number rounds sums differently."""
    device: str | None = None
    """Where it was fitted: cpu or a GPU's name."""
    versions: str | None = None
    """Of this package, torch and numpy."""


COLUMNS = {field.name: str(field.type) for field in dataclasses.fields(Row)}
"""Column to type, in order."""


class Journal:
    """Rows as JSON lines, each on the disk before :meth:`append` returns.

    A line torn by a power cut is left where it is and skipped by :func:`read_journal`. On systems with ``flock`` a
    second process cannot open the same journal; the lock goes with the process, however it ends.

    Args:
        path: the file; made if it is missing.

    Raises:
        ValueError: another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        from sdf_tools.io.writing import sync_folder

        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError:
            os.close(self._file)
            raise ValueError(
                f"another process is filling '{path.parent}'; wait for it, or give this one a --shard."
            ) from None
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")
        sync_folder(path.parent)

    def append(self, row: Row) -> None:
        """Add a row, durably."""
        content = {name: value for name, value in dataclasses.asdict(row).items() if value is not None}
        content = {k: v for k, v in content.items() if not (isinstance(v, float) and not math.isfinite(v))}
        data = (json.dumps(content) + "\n").encode()
        written = os.write(self._file, data)
        if written != len(data):  # the disk is full: what is there counts as torn
            os.write(self._file, data[written:])
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file and give up the lock."""
        os.close(self._file)


def read_journal(path: Path) -> Iterator[tuple[int, Row]]:
    """Offset and row of each whole line of a journal; torn lines and columns of other versions are left out."""
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            row = _parse(line)
            if row is not None:
                yield offset, row
            offset += len(line)


def _parse(line: bytes) -> Row | None:
    try:
        content = json.loads(line)
        return Row(**{name: value for name, value in content.items() if name in COLUMNS})
    except (ValueError, TypeError, AttributeError):
        return None


def field_path(output: Path, key: str) -> Path:
    """Where the field of a row lies."""
    return output / "fields" / f"{key}.pt"


def journals(output: Path) -> list[Path]:
    """The journals of a data set, one a shard."""
    return sorted(output.glob("rows*.jsonl"))


def identity(path: str, configuration_hash: str | None) -> str:
    """What makes two rows the same: path and configuration."""
    return f"{path}\0{configuration_hash or ''}"


def latest_rows(output: Path) -> Iterator[Row]:
    """The last row of each shape and configuration, sorted by path; rows stay on the disk until they are asked for."""
    where: dict[str, tuple[int, int]] = {}
    files = journals(output)
    for number, path in enumerate(files):
        for offset, row in read_journal(path):
            name = identity(row.path, row.configuration_hash)
            # The same shape may be in two journals when the number of shards changed: a fitted row wins.
            if name not in where or where[name][0] == number or row.status == "fitted":
                where[name] = number, offset
    handles = [open(path, "rb") for path in files]  # noqa: SIM115
    try:
        for name in sorted(where):
            number, offset = where[name]
            handles[number].seek(offset)
            found = _parse(handles[number].readline())
            if found is not None:
                yield found
    finally:
        for handle in handles:
            handle.close()


def write_table(output: Path, min_iou: float | None = None) -> Path:
    """Write ``shapes.parquet``, or ``shapes.csv`` where pyarrow is not installed, from the journals of all shards.

    Args:
        output: the data set's folder.
        min_iou: marks fitted rows below it in the column ``below_min_iou``; None leaves the column empty.

    Returns:
        The file, whole or not there at all.
    """
    from sdf_tools.io.writing import write_atomically

    rows = ({**dataclasses.asdict(row), "below_min_iou": below(row, min_iou)} for row in latest_rows(output))
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        warnings.warn(
            f"the table is written as CSV, because pyarrow is not usable ({error}): pip install 'pyarrow<26'.",
            stacklevel=2,
        )
        path = output / "shapes.csv"
        write_atomically(path, partial(_write_csv, rows))
    else:
        path = output / "shapes.parquet"
        write_atomically(path, partial(_write_parquet, rows))
    return path


def below(row: Row, min_iou: float | None) -> bool | None:
    """Whether a row misses the quality gate: fitted, measured, and less than ``min_iou``."""
    return None if min_iou is None or row.status != "fitted" or row.iou is None else row.iou < min_iou


def _write_csv(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "below_min_iou"])
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    types = {**COLUMNS, "below_min_iou": "bool"}
    schema = pa.schema([(name, kinds.get(kind.split(" ")[0], pa.string())) for name, kind in types.items()])
    with pq.ParquetWriter(path, schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == 4096:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
