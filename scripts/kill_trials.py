"""End training in the middle, many times, and see whether anything was lost: kill -9, SIGTERM or Ctrl-C.

    python scripts/kill_trials.py --trials 20 --folder /tmp/trials

A run of ``ns-train sasnet-sdf`` on a small sphere is ended at a random moment and gone on with, until it is at its end.
Each trial checks that every checkpoint and field.pt that is there can be read; at the end, that no unfinished file is
left and that the weights are those of an undisturbed run, bit for bit. Every run is a process of its own, forked from
this one after the imports, which take far longer than the run.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from sasnet_ns.methods import sasnet_sdf  # isort: skip  (nerfstudio's writer cannot be imported first)
from nerfstudio.scripts.train import main as ns_train  # isort: skip

from sasnet_ns.models.loading import newest_step, read_checkpoint
from sasnet_ns.networks import SignedDistanceField
from sdf_tools.io.writing import write_json


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
FORK: Any = multiprocessing.get_context("fork")


def write_shape(path: Path) -> None:
    """A sphere."""
    from sdf_tools.extraction import extract_mesh
    from sdf_tools.io.writing import save_mesh

    save_mesh(extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=24), path)


def train(folder: Path, shape: Path, name: str, steps: int, load: Path | None) -> None:
    """What ``ns-train sasnet-sdf`` does, for a small network that is saved every ten steps."""
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["ns-train", "sasnet-sdf"]
    config = copy.deepcopy(sasnet_sdf.config)
    config.data, config.output_dir, config.timestamp, config.load_dir = shape, folder, name, load
    config.experiment_name, config.vis, config.max_num_iterations, config.steps_per_save = "s", "tensorboard", steps, 10
    config.machine.device_type = "cpu"
    config.viewer.quit_on_train_completion = True
    manager: Any = config.pipeline.datamanager
    model: Any = config.pipeline.model
    manager.pool_size, manager.points_per_batch, manager.probe_points = 20_000, 1_000, 2_000
    model.network, model.network_options = "siren", {"width": 32}
    ns_train(config)


def start(folder: Path, shape: Path, name: str, steps: int, load: Path | None = None) -> Any:
    """One process that trains."""
    process = FORK.Process(target=train, args=(folder, shape, name, steps, load))
    process.start()
    return process


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


def wait_for_training(process: Any, run: Path, before: int, limit: float = 300) -> None:
    """Until the process has saved something, or is over."""
    until = time.monotonic() + limit
    while process.is_alive() and newest_step(run / "nerfstudio_models") <= before and time.monotonic() < until:
        time.sleep(0.02)


def main(arguments: Arguments) -> Counter[str]:
    """Run the trials; prints and returns the counts."""
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kill_trials_"))
    folder.mkdir(parents=True, exist_ok=True)
    shape, chance, counts = folder / "sphere.ply", random.Random(arguments.seed), Counter[str]()
    writer = FORK.Process(target=write_shape, args=(shape,))
    writer.start()
    writer.join()
    runs = folder / "s" / "sasnet-sdf"
    finish(start(folder, shape, "whole", arguments.steps), folder / "whole.log")
    whole = read_checkpoint(runs / "whole" / "nerfstudio_models" / f"step-{arguments.steps - 1:09d}.ckpt")["pipeline"]
    name, done, load = "run", -1, None
    while counts["ended"] < arguments.trials:
        process = start(folder, shape, name, arguments.steps, load)
        wait_for_training(process, runs / name, done)
        time.sleep(chance.uniform(0, 0.5))
        if process.is_alive():
            os.kill(process.pid, SIGNALS[arguments.kind])
            process.join()
            counts["ended"] += 1
            counts["unfinished files left by the process"] += len(list((runs / name).rglob(".partial-*")))
        else:
            finish(process, folder / f"{name}.log")
        done = check(runs / name, counts)
        load = runs / name / "nerfstudio_models"
        if done == arguments.steps - 1:
            compare(load, arguments.steps, whole, counts)
            name, done, load = f"run{counts['runs compared']}", -1, None
    if done >= 0:
        finish(start(folder, shape, name, arguments.steps, load), folder / f"{name}.log")
        compare(runs / name / "nerfstudio_models", arguments.steps, whole, counts)
        counts["unfinished files after the next start"] = len(list((runs / name).rglob(".partial-*")))
    counts["wrong ends"] += 0
    for what, count in {"torn checkpoints": 0, "torn field.pt": 0, **counts}.items():
        print(f"{count:>5}  {what}")
    if arguments.json is not None:
        write_json(arguments.json, dict(counts))
    return counts


def finish(process: Any, log: Path) -> None:
    """Wait for the end of a run that nobody disturbs."""
    process.join()
    if process.exitcode:
        raise SystemExit(f"a run failed by itself; see {log}.")


def compare(checkpoints: Path, steps: int, whole: dict[str, torch.Tensor], counts: Counter[str]) -> None:
    """Hold the end of a disturbed run against the undisturbed one's."""
    end = read_checkpoint(checkpoints / f"step-{steps - 1:09d}.ckpt")["pipeline"]
    counts["runs compared"] += 1
    counts["wrong ends"] += any(not torch.equal(value, end[name]) for name, value in whole.items())


if __name__ == "__main__":
    counted = main(tyro.cli(Arguments, description=__doc__))
    raise SystemExit(any(counted[name] for name in ("torn checkpoints", "torn field.pt", "wrong ends")))
