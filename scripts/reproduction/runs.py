"""Runs that are done once: a job's result lies in a folder named after everything that determines it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdf_tools.io.writing import sync_folder, write_json

if TYPE_CHECKING:
    from sasnet_ns.training.checkpoint import Checkpoint

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine's where it is pinned to some (taskset, containers)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Job:
    """One network on one signal.

    Attributes:
        kind: what is fitted.
        data: a file, or the name of a shape; ``toy:SIZE`` for the toy image.
        fit: fields of GridFit (image, volume) or ShapeFit, and ``parameters``.
        label: for messages; has no influence on the result.
        size: longest side that an image or a volume is reduced to.
        region: fields of EdgeRegion.
        resolution: marching-cubes cells of a shape's mesh.
        samples: samples of a shape's distances and, five times as many, of its IoU.
    """

    kind: Literal["image", "volume", "shape"]
    data: str
    fit: dict[str, Any]
    label: str = ""
    size: int | None = None
    region: dict[str, Any] = field(default_factory=dict)
    resolution: int = 512
    samples: int = 200_000

    def folder(self, root: Path) -> Path:
        """Where its result lies under the runs' folder."""
        content = dataclasses.asdict(self)
        del content["label"]
        path = Path(self.data)
        content["data"] = [path.name, path.stat().st_size] if path.is_file() else self.data
        key = hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:12]
        return root / f"{self.fit['network']}_{path.stem.replace(':', '')}_{key}"

    def result(self, root: Path) -> dict[str, Any] | None:
        """The metrics of a finished run; None while there is none."""
        path = self.folder(root) / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else None


def run_jobs(
    jobs: list[Job], root: Path, workers: int, device: str | None, checkpoint_seconds: float = 60.0
) -> list[dict[str, Any]]:
    """Do what is not done yet and return all results, in the jobs' order.

    A result is the content of ``metrics.json``, or ``{"error": sentence}``. Ctrl-C passes through; finished runs stay,
    and one that was under way goes on from ``FOLDER.training.pt``, written every ``checkpoint_seconds``. On the CPU
    ``workers`` processes share the cores, each with its part of the threads.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    todo = {str(job.folder(root)): job for job in jobs if job.result(root) is None}
    errors: dict[str, str] = {}
    if len(todo) < len(jobs):
        print(f"{len({str(j.folder(root)) for j in jobs}) - len(todo)} of the runs are there already")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not todo) as bar:
        task = bar.add_task("runs", total=len(todo))
        do = partial(_guarded, root=root, device=device, checkpoint_seconds=checkpoint_seconds)
        for folder, error in _outcomes(todo, workers, do):
            if error:
                errors[folder] = error
                bar.console.print(f"{todo[folder].label}: {error}")
            bar.update(task, advance=1, description=todo[folder].label)
    results = []
    for job in jobs:
        done = job.result(root)
        results.append(
            {"error": errors[str(job.folder(root))]} if done is None else {**done, "folder": job.folder(root)}
        )
    return results


def _outcomes(todo: dict[str, Job], workers: int, do: Callable[..., str | None]) -> Iterator[tuple[str, str | None]]:
    """Folder and error (or None) of each job as it ends."""
    if workers <= 1 or len(todo) <= 1:
        for folder, job in todo.items():
            yield folder, do(job, show=True)
        return
    threads = str(max(1, available_cores() // workers))
    with _environment(dict.fromkeys(_THREAD_VARIABLES, threads)):
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        try:
            futures = {pool.submit(do, job): folder for folder, job in todo.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for child processes, put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _guarded(job: Job, root: Path, device: str | None, checkpoint_seconds: float, show: bool = False) -> str | None:
    """Do a job; one that cannot be done does not stop the others. Returns the reason."""
    try:
        _do(job, root, device, checkpoint_seconds, show)
    except (ValueError, ImportError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def _do(job: Job, root: Path, device: str | None, checkpoint_seconds: float, show: bool) -> None:
    """Fit, measure, and move the whole folder into place at the end; a killed fit goes on from what it kept."""
    from sasnet_ns.training.checkpoint import Checkpoint

    final = job.folder(root)
    checkpoint = Checkpoint(final.with_name(f"{final.name}.training.pt"), checkpoint_seconds)
    partial = final.with_name(final.name + f".partial{os.getpid()}")
    for left in final.parent.glob(f"{final.name}.partial*"):
        if not _alive(int(left.name.rpartition("partial")[2])) or left == partial:
            shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if job.kind == "shape":
            _fit_shape(job, partial, device, show, checkpoint)
        else:
            _fit_grid(job, partial, device, show, checkpoint)
        write_json(partial / "job.json", dataclasses.asdict(job))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_folder(final.parent)
        checkpoint.remove()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _alive(process: int) -> bool:
    """Whether a process of this machine still runs; a killed one leaves a partial folder behind."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def load_signal(job: Job) -> Any:
    """The image or volume of a job."""
    from sasnet_ns.fitting.signal import read_image
    from sasnet_ns.fitting.toy_image import toy_image
    from sasnet_ns.fitting.volume import read_volume

    if job.data.startswith("toy:"):
        return toy_image(int(job.data[4:]))
    return read_image(job.data, job.size) if job.kind == "image" else read_volume(job.data, size=job.size)


def _fit_grid(job: Job, folder: Path, device: str | None, show: bool, checkpoint: Checkpoint) -> None:
    from sasnet_ns.fitting.grid_fit import GridFit, fit_grid
    from sasnet_ns.fitting.image import write_image_results
    from sasnet_ns.fitting.image_metrics import EdgeRegion
    from sasnet_ns.fitting.volume import write_volume_results
    from sasnet_ns.training.config import config_from

    signal = load_signal(job)
    config = config_from(GridFit, sized(job.fit, len(signal.grid), signal.channels), job.label)
    # Kernels are compiled or loaded before the history's clock runs.
    fit_grid(signal, replace(config, recipe=replace(config.recipe, steps=1)), device=device, progress=False)
    fitted = fit_grid(signal, config, device=device, progress=show, checkpoint=checkpoint)
    if fitted.interrupted:
        raise KeyboardInterrupt
    if job.kind == "image":
        write_image_results(fitted, folder, EdgeRegion(**job.region), draw=False)
    else:
        write_volume_results(fitted, folder, draw=False)


def _fit_shape(job: Job, folder: Path, device: str | None, show: bool, checkpoint: Checkpoint) -> None:
    from sasnet_ns.fitting import ShapeFit, fit_shape
    from sasnet_ns.shapes.named import resolve_mesh
    from sasnet_ns.training.config import config_from
    from sdf_tools.errors import ShapeError
    from sdf_tools.io.writing import save_mesh
    from sdf_tools.metrics import evaluate

    config = config_from(ShapeFit, sized(job.fit, 3, 1), job.label)
    fitted = fit_shape(job.data, config, device=device, progress=show, checkpoint=checkpoint)
    if fitted.interrupted:
        raise KeyboardInterrupt
    fitted.field.save(folder / "field.pt")
    write_json(folder / "history.json", {"loss": fitted.losses}, indent=None)
    content: dict[str, Any] = {"parameters": fitted.field.network.parameter_count(), "steps": config.recipe.steps}
    try:
        mesh = fitted.extract_mesh(job.resolution)
    except ShapeError as error:
        content["surface"] = str(error)
    else:
        save_mesh(mesh, folder / "mesh.ply")
        found = evaluate(mesh, resolve_mesh(job.data), samples=job.samples, iou_samples=5 * job.samples)
        content |= {key: value for key, value in found.to_dict().items() if isinstance(value, int | float)}
    write_json(folder / "metrics.json", content)


def sized(fit: dict[str, Any], in_dim: int, out_dim: int) -> dict[str, Any]:
    """A fit's fields with its network sized to ``parameters``, where that is given."""
    from sasnet_ns.networks.sizes import sized_options

    fit = dict(fit)
    parameters = fit.pop("parameters", None)
    if parameters is not None:
        fit["network_config"] = sized_options(
            fit["network"], in_dim, out_dim, parameters, **(fit.get("network_config") or {})
        )
    return fit
