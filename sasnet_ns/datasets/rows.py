"""The table of a data set: one row a shape, as JSON lines while it grows and as Parquet or CSV when it is done."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=tuple[Any, ...])

Status = Literal["fitted", "failed", "timeout", "memory", "crashed"]
VARYING = ("seconds", "fit_seconds", "written")
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
    """With --shared-init: SHA-256 of the weights that all fields started from, which are in ``initial-HASH.pt``,
    with 8 digits of the configuration's."""
    threads: int | None = None
    """Processor threads of the fit; another number rounds sums differently."""
    device: str | None = None
    """Where it was fitted: cpu or a GPU's name."""
    versions: str | None = None
    """Of this package, torch and numpy."""
    source: str | None = dataclasses.field(default=None, compare=False)
    """Folder that path is relative to; None where path is absolute, and in rows of earlier versions."""
    written: float | None = dataclasses.field(default=None, compare=False)
    """When the row was written, seconds since 1970; None in rows of earlier versions, which count as the oldest."""


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
        """Add a row, durably; it is given the time, unless it has one."""
        row.written = time.time() if row.written is None else row.written
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


def initial_path(output: Path, configuration_hash: str | None) -> Path:
    """Where the weights lie that all fields of a configuration started from."""
    return output / f"initial-{(configuration_hash or '')[:8]}.pt"


def journals(output: Path) -> list[Path]:
    """The journals of a data set, one a shard."""
    return sorted(output.glob("rows*.jsonl"))


def identity(path: str, configuration_hash: str | None) -> str:
    """What makes two rows the same: path and configuration."""
    return f"{path}\0{configuration_hash or ''}"


def standing(files: list[Path], name: Callable[[Row], K], keep: Callable[[int, int, Row], V]) -> dict[K, V]:
    """What is to be kept of the row that stands for each shape and configuration, of all that journals have.

    The newest stands: of one journal the last, of several the one written last. Where the number of shards changed,
    two may have done the same shape: there a newer row without a field leaves the field of the same content standing.

    Args:
        files: the journals.
        name: what tells shapes apart, of a row.
        keep: of a row's journal (its number among the files), offset and the row; begins with these two numbers.
    """
    kept: dict[K, V] = {}
    confirmed: dict[K, Row] = {}  # fields that a newer row left standing, with that row's time and file
    with ExitStack() as stack:
        handles = [stack.enter_context(open(path, "rb")) for path in files]
        for number, path in enumerate(files):
            for offset, row in read_journal(path):
                own, place = name(row), (number, offset)
                if own in kept:
                    before, known = kept[own][:2], confirmed.pop(own, None)
                    old = known or _row_at(handles[before[0]], before[1]) or row
                    later, stands = _of_two(old, row, before[0] == number)
                    if stands is not row and (stands is not old or known):
                        confirmed[own] = stands
                    place, row = place if later else before, stands
                kept[own] = keep(*place, row)
    return kept


def _of_two(old: Row, row: Row, one_journal: bool) -> tuple[bool, Row]:
    """Whether the row that was read later stands, and what does, with the time and the file of the newer one."""
    before, after = old.written or 0.0, row.written or 0.0
    later = one_journal or after > before or (after == before and row.status == "fitted")
    newer, older = (row, old) if later else (old, row)
    if one_journal or newer.status == "fitted" or older.status != "fitted" or not _same_content(newer, older):
        return later, newer
    return not later, dataclasses.replace(
        older, written=newer.written, input_bytes=newer.input_bytes, input_mtime_ns=newer.input_mtime_ns
    )


def _same_content(row: Row, other: Row) -> bool:
    """By the key, or by the file's size and time where one of them was never opened."""
    if row.key is not None and other.key is not None:
        return row.key == other.key
    return (row.input_bytes, row.input_mtime_ns) == (other.input_bytes, other.input_mtime_ns)


def _row_at(handle: BinaryIO, offset: int) -> Row | None:
    handle.seek(offset)
    return _parse(handle.readline())


def latest_rows(output: Path) -> Iterator[Row]:
    """The newest row of each shape and configuration, see :func:`standing`, sorted by path; rows stay on the disk until
    they are asked for."""
    files = journals(output)
    where = standing(files, lambda row: identity(row.path, row.configuration_hash), lambda *place: place[:2])
    with ExitStack() as stack:
        handles = [stack.enter_context(open(path, "rb")) for path in files]
        for name in sorted(where):
            number, offset = where[name]
            found = _row_at(handles[number], offset)
            if found is not None:
                yield found


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
