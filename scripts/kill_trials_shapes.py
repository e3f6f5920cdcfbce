"""End ``sasnet fit-shapes`` in the middle, many times, with kill -9, and see whether anything was lost or done twice.

    python scripts/kill_trials_shapes.py --trials 20 --shapes 200

Small synthetic solids are fitted twice: once undisturbed, once with the master or a worker killed at random moments and
the same command given again. At the end the two tables must be equal in every column but the times, every field must
have the same bytes, no shape may have two rows, and no unfinished file may be left.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from sasnet_ns.datasets import latest_rows, write_synthetic
from sasnet_ns.datasets.rows import VARYING, read_journal
from sdf_tools.io.writing import write_json

CONFIGURATION = """
network_config: {preset: sdf_compact, embedding_width: 32, hidden_widths: [32], groups: [2], grid_levels: 2,
  grid_log2_entries: 8}
pool_size: 8000
points_per_batch: 500
"""
WRONG = ("rows missing", "rows twice", "rows that differ", "fields that differ", "unfinished files")


@dataclass
class Arguments:
    """End fit-shapes in the middle, many times, and see whether anything was lost or done twice."""

    trials: int = 20
    """Processes that are killed."""
    shapes: int = 200
    """Solids."""
    steps: int = 100
    """Optimisation steps of each."""
    workers: int = 2
    """Processes of each run."""
    batch: int = 1
    """Fields that a worker trains together."""
    folder: Path | None = None
    """Where everything goes; a temporary folder if left out."""
    seed: int = 0
    """Seed of the moments and of whom they meet."""
    json: Path | None = None
    """Also write the counts to this file."""


def start(arguments: Arguments, folder: Path, output: str) -> subprocess.Popen[bytes]:
    """The command."""
    log = open(folder / f"{output}.log", "ab")  # noqa: SIM115
    options = {
        "source": folder / "list.csv", "output-dir": folder / output, "config": folder / "config.yml",
        "steps": arguments.steps, "resolution": 32, "workers": arguments.workers, "batch": arguments.batch,
        "device": "cpu",
    }  # fmt: skip
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "sasnet_ns.commands", "fit-shapes", *given]
    return subprocess.Popen(command, stdout=log, stderr=log)


def rows_in(folder: Path) -> int:
    """Rows in the journal."""
    journal = folder / "rows.jsonl"
    return sum(1 for _ in read_journal(journal)) if journal.exists() else 0


def victim(process: subprocess.Popen[bytes], chance: random.Random) -> psutil.Process | None:
    """The master or one of its workers; None if it has just ended."""
    try:
        master = psutil.Process(process.pid)
        workers = [child for child in master.children() if any("spawn_main" in part for part in child.cmdline())]
    except psutil.Error:
        return None
    return chance.choice([master, *workers])


def disturb(arguments: Arguments, folder: Path, pace: float, counts: Counter[str]) -> None:
    """Run the command until it ends, with all the kills."""
    chance = random.Random(arguments.seed)
    process = start(arguments, folder, "disturbed")
    while counts["killed"] < arguments.trials:
        # Mostly while shapes are being fitted, now and then while processes start.
        seen, early = rows_in(folder / "disturbed"), chance.random() < 0.2
        while not early and process.poll() is None and rows_in(folder / "disturbed") == seen:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 2 * pace))
        chosen = victim(process, chance)
        if chosen is not None and process.poll() is None:
            chosen.send_signal(signal.SIGKILL)
            counts["killed"] += 1
            counts["of these the master"] += chosen.pid == process.pid
        if process.poll() is not None or (chosen is not None and chosen.pid == process.pid):
            code = process.wait()
            if code == 0:
                counts["runs that ended before the next kill"] += 1
                break
            if code != -signal.SIGKILL:
                raise SystemExit(f"the run failed by itself; see {folder / 'disturbed.log'}.")
            process = start(arguments, folder, "disturbed")
    if process.wait():
        raise SystemExit(f"the run failed by itself; see {folder / 'disturbed.log'}.")


def compare(arguments: Arguments, folder: Path, counts: Counter[str]) -> None:
    """Hold the end of the disturbed run against the calm one's."""
    tables = []
    for output in ("calm", "disturbed"):
        found = [dataclasses.asdict(row) for row in latest_rows(folder / output)]
        tables.append([{name: value for name, value in row.items() if name not in VARYING} for row in found])
    calm, disturbed = tables
    counts["rows missing"] = arguments.shapes - len(disturbed)
    counts["rows twice"] = rows_in(folder / "disturbed") - len(disturbed)
    counts["rows that differ"] = sum(row not in calm for row in disturbed)
    counts["fields compared"] = sum(row["status"] == "fitted" for row in calm)
    for row in calm:
        if row["key"] is not None and row["status"] == "fitted":
            one, other = (folder / output / "fields" / f"{row['key']}.pt" for output in ("calm", "disturbed"))
            counts["fields that differ"] += not other.exists() or one.read_bytes() != other.read_bytes()
    counts["unfinished files"] = sum(1 for _ in (folder / "disturbed").rglob(".partial-*"))


def main(arguments: Arguments) -> Counter[str]:
    """Run the trials; prints and returns the counts."""
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kill_trials_"))
    write_synthetic(folder / "shapes", arguments.shapes, resolution=24)
    paths = sorted((folder / "shapes").glob("*.ply"))
    lines = [f"shapes/{path.name},2000" for path in paths]
    (folder / "list.csv").write_text("\n".join(["path,samples", *lines]) + "\n")
    (folder / "config.yml").write_text(CONFIGURATION)
    counts, began = Counter[str](), time.monotonic()
    if start(arguments, folder, "calm").wait():
        raise SystemExit(f"the undisturbed run failed; see {folder / 'calm.log'}.")
    disturb(arguments, folder, (time.monotonic() - began) / arguments.shapes, counts)
    compare(arguments, folder, counts)
    for what, count in {**dict.fromkeys(WRONG, 0), **counts}.items():
        print(f"{count:>5}  {what}")
    if arguments.json is not None:
        write_json(arguments.json, dict(counts))
    return counts


if __name__ == "__main__":
    counted = main(tyro.cli(Arguments, description=__doc__))
    raise SystemExit(any(counted[name] for name in WRONG))
