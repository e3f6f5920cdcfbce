"""Runs that are done once: a job's result lies in a folder named after everything that determines it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdf_tools.io.writing import sync_folder, write_atomically, write_json

if TYPE_CHECKING:
    from sasnet_ns.training.checkpoint import Checkpoint

NOT_DONE = "not run yet"
"""What stands in the place of a result that is only looked for."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine's where it is pinned to some (taskset, containers)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Job:
    """One network on one signal.

    Attributes:
        kind: what is fitted.
        data: a file, or the name of a shape; ``toy:SIZE`` for the toy image, ``smoke:SIZE`` for the smoke volume.
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
        content = _content(self)
        path = Path(self.data)
        content["data"] = [path.name, path.stat().st_size] if path.is_file() else self.data
        key = hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()[:12]
        return root / f"{self.fit['network']}_{path.stem.replace(':', '')}_{key}"

    def result(self, root: Path, rows: Path | None = None) -> dict[str, Any] | None:
        """The metrics of a finished run, its record as ``made``, and its ``folder`` where that is still there.

        None while there is none, or where it is of a file of the same name and size with other content.

        Args:
            root: the runs' folder.
            rows: a folder of kept rows (:func:`row_record`) to look in as well.

        Raises:
            ValueError: what is there is damaged.
        """
        folder = self.folder(root)
        if (folder / "metrics.json").is_file():
            record = read_record(folder / "row.json") if (folder / "row.json").is_file() else {}
            if self._is_of_this_data(record):
                return {
                    **_read(folder / "metrics.json"),
                    **({"made": made(record)} if record else {}),
                    "folder": folder,
                }
        content = None if rows is None else self._kept(rows, folder.name)
        return content and {**content["metrics"], "made": made(content), "curve": content["curve"]}

    def _is_of_this_data(self, record: dict[str, Any]) -> bool:
        """Whether a record is of the file that is there; True where one of them does not say."""
        known, path = record.get("data_sha256"), Path(self.data)
        return known is None or not path.is_file() or known == _digest(path)

    def _kept(self, rows: Path, name: str) -> dict[str, Any] | None:
        """The kept row of this job; where its data is not at hand, that of the same fit to a file of the same place."""
        path = rows / f"{name}.json"
        if path.is_file():
            content = read_record(path)
            return content if self._is_of_this_data(content) else None
        data = Path(self.data)
        if data.is_file():
            return None
        own = json.loads(json.dumps(_content(self), default=list))
        for path in sorted(rows.glob(f"{self.fit['network']}_{data.stem}_*.json")):
            content = read_record(path)
            place = Path(content["job"]["data"])
            if content["job"] == {**own, "data": str(place)} and data.parts[-len(place.parts) :] == place.parts:
                return content
        return None


def _content(job: Job) -> dict[str, Any]:
    """All of a job that determines its result."""
    content = dataclasses.asdict(job)
    del content["label"]
    return content


_RECORD = ("job", "metrics", "curve", "hardware", "date", "seconds", "commit", "threads")


def made(row: dict[str, Any]) -> dict[str, Any]:
    """Of a row's record, what a table cites it by."""
    return {key: row[key] for key in ("hardware", "date", "seconds", "commit", "threads")}


def read_record(path: Path) -> dict[str, Any]:
    """A row's record, see :func:`row_record`.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    content = _read(path)
    if not isinstance(content, dict) or not set(_RECORD) <= content.keys() or "data" not in content["job"]:
        raise ValueError(f"'{path}' is not the record of a run; remove it, or put back what was there.")
    return content


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"'{path}' is damaged; remove it, or put back what was there.") from None


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file, computed once while it stays as it is."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Record:
    """What a finished run's ``row.json`` says besides its numbers.

    Attributes:
        command: that made it.
        hardware: that it ran on.
        data: folder of data sets, whose path is left out.
    """

    command: str = ""
    hardware: str = ""
    data: Path = Path()


def run_jobs(
    jobs: list[Job],
    root: Path,
    workers: int,
    device: str | None,
    checkpoint_seconds: float = 60.0,
    record: Record | None = None,
    rows: Path | None = None,
    no_fit: bool = False,
) -> list[dict[str, Any]]:
    """Do what is not done yet (with ``no_fit`` nothing) and return all results, in the jobs' order.

    A result is that of :meth:`Job.result`, or ``{"error": sentence}``. Ctrl-C passes through; finished runs stay,
    and one that was under way goes on from ``FOLDER.training.pt``, written every ``checkpoint_seconds``. On the CPU
    ``workers`` processes share the cores, each with its part of the threads.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    todo = {str(job.folder(root)): job for job in jobs if job.result(root, rows) is None}
    errors: dict[str, str] = {}
    if len(todo) < len(jobs):
        print(f"{len({str(j.folder(root)) for j in jobs}) - len(todo)} of the runs are there already")
    if no_fit:
        errors, todo = dict.fromkeys(todo, NOT_DONE), {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not todo) as bar:
        task = bar.add_task("runs", total=len(todo))
        do = partial(
            _guarded, root=root, device=device, checkpoint_seconds=checkpoint_seconds, record=record or Record()
        )
        for folder, error in _outcomes(todo, workers, do):
            if error:
                errors[folder] = error
                bar.console.print(f"{todo[folder].label}: {error}")
            bar.update(task, advance=1, description=todo[folder].label)
    results = []
    for job in jobs:
        done = job.result(root, rows)
        results.append({"error": errors[str(job.folder(root))]} if done is None else done)
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
                try:
                    error = future.result()
                except BrokenProcessPool:
                    error = "a worker process was killed, most likely for memory; try --workers 1"
                yield futures[future], error
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


def _guarded(
    job: Job, root: Path, device: str | None, checkpoint_seconds: float, record: Record, show: bool = False
) -> str | None:
    """Do a job; one that cannot be done does not stop the others. Returns the reason.

    Raises:
        OSError: the disk is full, or a folder cannot be written: the others would fare no better.
    """
    try:
        _do(job, root, device, checkpoint_seconds, record, show)
    except OSError:
        raise
    except Exception as error:
        if not isinstance(error, ValueError | ImportError | RuntimeError):
            traceback.print_exc()
        return (str(error).splitlines() or [""])[0] or type(error).__name__
    return None


def _do(job: Job, root: Path, device: str | None, checkpoint_seconds: float, record: Record, show: bool) -> None:
    """Fit, measure, and move the whole folder into place at the end; a killed fit goes on from what it kept."""
    from sasnet_ns.training.checkpoint import Checkpoint

    final = job.folder(root)
    checkpoint = Checkpoint(final.with_name(f"{final.name}.training.pt"), checkpoint_seconds)
    partial = final.with_name(final.name + f".partial{os.getpid()}")
    for left in final.parent.glob(f"{final.name}.partial*"):
        process = left.name.rpartition("partial")[2]
        if process.isdecimal() and (not _alive(int(process)) or left == partial):
            shutil.rmtree(left, ignore_errors=True)
    if final.is_dir():
        warnings.warn(f"'{final}' is of another file '{Path(job.data).name}', and is replaced.", stacklevel=2)
    partial.mkdir(parents=True)
    try:
        if job.kind == "shape":
            _fit_shape(job, partial, device, show, checkpoint)
        else:
            _fit_grid(job, partial, device, show, checkpoint)
        write_json(partial / "job.json", dataclasses.asdict(job))
        write_json(partial / "row.json", row_record(job, partial, record))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_folder(final.parent)
        checkpoint.remove()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def row_record(job: Job, folder: Path, record: Record) -> dict[str, Any]:
    """All that a finished run is cited by: job, numbers, training curve, command, commit, hardware, seconds.

    ``data_sha256`` is of the file that was fitted; None for a named shape and for what is drawn.
    """
    import torch

    data = Path(job.data)
    content = _content(job)
    if data.is_absolute():
        content["data"] = str(data.relative_to(record.data) if data.is_relative_to(record.data) else data.name)
    history = json.loads((folder / "history.json").read_text())
    return {
        "command": record.command,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": record.hardware,
        "threads": torch.get_num_threads(),
        "seed": job.fit.get("seed", 0),
        "seconds": history["seconds"][-1] if history["seconds"] else None,
        "job": content,
        "data_sha256": _digest(data) if data.is_file() else None,
        "metrics": json.loads((folder / "metrics.json").read_text()),
        "curve": thinned(history),
    }


def keep_rows(results: list[dict[str, Any]], rows: Path) -> None:
    """Copy the records of runs that have a folder here, and say which are new."""
    rows.mkdir(parents=True, exist_ok=True)
    for folder in [result["folder"] for result in results if "folder" in result]:
        kept, record = rows / f"{folder.name}.json", folder / "row.json"
        if not record.is_file():
            print(f"{folder} is of an earlier version and has no record to keep; remove it to run it again")
        elif not kept.is_file():
            write_atomically(kept, record.read_bytes())
            print(f"kept as {kept}")
        elif kept.read_bytes() != record.read_bytes():
            print(f"{kept} is of another run and stays; remove it to keep {record} instead")


def thinned(history: dict[str, list[Any]], entries: int = 200) -> dict[str, list[float]]:
    """A training curve of at most so many entries: last step and second of each piece, mean loss over it."""
    count = len(history["loss"])
    ends = sorted({round((k + 1) * count / entries) for k in range(entries)} - {0})
    found: dict[str, list[float]] = {"step": [], "seconds": [], "loss": []}
    for first, last in itertools.pairwise([0, *ends]):
        found["step"].append(history["step"][last - 1])
        found["seconds"].append(round(history["seconds"][last - 1], 3))
        found["loss"].append(statistics.fmean(history["loss"][first:last]))
    return found


def _commit() -> str:
    """The commit of this program, marked where files differ from it; empty outside a repository."""
    call = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    try:
        found = call(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = call(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except OSError:
        return ""
    return f"{found} with changes" if found and changed else found


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
    from sasnet_ns.fitting.smoke_volume import smoke_volume
    from sasnet_ns.fitting.toy_image import toy_image
    from sasnet_ns.fitting.volume import read_volume

    if job.data.startswith("toy:"):
        return toy_image(int(job.data[4:]))
    if job.data.startswith("smoke:"):
        return smoke_volume(int(job.data[6:]))
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
    write_json(folder / "history.json", dataclasses.asdict(fitted.history), indent=None)
    content: dict[str, Any] = {
        "parameters": fitted.field.network.parameter_count(),
        "steps": config.recipe.steps,
        "training_seconds": fitted.history.seconds[-1],
    }
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
