"""End training in the middle, many times, and see whether anything was lost: kill -9, SIGTERM or Ctrl-C.

    python scripts/kill_trials.py --trials 20 --folder /tmp/trials

A run of ``ns-train sasnet-sdf`` on a small sphere is ended at a random moment and gone on with, until it is at its end.
Each trial checks that every checkpoint and field.pt that is there can be read; at the end, that no unfinished file is
left and that the weights are those of a run that nobody disturbed, bit for bit.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from sasnet_ns.models.loading import newest_step, read_checkpoint
from sasnet_ns.networks import SignedDistanceField
from sdf_tools.extraction import extract_mesh
from sdf_tools.io.writing import save_mesh, write_json


@dataclass
class Arguments:
    """End training in the middle, many times, and see whether anything was lost."""

    trials: int = 20
    """Processes that are ended."""
    folder: Path | None = None
    """Where the runs go; a temporary folder if left out."""
    kind: Literal["kill", "term", "interrupt"] = "kill"
    """kill -9, SIGTERM, or Ctrl-C (SIGINT)."""
    steps: int = 400
    """Steps of each run."""
    seed: int = 0
    """Seed of the moments."""
    json: Path | None = None
    """Also write the counts to this file."""


SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
TINY = (
    "--steps-per-save", "10", "--steps-per-geometry-eval", "0", "--vis", "tensorboard",
    "--pipeline.datamanager.pool-size", "20000", "--pipeline.datamanager.points-per-batch", "1000",
    "--pipeline.datamanager.probe-points", "2000", "--pipeline.model.network", "siren",
    "--pipeline.model.network-options", "width", "32", "--machine.device-type", "cpu",
)  # fmt: skip


def start(folder: Path, shape: Path, name: str, steps: int, load: Path | None = None) -> subprocess.Popen[bytes]:
    """One process of ns-train."""
    words = [str(Path(sys.executable).with_name("ns-train")), "sasnet-sdf", "--data", str(shape), "--timestamp", name]
    words += ["--output-dir", str(folder), "--max-num-iterations", str(steps), *TINY]
    words += [] if load is None else ["--load-dir", str(load)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    log = open(folder / f"{name}.log", "ab")  # noqa: SIM115 (the process writes there)
    return subprocess.Popen(words, stdout=log, stderr=log, env=environment)


def check(run: Path, counts: Counter[str]) -> int:
    """Read all that a run has left; the number of its last checkpoint, -1 for none."""
    for path in (run / "nerfstudio_models").glob("*"):
        try:
            read_checkpoint(path)
        except ValueError as error:
            counts["torn checkpoints"] += 1
            print(error)
    if (run / "field.pt").exists():
        try:
            _, step = SignedDistanceField.load_with_step(run / "field.pt")
            counts["field.pt behind the checkpoint"] += (step or 0) < newest_step(run / "nerfstudio_models") + 1
        except ValueError as error:
            counts["torn field.pt"] += 1
            print(error)
    return newest_step(run / "nerfstudio_models")


def wait_for_training(process: subprocess.Popen[bytes], run: Path, before: int, limit: float = 300) -> None:
    """Until the process has saved something, or is over."""
    until = time.monotonic() + limit
    while process.poll() is None and newest_step(run / "nerfstudio_models") <= before and time.monotonic() < until:
        time.sleep(0.02)


def main(arguments: Arguments) -> Counter[str]:
    """Run the trials; prints and returns the counts."""
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kill_trials_"))
    folder.mkdir(parents=True, exist_ok=True)
    shape, chance, counts = folder / "sphere.ply", random.Random(arguments.seed), Counter[str]()
    save_mesh(extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=24), shape)
    runs = folder / "sphere" / "sasnet-sdf"
    if start(folder, shape, "whole", arguments.steps).wait() != 0:
        raise SystemExit(f"the run without disturbance failed; see {folder / 'whole.log'}.")
    whole = read_checkpoint(runs / "whole" / "nerfstudio_models" / f"step-{arguments.steps - 1:09d}.ckpt")["pipeline"]
    name, done, load = "run", -1, None
    while counts["ended"] < arguments.trials:
        process = start(folder, shape, name, arguments.steps, load)
        wait_for_training(process, runs / name, done)
        time.sleep(chance.uniform(0, 0.5))
        if process.poll() is None:
            process.send_signal(SIGNALS[arguments.kind])
            process.wait()
            counts["ended"] += 1
            counts["unfinished files left by the process"] += len(list((runs / name).rglob(".partial-*")))
        elif process.returncode:
            raise SystemExit(f"a run failed by itself; see {folder / f'{name}.log'}.")
        done = check(runs / name, counts)
        load = runs / name / "nerfstudio_models"
        if done == arguments.steps - 1:
            compare(load, arguments.steps, whole, counts)
            name, done, load = f"run{counts['runs compared']}", -1, None
    if done >= 0:
        start(folder, shape, name, arguments.steps, load).wait()
        compare(runs / name / "nerfstudio_models", arguments.steps, whole, counts)
        counts["unfinished files after the next start"] = len(list((runs / name).rglob(".partial-*")))
    counts["wrong ends"] += 0
    for what, count in {"torn checkpoints": 0, "torn field.pt": 0, **counts}.items():
        print(f"{count:>5}  {what}")
    if arguments.json is not None:
        write_json(arguments.json, dict(counts))
    return counts


def compare(checkpoints: Path, steps: int, whole: dict[str, torch.Tensor], counts: Counter[str]) -> None:
    """Hold the end of a disturbed run against the undisturbed one's."""
    end = read_checkpoint(checkpoints / f"step-{steps - 1:09d}.ckpt")["pipeline"]
    counts["runs compared"] += 1
    counts["wrong ends"] += any(not torch.equal(value, end[name]) for name, value in whole.items())


if __name__ == "__main__":
    counted = main(tyro.cli(Arguments, description=__doc__))
    raise SystemExit(any(counted[name] for name in ("torn checkpoints", "torn field.pt", "wrong ends")))
