"""End long commands in the middle, many times, and see whether anything was lost: kill -9, SIGTERM or Ctrl-C.

    python scripts/kill_trials.py --command fit-image --trials 100
    python scripts/kill_trials.py --command all --trials 20 --folder /tmp/trials

A small job of the command is ended at a random moment and started again in the same way, until it is at its end; then
another one begins. Each trial checks that every file that is there can be read; each end, that no unfinished file is
left and that the results are those of an undisturbed run, bit for bit. Every run is a process of its own, forked from
this one after the imports, which take far longer than the job.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from sdf_tools.io.writing import write_atomically, write_json

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
WRONG = ("unreadable files", "wrong ends", "failed by themselves", "unfinished files at the end")
FORK: Any = multiprocessing.get_context("fork")
PRELOADED = (
    "numba", "scipy.spatial", "trimesh", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "skimage.metrics",
    "sasnet_ns.kernels._numba_step", "sasnet_ns.kernels._numba_update", "sasnet_ns.kernels._numba_sine",
    "sasnet_ns.fitting.image", "sasnet_ns.fitting.volume", "sasnet_ns.fitting.shape", "sasnet_ns.models.loading",
    "sasnet_ns.commands.fit_image", "sasnet_ns.commands.fit_volume", "sasnet_ns.commands.fit_shape",
    "sasnet_ns.commands.extract", "sdf_tools.extraction", "reproduction.runs",
)  # fmt: skip
"""What the runs import, before they are forked."""
Results = dict[str, Any]
"""What a finished run has to show, by name: tensors, bytes or numbers."""


@dataclass
class Arguments:
    """End long commands in the middle, many times, and see whether anything was lost."""

    command: Literal["train", "extract", "fit-shape", "fit-image", "fit-volume", "reproduce", "all"] = "train"
    """What is ended: ns-train sasnet-sdf, a sub-command of sasnet, the runs of reproduce.py, or each in turn."""
    trials: int = 20
    """Processes of each command that are ended."""
    minutes: float | None = None
    """End the trials of a command after so many minutes, however many there were."""
    folder: Path | None = None
    """Where the runs go; a temporary folder if left out."""
    kind: Literal["kill", "term", "interrupt"] = "kill"
    """kill -9, SIGTERM, or Ctrl-C (SIGINT)."""
    steps: int = 300
    """Steps of each run."""
    seed: int = 0
    """Seed of the moments."""
    json: Path | None = None
    """Also write the counts to this file."""


@dataclass
class Command:
    """A long command as the trials need it.

    Attributes:
        run: does it in a folder, with that many steps; started again there, it has to go on.
        progress: what grows as a run in a folder gets on, 0 before anything is kept.
        results: what a finished run in a folder has to show; None while it is not finished.
    """

    run: Callable[[Path, int], None]
    progress: Callable[[Path], float]
    results: Callable[[Path, int], Results | None]


def prepare(inputs: Path) -> None:
    """Write what the commands read: a ball, a picture, a volume, a configuration, a trained field."""
    from sasnet_ns.fitting.shape import ShapeFit, fit_shape
    from sasnet_ns.training.recipe import Recipe
    from sdf_tools.extraction import extract_mesh
    from sdf_tools.io.writing import save_mesh

    ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.4, resolution=24)
    save_mesh(ball, inputs / "sphere.ply")
    y, x, z = np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij")
    np.save(inputs / "volume.npy", (0.5 + 0.4 * np.sin(4 * x) * np.cos(3 * y + z)).astype(np.float32))
    np.save(inputs / "image.npy", np.load(inputs / "volume.npy")[..., 0])
    write_atomically(
        inputs / "shape.yaml", b"network: siren\nnetwork_config: {width: 32}\npool_size: 5000\npoints_per_batch: 500\n"
    )
    config = ShapeFit(network="siren", network_config={"width": 32}, recipe=Recipe(steps=100), pool_size=5000)
    fit_shape(ball, config, device="cpu", progress=False).field.save(inputs / "field.pt")


def inputs_of(folder: Path) -> Path:
    """Where :func:`prepare` wrote for the runs in a folder."""
    return folder.parent / "inputs"


def train(folder: Path, steps: int) -> None:
    """What ``ns-train sasnet-sdf`` does, for a small network that is saved every ten steps."""
    from sasnet_ns.methods import sasnet_sdf  # isort: skip  (nerfstudio's writer cannot be imported first)
    from nerfstudio.scripts.train import main as ns_train  # isort: skip

    sys.argv = ["ns-train", "sasnet-sdf"]
    config = copy.deepcopy(sasnet_sdf.config)
    config.data, config.output_dir, config.timestamp = inputs_of(folder) / "sphere.ply", folder, "run"
    models = trained_in(folder)
    config.load_dir = models if trained_steps(folder) else None
    config.experiment_name, config.vis, config.max_num_iterations, config.steps_per_save = "s", "tensorboard", steps, 10
    config.machine.device_type = "cpu"
    config.viewer.quit_on_train_completion = True
    manager: Any = config.pipeline.datamanager
    model: Any = config.pipeline.model
    manager.pool_size, manager.points_per_batch, manager.probe_points = 20_000, 1_000, 2_000
    model.network, model.network_options = "siren", {"width": 32}
    ns_train(config)


def trained_in(folder: Path) -> Path:
    """The folder of a training's checkpoints."""
    return folder / "s" / "sasnet-sdf" / "run" / "nerfstudio_models"


def trained_steps(folder: Path) -> float:
    """Steps of a training's newest checkpoint."""
    from sasnet_ns.models.loading import newest_step

    return newest_step(trained_in(folder)) + 1


def trained_weights(folder: Path, steps: int) -> Results | None:
    """Weights of the last checkpoint; ``field.pt`` must be as new as the newest one."""
    from sasnet_ns.models.loading import read_checkpoint
    from sasnet_ns.networks import SignedDistanceField

    path = trained_in(folder).parent / "field.pt"
    if path.exists():
        behind = (SignedDistanceField.load_with_step(path)[1] or 0) < trained_steps(folder)
        if behind:
            raise ValueError(f"'{path}' is behind its checkpoint.")
    if trained_steps(folder) < steps:
        return None
    return read_checkpoint(trained_in(folder) / f"step-{steps - 1:09d}.ckpt")["pipeline"]


def sasnet(module: str, *arguments: str) -> None:
    """A sub-command of ``sasnet``."""
    importlib.import_module(f"sasnet_ns.commands.{module}").main([*arguments, "--device", "cpu"])


SMALL = ("--network", "siren", "--network-config", "width", "24", "--batch", "200", "--checkpoint-seconds", "0")


def fit_image(folder: Path, steps: int) -> None:
    """``sasnet fit-image``, saved after every step."""
    image = str(inputs_of(folder) / "image.npy")
    sasnet("fit_image", "--image", image, "--output", str(folder), "--steps", str(steps), *SMALL)


def fit_volume(folder: Path, steps: int) -> None:
    """``sasnet fit-volume``, saved after every step."""
    volume = str(inputs_of(folder) / "volume.npy")
    sasnet("fit_volume", "--volume", volume, "--output", str(folder), "--steps", str(steps), *SMALL)


def fit_shape(folder: Path, steps: int) -> None:
    """``sasnet fit-shape``, saved after every step."""
    inputs = inputs_of(folder)
    given = ("--data", str(inputs / "sphere.ply"), "--config", str(inputs / "shape.yaml"), "--steps", str(steps))
    sasnet("fit_shape", *given, "--output-dir", str(folder), "--resolution", "64", "--checkpoint-seconds", "0")


def unseen(folder: Path) -> float:
    """Progress of a command that keeps nothing before its end."""
    return 0.0


def extract(folder: Path, steps: int) -> None:
    """``sasnet extract``; a third of the steps is its resolution."""
    field = str(inputs_of(folder) / "field.pt")
    sasnet(
        "extract", "--load-config", field, "--output-path", str(folder / "mesh.ply"), "--resolution", str(steps // 3)
    )


def reproduce(folder: Path, steps: int) -> None:
    """Two rows as ``reproduce.py`` runs them."""
    from reproduction.runs import run_jobs

    for job in jobs_of(steps):
        run_jobs([job], folder, 1, "cpu", checkpoint_seconds=0)


def jobs_of(steps: int) -> list[Any]:
    """An image with a SIREN and with an MLP behind Fourier features."""
    from reproduction.runs import Job

    fit = {"network_config": {"width": 24}, "recipe": {"steps": steps // 2}, "points_per_batch": 200}
    return [Job("image", "toy:32", {"network": name, **fit}, name) for name in ("siren", "ffn")]


def middles(folder: Path) -> list[Path]:
    """What runs in a folder keep of their middle."""
    return [path for path in folder.glob("*training.pt") if not path.name.startswith(".")]


def kept_step(folder: Path) -> float:
    """The moment at which the middle of a run was last kept."""
    try:
        return max((path.stat().st_mtime for path in middles(folder)), default=0.0)
    except FileNotFoundError:  # removed meanwhile: the run is over
        return time.time()


def fitted(folder: Path, steps: int) -> Results | None:
    """Weights, losses and mesh of a finished fit; all files must be readable in any case."""
    from sasnet_ns.networks.weights import read_weights

    found: Results = {}
    for path in sorted(path for path in folder.rglob("*") if not path.name.startswith(".")):
        if path.suffix == ".pt":
            content = read_weights(path)
            found |= {f"{path.name}: {k}": v for k, v in (content.get("state") or {}).items()}
        elif path.name in ("history.json", "losses.json"):
            content = json.loads(path.read_text())
            found[path.name] = content if isinstance(content, list) else content["loss"]
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".ply", ".png", ".npz") and path.name != "curves.png":  # which has a clock in it
            found[path.name] = path.read_bytes()
    finished = any(".pt: " in name for name in found) and not middles(folder)
    return found if finished else None


def reproduced(folder: Path, steps: int) -> Results | None:
    """Metrics and weights of both rows."""
    from sasnet_ns.networks.weights import read_weights

    found: Results = {}
    for path in middles(folder):
        read_weights(path)
    for job in jobs_of(steps):
        done = job.result(folder)
        if done is None:
            return None
        found |= {f"{job.label} {k}": v for k, v in done.items() if k in ("psnr", "ssim", "steps")}
        state = read_weights(job.folder(folder) / "checkpoint.pt")["state"]
        found |= {f"{job.label} {k}": v for k, v in state.items()}
    return found


def extracted(folder: Path, steps: int) -> Results | None:
    """The mesh, whole."""
    from sdf_tools.io.loading import load

    path = folder / "mesh.ply"
    if not path.exists():
        return None
    load(path)
    return {"mesh": path.read_bytes()}


COMMANDS = {
    "train": Command(train, trained_steps, trained_weights),
    "extract": Command(extract, unseen, extracted),
    "fit-shape": Command(fit_shape, kept_step, fitted),
    "fit-image": Command(fit_image, kept_step, fitted),
    "fit-volume": Command(fit_volume, kept_step, fitted),
    "reproduce": Command(reproduce, kept_step, reproduced),
}


def start(action: Callable[..., None], log: Path, *given: Any) -> Any:
    """A process that does something and says what it has to say to a file."""

    def child() -> None:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        action(*given)

    process = FORK.Process(target=child)
    process.start()
    return process


def finish(process: Any, log: Path) -> None:
    """Wait for the end of a run that nobody disturbs."""
    process.join()
    if process.exitcode:
        raise SystemExit(f"a run failed by itself; see {log}.")


def unfinished(run: Path) -> list[str]:
    """Names of the files in a run's folders that are being written, or that a dead process left so."""
    return [name for _, _, names in os.walk(run) for name in names if "partial" in name]


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, bit for bit."""
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def trial_of(name: str, arguments: Arguments, folder: Path) -> Counter[str]:
    """All trials of one command."""
    command, chance, counts = COMMANDS[name], random.Random(arguments.seed), Counter[str]()
    for what in ("ended", *WRONG, "runs compared"):
        counts[what] = 0
    log = folder / f"{name}.log"
    began = time.monotonic()
    whole = folder / f"{name}-whole"
    whole.mkdir()
    undisturbed = start(command.run, log, whole, arguments.steps)
    while undisturbed.is_alive() and not command.progress(whole):
        time.sleep(0.005)
    kept = time.monotonic()
    finish(undisturbed, log)
    duration, after = time.monotonic() - began, time.monotonic() - kept
    wanted = command.results(whole, arguments.steps)
    assert wanted is not None, f"an undisturbed run of {name} has no results; see {log}"
    run = folder / f"{name}-0"
    until = math.inf if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    while counts["ended"] < arguments.trials and time.monotonic() < until:
        run.mkdir(exist_ok=True)
        before = command.progress(run)
        process = start(command.run, log, run, arguments.steps)
        draw = chance.random()
        if draw < 0.25:  # while a file is being written
            while process.is_alive() and not unfinished(run):
                time.sleep(0.0005)
        elif command.progress is unseen or draw < 0.5:
            time.sleep(chance.uniform(0, duration))  # at any moment, also before and after training
        else:
            while process.is_alive() and command.progress(run) <= before:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.12 * after))
        if process.is_alive():
            os.kill(process.pid, SIGNALS[arguments.kind])
            process.join()
            counts["ended"] += 1
            counts["unfinished files left by the process"] += len(unfinished(run))
        else:
            process.join()
            counts["failed by themselves"] += bool(process.exitcode)
        try:
            found = command.results(run, arguments.steps)
        except (ValueError, OSError, KeyError) as error:
            counts["unreadable files"] += 1
            print(f"{name}: {error}", flush=True)
            found = None
        if found is not None:
            run = compare(run, found, wanted, counts)
    if run.exists():
        finish(start(command.run, log, run, arguments.steps), log)
        compare(run, command.results(run, arguments.steps) or {}, wanted, counts)
    return counts


def compare(run: Path, found: Results, wanted: Results, counts: Counter[str]) -> Path:
    """Hold the end of a disturbed run against the undisturbed one's; returns the next run's folder."""
    counts["runs compared"] += 1
    counts["unfinished files at the end"] += len(unfinished(run))
    wrong = [name for name, value in wanted.items() if name not in found or not same(value, found[name])]
    counts["wrong ends"] += bool(wrong)
    if wrong:
        print(f"'{run}' ended with other {', '.join(wrong[:5])}", flush=True)
    stem, _, number = run.name.rpartition("-")
    return run.with_name(f"{stem}-{int(number) + 1}")


def main(arguments: Arguments) -> dict[str, Counter[str]]:
    """Run the trials; prints and returns the counts."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kill_trials_"))
    inputs = folder / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    log = folder / "inputs.log"
    finish(start(prepare, log, inputs), log)
    names = list(COMMANDS) if arguments.command == "all" else [arguments.command]
    if "train" in names:
        import sasnet_ns.methods  # noqa: F401, I001  (before the fork: it takes seconds)
        import nerfstudio.scripts.train  # noqa: F401
    for module in PRELOADED:
        importlib.import_module(module)

    counted = {}
    for name in names:
        counted[name] = trial_of(name, arguments, folder)
        print(name, flush=True)
        for what, count in counted[name].items():
            print(f"{count:>7}  {what}", flush=True)
    if arguments.json is not None:
        write_json(arguments.json, {name: dict(counts) for name, counts in counted.items()})
    return counted


if __name__ == "__main__":
    all_counts = main(tyro.cli(Arguments, description=__doc__))
    raise SystemExit(any(counts[what] for counts in all_counts.values() for what in WRONG))
