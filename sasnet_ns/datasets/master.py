"""A whole data set: which shapes are still to do, the journal that nothing is lost from, the table at the end."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sasnet_ns.datasets.listing import Entry, grouped, list_shapes
from sasnet_ns.datasets.rows import (
    Journal,
    Row,
    below,
    field_path,
    identity,
    journals,
    latest_rows,
    standing,
    write_table,
)
from sasnet_ns.datasets.workers import Fit, Limits, configuration_of, fit_entries, fit_entry, fit_in_workers

if TYPE_CHECKING:
    from sasnet_ns.datasets.one import FitOptions


_WRITTEN = re.compile(r"(fields|meshes|thumbnails)/[0-9a-f]{32}-[0-9a-f]{8}\.\w+")
"""Files of a data set in its folder, see :class:`sasnet_ns.datasets.rows.Row`."""


@dataclass
class Counts:
    """How a run stands.

    Attributes:
        total: shapes of this shard.
        done: of these, with a row, from this run or earlier ones.
        failed: of these, without a field.
        fresh: rows of this run.
        drawn: fields from earlier runs of which this one made the mesh or thumbnail that it was asked for.
        seconds: since it began.
    """

    total: int = 0
    done: int = 0
    failed: int = 0
    fresh: int = 0
    drawn: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Rows a second in this run."""
        return self.fresh / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """Until the shard is done, at this rate; infinite before the first row."""
        return (self.total - self.done) / self.rate if self.rate else float("inf")


Engine = Callable[[Iterator[Entry], "FitOptions"], Iterator[Row]]
"""Something that turns entries into rows, in any order."""


@dataclass
class Result:
    """What :func:`fit_shapes` leaves.

    Attributes:
        counts: at the end, of this shard.
        shard: (i, n), counted from 0.
        table: ``shapes.parquet`` or ``shapes.csv``.
        rows: of the whole table: of all shards, and of whatever else was fitted into the same folder.
        failed: of these, without a field.
        worst: of the whole table, the rows with the smallest IoU, the smallest first.
        below: fitted rows of the table under the gate.
        interrupted: whether Ctrl-C ended the run early; the same call goes on.
    """

    counts: Counts
    shard: tuple[int, int]
    table: Path
    rows: int
    failed: int
    worst: list[Row]
    below: int
    interrupted: bool


def fit_shapes(
    source: str | Path,
    options: FitOptions,
    *,
    workers: int = 1,
    limits: Limits | None = None,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    min_iou: float | None = None,
    batch: int = 1,
    engine: Engine | None = None,
    fit: Fit = fit_entry,
    report: Callable[[Counts, Row], None] | None = None,
) -> Result:
    """Fit every shape of a folder or a list; what has a row already is passed over.

    Rows are appended to ``OUTPUT/rows*.jsonl``, each on the disk before the next shape is given out, and its field
    before that; so the run may end at any moment and the same call goes on. A shape is done when its row (path and
    configuration) is there, its file has the size and time that it had, and its field exists; a mesh or thumbnail that
    is wanted and not there is made of that field. Of several rows of a shape the newest stands; a warning says it when
    that replaces a shape of the same name in another source.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from sasnet_ns.datasets import FitOptions, fit_shapes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = fit_shapes(folder, FitOptions(output=Path(folder) / "fields"))  # an empty folder
    >>> result.counts.total
    0

    Args:
        source: folder or list, see :func:`list_shapes`.
        options: how each is fitted, and where the data set lies.
        workers: processes.
        limits: of each shape.
        shard: which part: (i, n) counted from 0. Shards may share the output folder.
        retry_failed: do rows without a field again.
        min_iou: marks fitted rows below it in the table.
        batch: fields that a worker trains together, see :func:`fit_together`; 1 for one after the other.
        engine: does the work instead of worker processes on this machine, see ``ray_cluster``.
        fit: what a worker does with a shape, for tests and for fits of another kind.
        report: called with the state and the newest row.

    Returns:
        The result; Ctrl-C ends the run early and well.

    Raises:
        ValueError: the source or an option cannot be used, another process fills this shard, or the disk has no room
            for the fields that are still to come.
        OSError: the disk is full; the shapes whose fields did not fit have no rows and are done by the next call.
        RuntimeError: workers do not start.
    """
    from sdf_tools.io.limits import require_space
    from sdf_tools.io.writing import write_json

    output = options.output
    name = "rows.jsonl" if shard == (0, 1) else f"rows-{shard[0]:04d}-of-{shard[1]:04d}.jsonl"
    counts, interrupted = Counts(), False
    journal = Journal(output / name)
    started = time.monotonic()
    try:
        if options.shared_init:
            from sasnet_ns.datasets.one import keep_initial_weights

            keep_initial_weights(options)
        known = _known(output)
        listed = functools.partial(_distinct, source, shard, output)
        counts.total = sum(1 for _ in listed())
        left = max(0, counts.total - sum(row.key is not None for row in known.values()))
        room = options.room()
        require_space(output, left * room, f"the fields of {left:,} shapes")
        folder = _folder(source)
        to_do = _to_do(listed(), options, known, retry_failed, counts, folder)
        if engine is None:
            together = fit_entries if batch > 1 else None
            rows = fit_in_workers(
                grouped(to_do, batch),
                options,
                workers,
                limits or Limits(),
                output / "logs" / Path(name).stem,
                fit,
                together,
            )
        else:
            rows = engine(to_do, options)
        try:
            for row in rows:
                if row.status != "fitted" and shutil.disk_usage(output).free < room:  # which is why, and not its fault
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
                row.source = None if os.path.isabs(row.path) else folder
                journal.append(row)
                counts.fresh += 1
                counts.done += 1
                counts.failed += row.status != "fitted"
                counts.seconds = time.monotonic() - started
                if report is not None:
                    report(counts, row)
            for row in _draw_missing(listed(), options, output):
                counts.drawn += 1
                counts.seconds = time.monotonic() - started
                if report is not None:
                    report(counts, row)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            rows.close()  # type: ignore[attr-defined]  # a generator: ends its workers
    finally:
        journal.close()
    counts.seconds = time.monotonic() - started
    table = write_table(output, min_iou)
    result = _result(output, counts, shard, table, min_iou, interrupted)
    write_json(output / "summary.json", _summary(result, min_iou))
    return result


def _digest(path: str, configuration_hash: str | None) -> int:
    return int.from_bytes(hashlib.blake2b(identity(path, configuration_hash).encode(), digest_size=8).digest(), "big")


def _folder(source: str | Path) -> str:
    """What relative paths are relative to."""
    source = Path(source)
    return str((source if source.is_dir() else source.parent).resolve())


class _Known(NamedTuple):
    """What a row that is there says: where it is, whether it has a field, and of which file."""

    journal: int
    offset: int
    key: str | None
    size: int | None
    mtime_ns: int | None
    source: str | None


def _known(output: Path) -> dict[int, _Known]:
    """The rows that stand, by identity."""

    def keep(journal: int, offset: int, row: Row) -> _Known:
        key = row.key if row.status == "fitted" else None
        source = None if row.source is None else sys.intern(row.source)
        return _Known(journal, offset, key, row.input_bytes, row.input_mtime_ns, source)

    return standing(journals(output), lambda row: _digest(row.path, row.configuration_hash), keep)


def _distinct(source: str | Path, shard: tuple[int, int], output: Path) -> Iterator[Entry]:
    """The entries of a shard, each once, without what lies in the output folder, or was written if that is the source.

    Meshes that lie in the source's own ``meshes/`` under other names than KEY.ply are the user's.
    """
    folder, inside = Path(source).resolve(), output.resolve()
    own = f"{inside.relative_to(folder).as_posix()}/" if folder in inside.parents else None
    written = _WRITTEN if folder == inside else None
    seen: set[int] = set()
    for entry in list_shapes(source, shard):
        name = _digest(entry.path, repr(sorted(entry.overrides.items())))
        if name in seen or (own is not None and entry.path.startswith(own)):
            continue
        if written is not None and written.fullmatch(entry.path):
            continue
        seen.add(name)
        yield entry


def _to_do(
    entries: Iterator[Entry],
    options: FitOptions,
    known: dict[int, _Known],
    retry_failed: bool,
    counts: Counts,
    folder: str,
) -> Iterator[Entry]:
    plain, warned = options.configuration_hash(), False
    for entry in entries:
        row = known.get(_digest(entry.path, configuration_of(entry, options) if entry.overrides else plain))
        if row is None or not _unchanged(entry, options.output, row) or (row.key is None and retry_failed):
            other = row is not None and row.source not in (None, folder) and not os.path.isabs(entry.path)
            if row is not None and other and not warned:
                warned = True
                warnings.warn(
                    f"the row of '{entry.path}' in '{options.output}' is of a shape in '{row.source}', and is replaced "
                    f"by that of the same name in '{folder}', as are others that both have; "
                    "give each source an --output-dir of its own to keep both.",
                    stacklevel=2,
                )
            yield entry
        else:
            counts.done += 1
            counts.failed += row.key is None


def _unchanged(entry: Entry, output: Path, row: _Known) -> bool:
    """Whether a row still says what is so: the same file, and the field that it had."""
    try:
        status = os.stat(entry.file)
        same = (status.st_size, status.st_mtime_ns) == (row.size, row.mtime_ns)
    except (OSError, ValueError):  # the latter for names that no file can have
        same = row.size is None
    return same and (row.key is None or field_path(output, row.key).exists())


def _draw_missing(entries: Iterator[Entry], options: FitOptions, output: Path) -> Iterator[Row]:
    """The mesh and the thumbnail of each field that lacks one that is wanted; a row of what was done for each."""
    if not (options.mesh or options.thumbnail):
        return
    from sasnet_ns.datasets.one import one_line
    from sasnet_ns.datasets.surfaces import keep_surface, lacks_surface, surface_from_field

    known = _known(output)
    for entry in entries:
        row = known.get(_digest(entry.path, configuration_of(entry, options)))
        if row is None or row.key is None or not lacks_surface(row.key, options):
            continue
        drawn = Row(entry.path, "fitted", key=row.key)
        try:
            own = options.with_overrides(entry.overrides, entry.where)
            keep_surface(surface_from_field(row.key, output, own.resolution), row.key, own)
        except ValueError as error:
            drawn.error = one_line(str(error))
        yield drawn


def worst_rows(output: Path, count: int = 10, min_iou: float | None = None) -> tuple[list[Row], int]:
    """The fitted rows with the smallest IoU, the smallest first, and how many are under the gate."""
    return _worst(latest_rows(output), count, min_iou)


def _worst(rows: Iterable[Row], count: int, min_iou: float | None) -> tuple[list[Row], int]:
    import heapq

    missed = 0
    worst: list[tuple[float, str, str, Row]] = []  # a heap of the negative IoU: the best of the worst is on top
    for row in rows:
        missed += bool(below(row, min_iou))
        if row.status == "fitted" and row.iou is not None:
            item = (-row.iou, row.path, row.configuration_hash or "", row)
            if len(worst) < count:
                heapq.heappush(worst, item)
            elif item[:3] > worst[0][:3]:
                heapq.heapreplace(worst, item)
    return [item[3] for item in sorted(worst, key=lambda item: (-item[0], *item[1:3]))], missed


def _result(
    output: Path, counts: Counts, shard: tuple[int, int], table: Path, min_iou: float | None, interrupted: bool
) -> Result:
    result = Result(counts, shard, table, 0, 0, [], 0, interrupted)

    def counted() -> Iterator[Row]:
        for row in latest_rows(output):
            result.rows += 1
            result.failed += row.status != "fitted"
            yield row

    result.worst, result.below = _worst(counted(), 10, min_iou)
    return result


def _summary(result: Result, min_iou: float | None) -> dict[str, object]:
    counts = result.counts
    return {
        "shard": "{}/{}".format(*result.shard),
        "total": counts.total,
        "done": counts.done,
        "failed": counts.failed,
        "interrupted": result.interrupted,
        "table_rows": result.rows,
        "table_failed": result.failed,
        "min_iou": min_iou,
        "below_min_iou": result.below,
        "worst": [{"path": row.path, "iou": row.iou, "key": row.key} for row in result.worst],
    }
