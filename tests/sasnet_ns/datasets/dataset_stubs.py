"""What the worker processes of the tests do instead of fitting; importable by name, as they are spawned."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sasnet_ns.datasets.listing import Entry
from sasnet_ns.datasets.master import fit_shapes
from sasnet_ns.datasets.rows import Row, field_path
from sasnet_ns.datasets.workers import Limits


class StubOptions(SimpleNamespace):
    """As much of FitOptions as a run without networks needs."""

    output: Path
    shared_init = False
    mesh = False
    thumbnail = 0

    def configuration_hash(self) -> str:
        return "c" * 64

    def room(self) -> int:
        return 200_000

    def with_overrides(self, overrides: dict[str, Any], where: str) -> StubOptions:
        if "wrong" in overrides:
            raise ValueError(f"{where}: 'wrong' is not a field.")
        return self


def stub_fit(entry: Entry, options: StubOptions) -> Row:
    """A row and a file from the content; the file's name may say that something terrible happens."""
    name = Path(entry.file).stem
    if name.startswith("hangs"):
        time.sleep(1000)
    if name.startswith("eats"):
        held = []
        while True:
            held.append(b"x" * (100 << 20))
            time.sleep(0.05)
    if name.startswith("dies"):
        os.kill(os.getpid(), signal.SIGSEGV)
    content = Path(entry.file).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    status = Path(entry.file).stat()
    row = Row(entry.path, configuration_hash=options.configuration_hash(), content_hash=digest, key=digest[:32])
    row.input_bytes, row.input_mtime_ns = status.st_size, status.st_mtime_ns
    if name.startswith("bad"):
        row.error = "no shape."
        return row
    if name.startswith("fills"):
        with open(options.output / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        row.error = "[Errno 28] No space left on device"
        return row
    time.sleep(options.pause)
    path = field_path(options.output, digest[:32])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with open(options.output / "calls.txt", "a") as file:
        file.write(f"{entry.path}\n")
    row.status, row.iou, row.seconds = "fitted", int(digest[:4], 16) / 65536, time.perf_counter()
    return row


def stub_together(entries: list[Entry], options: StubOptions) -> Iterator[Row]:
    """The rows of a group, all at its end, as of fields that are trained together."""
    rows = [stub_fit(entry, options) for entry in entries]
    with open(options.output / "groups.txt", "a") as file:
        file.write(f"{len(entries)}\n")
    yield from rows


if __name__ == "__main__":
    source, output, pause = sys.argv[1:]
    fit_shapes(source, StubOptions(output=Path(output), pause=float(pause)), workers=2, limits=Limits(), fit=stub_fit)
