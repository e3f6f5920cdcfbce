"""Which shapes a data set has: a folder walked for every format that loads, or a list with options a row."""

from __future__ import annotations

import codecs
import contextlib
import csv
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdf_tools.errors import ShapeWarning

LIST_SUFFIXES = (".txt", ".csv", ".parquet")
_KINDS = 64  # different options whose groups wait to be filled
_INDICES = ("", "Unnamed: 0", "__index_level_0__")
"""What pandas calls the column of row numbers that it writes unasked."""


@dataclass(frozen=True)
class Entry:
    """A shape to fit.

    Attributes:
        path: as the list has it, or relative to the folder.
        file: where it is.
        overrides: options of this row alone.
        where: what messages call the row.
    """

    path: str
    file: str
    overrides: dict[str, Any] = field(default_factory=dict)
    where: str = ""


def list_shapes(source: str | Path, shard: tuple[int, int] = (0, 1)) -> Iterator[Entry]:
    """The shapes of a folder or a list, always in the same order, read as they are asked for.

    A folder is walked for the formats that :func:`sdf_tools.load` reads; what begins with a dot is passed over. A list
    is text (a path a line; lines that begin with # are notes), or CSV or Parquet with a column ``path`` and, if rows
    have options of their own, columns of their names (see :meth:`FitOptions.with_overrides`; an empty cell leaves the
    option as it is; a column without a name, pandas' row numbers, is passed over). Paths are relative to the list's
    folder. Text is UTF-8, or UTF-16 with the mark that Windows puts in front.

    Args:
        source: folder or list.
        shard: every n-th shape from number i on, counted from 0: (i, n).

    Raises:
        ValueError: there is no such folder or list, it cannot be read, or it has no column ``path``.
        MissingLibraryError: Parquet without pyarrow.
    """
    source = Path(source)
    index, count = shard
    for number, entry in enumerate(_all_shapes(source)):
        if number % count == index:
            yield entry


def _all_shapes(source: Path) -> Iterator[Entry]:
    if source.is_dir():
        yield from _walk(source)
    elif not source.exists():
        raise ValueError(f"there is neither a folder nor a list at '{source}'.")
    elif source.suffix.lower() == ".txt":
        with _readable(source), open(source, encoding=_encoding(source)) as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text and not text.startswith("#"):
                    yield Entry(text, str(source.parent / text), {}, f"{source.name}, line {number}")
    elif source.suffix.lower() == ".csv":
        with _readable(source), open(source, newline="", encoding=_encoding(source)) as file:
            for number, row in enumerate(csv.DictReader(file, skipinitialspace=True), 2):
                yield _entry(source, row, f"{source.name}, row {number}")
    elif source.suffix.lower() == ".parquet":
        from sdf_tools.errors import needs

        with needs("pyarrow", "A list in Parquet"):
            import pyarrow.parquet as pq
        number = 0
        with _readable(source):
            for batch in pq.ParquetFile(source).iter_batches(4096):
                for row in batch.to_pylist():
                    number += 1
                    yield _entry(source, row, f"{source.name}, row {number}")
    else:
        raise ValueError(
            f"'{source.name}' is no list of shapes; give a folder, or a list as {', '.join(LIST_SUFFIXES)}."
        )


def _encoding(source: Path) -> str:
    """UTF-8 with or without a mark in front, unless the mark says UTF-16, as PowerShell writes it."""
    with open(source, "rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


@contextlib.contextmanager
def _readable(source: Path) -> Iterator[None]:
    """Around what reads a list: the libraries' errors become sentences with its name."""
    try:
        yield
    except UnicodeError:
        raise ValueError(f"'{source.name}' is not text in UTF-8; save the list in that encoding.") from None
    except csv.Error as error:
        raise ValueError(f"'{source.name}' cannot be read as CSV: {error}.") from None
    except (ValueError, OSError) as error:
        ours = not type(error).__module__.startswith("pyarrow") and getattr(error, "errno", 0) is not None
        if ours:  # pyarrow's OSError has no number
            raise
        raise ValueError(f"'{source.name}' cannot be read as Parquet; write the list again.") from None


def _walk(folder: Path) -> Iterator[Entry]:
    from sdf_tools.io.loading import CLOUD_SUFFIXES, MESH_SUFFIXES

    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith((*MESH_SUFFIXES, *CLOUD_SUFFIXES)) and not name.startswith("."):
                file = Path(place) / name
                path = file.relative_to(folder).as_posix()
                try:
                    path.encode()
                except UnicodeEncodeError:  # of an old archive or disk; tables and journals could not hold it
                    shown = path.encode("utf-8", "backslashreplace").decode()
                    warnings.warn(
                        f"'{shown}' is left out: its name is not UTF-8; rename it.", ShapeWarning, stacklevel=2
                    )
                    continue
                yield Entry(path, str(file), {}, path)


def _entry(source: Path, row: Mapping[str, Any], where: str) -> Entry:
    row = {name.strip(): value for name, value in row.items() if name is not None}
    path = row.get("path")
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{where}: no path; a list of shapes needs a column 'path' with one in every row.")
    stripped = ((name, value.strip() if isinstance(value, str) else value) for name, value in row.items())
    options = {name: value for name, value in stripped if name not in ("path", *_INDICES) and value not in (None, "")}
    return Entry(path.strip(), str(source.parent / path.strip()), options, where)


def grouped(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Entries in groups of up to ``size`` with the same options, in which their networks may be trained together."""
    waiting: dict[str, list[Entry]] = {}
    for entry in entries:
        group = waiting.setdefault(repr(sorted(entry.overrides.items())), [])
        group.append(entry)
        if len(group) == size:
            yield waiting.pop(repr(sorted(entry.overrides.items())))
        elif len(waiting) > _KINDS:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def shard_of(text: str | None, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Which part of a data set to do.

    Args:
        text: ``i/n``, the parts counted from 0; None takes that of a SLURM array job (``SLURM_ARRAY_TASK_ID`` and its
            companions, a step between the numbers included), or everything outside of one.
        environment: the process's own if None.

    Raises:
        ValueError: it is no ``i/n`` with 0 <= i < n.
    """
    environment = os.environ if environment is None else environment
    if text is None:
        if "SLURM_ARRAY_TASK_ID" not in environment:
            return 0, 1
        first, step = (int(environment.get(f"SLURM_ARRAY_TASK_{n}", d)) for n, d in (("MIN", "0"), ("STEP", "1")))
        index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
        text = f"{index}/{environment.get('SLURM_ARRAY_TASK_COUNT', '1')}"
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"a shard is given as i/n, for example 0/8, not '{text}'.") from None
    if not 0 <= index < count:
        raise ValueError(f"there is no shard {index} of {count}; they are counted from 0 to n - 1.")
    return index, count
