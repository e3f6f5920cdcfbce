"""One shape of a data set: from a file to a field beside the others and its row of the table."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import stat
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from sasnet_ns.datasets.rows import Row, field_path, initial_path
from sasnet_ns.datasets.surfaces import keep_surface
from sasnet_ns.fitting.batch import TrainedBatch, check_batch, train_batch
from sasnet_ns.fitting.shape import PreparedFit, ShapeFit, default_network_config, fit_prepared, prepare_fit
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training.config import config_from, option_value
from sasnet_ns.training.devices import chosen_device
from sasnet_ns.training.loop import seeded
from sdf_tools.errors import MissingLibraryError, ShapeError
from sdf_tools.geometry import Mesh, PointCloud, Shape
from sdf_tools.io.writing import write_atomically

if TYPE_CHECKING:
    from sasnet_ns.fitting.shape import FittedShape

_PROBE_STEPS = 40
_RESOLUTION = 8192  # the most that an extraction takes
_CHUNK = 1 << 20


@dataclass
class FitOptions:
    """How every shape of a data set is fitted, measured and kept.

    Raises:
        ValueError: an option has a value that no shape can be fitted with.
    """

    output: Path
    """Folder of the data set."""
    fit: ShapeFit = field(default_factory=ShapeFit)
    """Network, recipe, objective and samples."""
    seconds: float | None = None
    """Time for the optimisation of each shape instead of ``fit.recipe.steps``: the number of steps that fit into it is
    estimated from the steps before, so the learning rate still comes to its end."""
    mend: Literal["none", "clean", "repair"] = "clean"
    """What happens to a mesh before the fit: nothing; duplicates dropped and triangles turned outward; holes filled as
    well (and remeshed where that is not enough)."""
    shared_init: bool = False
    """Start all fields from the same weights, drawn with ``fit.seed``; otherwise seeds follow from it and the file's
    content. Samples are drawn with the same seed as the weights."""
    resolution: int = 128
    """Cells along the box of the mesh that is measured (and kept, with ``mesh``); 0 measures nothing."""
    samples: int = 20_000
    """Points on each surface for distances and normals; five times as many measure the IoU."""
    mesh: bool = False
    """Keep that mesh, in the shape's own units, as ``meshes/KEY.ply``."""
    thumbnail: int = 0
    """Side of a picture of that mesh in pixels, ``thumbnails/KEY.png``; 0 for none."""
    device: str | None = None
    """cpu or cuda; CUDA where there is one if left out."""

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be more than 0, not {self.seconds:g}.")
        if self.fit.seconds is not None:  # one budget, which with_overrides and rows speak of
            self.seconds = self.fit.seconds if self.seconds is None else self.seconds
            self.fit = dataclasses.replace(self.fit, seconds=None)
        if self.mend not in ("none", "clean", "repair"):
            raise ValueError(f"mend must be none, clean or repair, not '{self.mend}'.")
        if not 0 <= self.resolution <= _RESOLUTION:
            raise ValueError(f"resolution must lie between 0 and {_RESOLUTION} cells, not {self.resolution}.")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}.")
        if self.thumbnail and not 16 <= self.thumbnail <= _RESOLUTION:
            raise ValueError(f"thumbnail must be 0 or between 16 and {_RESOLUTION} pixels, not {self.thumbnail}.")
        if (self.mesh or self.thumbnail) and not self.resolution:
            raise ValueError("a mesh or a thumbnail needs a resolution above 0: it is the measured mesh that is kept.")
        if self.device is not None and self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, not '{self.device}'.")

    def room(self) -> int:
        """Bytes on the disk that a shape takes, about: its field, its row, a mesh and a picture if they are wanted."""
        field, _ = initial_weights(self)
        mesh = 100 * self.resolution**2 if self.mesh else 0  # two vertices, four triangles for a cell of each side
        return len(field_bytes(field)) + 4096 + mesh + 4 * self.thumbnail**2

    def with_overrides(self, overrides: dict[str, Any], where: str) -> FitOptions:
        """The options of one row: names of these options or of ShapeFit's, nested ones with dots (``recipe.steps``).

        Args:
            overrides: name to value, numbers may be text; those of ``network_config`` are YAML, as on a command line.
            where: what messages call their source.

        Raises:
            ValueError: a name does not exist, or a value has the wrong type or is out of range.
        """
        if not overrides:
            return self
        own = {name: overrides[name] for name in overrides if name in ROW_OPTIONS}
        if "steps" in overrides or "recipe.steps" in overrides:
            own.setdefault("seconds", None)  # a number of steps goes before the whole set's time
        fit: dict[str, Any] = dataclasses.asdict(self.fit)
        if fit["network_config"] is None and any(name.startswith("network_config.") for name in overrides):
            fit["network_config"] = default_network_config(str(overrides.get("network", self.fit.network)))
        for name, value in overrides.items():
            if name in own:
                continue
            *parents, last = ("recipe.steps" if name == "steps" else name).split(".")
            place = fit
            for parent in parents:
                if not isinstance(place.get(parent), dict):
                    raise ValueError(f"{where}: '{name}' is no option: '{parent}' has no parts.")
                place = place[parent]
            textual = parents[:1] == ["network_config"] and isinstance(value, str)
            place[last] = option_value(value, f"{where}: '{name}'") if textual else value
        changed: dict[str, Any] = {"fit": config_from(ShapeFit, fit, where)}
        typed = config_from(_RowOptions, own, where)
        try:
            return dataclasses.replace(self, **changed, **{name: getattr(typed, name) for name in own})
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def configuration_hash(self) -> str:
        """SHA-256 of everything that decides what the field and its row are; not of where things are."""
        content = dataclasses.asdict(self)
        for name in ("output", "device", "mesh", "thumbnail"):
            del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass
class _RowOptions:
    seconds: float | None = None
    mend: Literal["none", "clean", "repair"] = "clean"
    resolution: int = 128
    samples: int = 20_000


ROW_OPTIONS = tuple(item.name for item in dataclasses.fields(_RowOptions))
"""Options besides ShapeFit's that a row of a list may set."""


def fit_one(path: str | os.PathLike[str], options: FitOptions, name: str | None = None) -> Row:
    """Fit, measure and keep one shape; every error becomes the row's sentence.

    The field is ``OUTPUT/fields/KEY.pt``, a file of :meth:`SignedDistanceField.save`'s form whose bytes depend on the
    shape and the configuration alone, so that fitting a shape twice does no harm.

    Args:
        path: the shape's file.
        options: how.
        name: what the row calls the path; the path itself if None.

    Returns:
        The row. Ctrl-C passes through.
    """
    row = _new_row(path, options, name)
    with _noted(row):
        begun = _begin(Path(path), options, row)
        _finish(_train(begun, options.seconds, row), begun, options, row)
    return row


def fit_together(shapes: Sequence[tuple[str | os.PathLike[str], str]], options: FitOptions) -> Iterator[Row]:
    """:func:`fit_one` for several shapes whose networks are trained in the same steps.

    On a CPU each field is the one of a fit on one thread, whatever the others are. A shape that cannot be read, or
    whose network runs away, harms no other. Where networks cannot be trained together
    (:func:`sasnet_ns.fitting.batch.check_batch`), they are fitted one after the other.

    Args:
        shapes: file and name of each.
        options: of all.

    Yields:
        A row a shape, in no order; ``seconds`` and ``fit_seconds`` have its share of the common training.
    """
    try:
        check_batch(options.fit)
    except ValueError:
        together = False
    else:
        together = options.seconds is None
    if not together:
        yield from (fit_one(path, options, name) for path, name in shapes)
        return
    begun: list[tuple[Row, _Begun]] = []
    for path, name in shapes:
        row = _new_row(path, options, name)
        with _noted(row):
            begun.append((row, _begin(Path(path), options, row)))
        if row.error is not None:
            yield row
    if not begun:
        return
    started = time.perf_counter()
    try:
        trained = train_batch([own.prepared for _, own in begun], [own.config for _, own in begun], progress=False)
    except Exception as error:  # most likely memory: each by itself needs less of it
        traceback.print_exc(file=sys.stderr)
        trained = TrainedBatch([], dict.fromkeys(range(len(begun)), one_line(str(error))), torch.get_num_threads())
    share = (time.perf_counter() - started) / len(begun)
    if any(one.interrupted for one in trained.fitted):
        raise KeyboardInterrupt
    for k, (row, own) in enumerate(begun):
        row.seconds = round((row.seconds or 0.0) + share, 3)
        with _noted(row):
            if k in trained.away:
                warnings.warn(f"fitted again by itself: {trained.away[k]}", stacklevel=1)
                fitted = _train(own, None, row)
            else:
                fitted, row.fit_seconds, row.threads = trained.fitted[k], round(share, 3), trained.threads
                row.steps = own.config.recipe.steps
            _finish(fitted, own, options, row)
        yield row


def _new_row(path: str | os.PathLike[str], options: FitOptions, name: str | None) -> Row:
    return Row(path=os.fspath(path) if name is None else name, configuration_hash=options.configuration_hash())


@contextlib.contextmanager
def _noted(row: Row) -> Iterator[None]:
    """Errors and warnings of what is inside go into the row, and its time is added; Ctrl-C passes through."""
    started = time.perf_counter()
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield
    except (ShapeError, MissingLibraryError, ValueError) as error:
        row.error = one_line(str(error))
    except MemoryError as error:
        row.status, row.error = "memory", one_line(f"memory ran out: {error}")
    except Exception as error:  # whatever a file does to a library must not stop the others
        traceback.print_exc(file=sys.stderr)
        row.error = one_line(f"{type(error).__name__}: {error}")
    ours = [str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning)]
    said = [row.warnings] if row.warnings else []
    row.warnings = one_line(" ".join(dict.fromkeys(said + ours))) or None
    row.seconds = round((row.seconds or 0.0) + time.perf_counter() - started, 3)


def one_line(text: str, length: int = 500) -> str:
    """A text in one line of at most ``length`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


@dataclass
class _Begun:
    """A shape that is ready to be fitted."""

    shape: Shape
    prepared: PreparedFit
    config: ShapeFit
    configuration: str


def _begin(path: Path, options: FitOptions, row: Row) -> _Begun:
    row.versions = versions()
    row.content_hash = hash_file(path, row)
    assert row.configuration_hash is not None
    row.key = f"{row.content_hash[:32]}-{row.configuration_hash[:8]}"
    shape = _read(path, options, row)
    device = chosen_device(options.device)
    row.device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    row.threads = torch.get_num_threads()
    row.seed = options.fit.seed if options.shared_init else seed_of(options.fit.seed, row.content_hash)
    row.initial_hash = keep_initial_weights(options) if options.shared_init else None
    config = dataclasses.replace(options.fit, seed=row.seed)
    return _Begun(shape, prepare_fit(shape, config, device), config, row.configuration_hash)


def _finish(fitted: FittedShape, begun: _Begun, options: FitOptions, row: Row) -> None:
    row.loss = fitted.losses[-1] if fitted.losses else None
    row.parameters = fitted.field.network.parameter_count()
    if options.resolution:
        _measure(fitted, begun.shape, options, row)
    data = field_bytes(fitted.field.cpu())
    row.field_bytes, row.field_hash = len(data), hashlib.sha256(data).hexdigest()
    assert row.key is not None
    write_atomically(field_path(options.output, row.key), data)
    row.status = "fitted"


def field_bytes(sdf: SignedDistanceField) -> bytes:
    """The file of a field, the same bytes for the same weights: torch writes a file's own name into it otherwise."""
    buffer = io.BytesIO()
    torch.save({"description": sdf.description, "state": sdf.state_dict()}, buffer)
    return buffer.getvalue()


def hash_file(path: Path, row: Row) -> str:
    """SHA-256 of a regular file; its size and time go into the row.

    Raises:
        ShapeError: it is missing, no regular file, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ShapeError(f"'{path.name}' is not a file; give one mesh or point cloud a row.")
        row.input_bytes, row.input_mtime_ns = status.st_size, status.st_mtime_ns
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
    except OSError as error:
        raise ShapeError(f"'{path.name}' cannot be read: {error.strerror or error}.") from None
    return digest.hexdigest()


def seed_of(seed: int, content_hash: str) -> int:
    """A seed of its own for each content, from the data set's; below 2^31, which every library takes."""
    return int.from_bytes(hashlib.sha256(f"{seed} {content_hash}".encode()).digest()[:4], "big") >> 1


@functools.cache
def versions() -> str:
    """This package, torch and numpy, by version."""
    from importlib import metadata

    try:
        own = metadata.version("sasnet-ns")
    except metadata.PackageNotFoundError:  # run from a clone that is not installed
        own = "not installed"
    return f"sasnet_ns {own}, torch {torch.__version__}, numpy {np.__version__}"


def initial_weights(options: FitOptions) -> tuple[SignedDistanceField, str]:
    """The field that all fits of a configuration begin with under ``shared_init``, and the SHA-256 of its weights.

    A network that looks at its shape before training, or a sign-agnostic fit, goes on from there by its own way.

    Raises:
        ValueError: the options make no network, or the objective has terms that it has nothing for.
    """
    config = options.fit
    network = default_network_config(config.network) if config.network_config is None else config.network_config
    with seeded(config.seed):
        sdf = SignedDistanceField(config.network, network)
    config.objective.check_network(sdf.network, config.network)
    return sdf, weights_hash(sdf)


def keep_initial_weights(options: FitOptions) -> str:
    """Write what :func:`initial_weights` gives beside the fields, unless it is there; the SHA-256 of the weights."""
    sdf, digest = initial_weights(options)
    path = initial_path(options.output, options.configuration_hash())
    if not path.exists():
        write_atomically(path, field_bytes(sdf))
    return digest


def weights_hash(sdf: SignedDistanceField) -> str:
    """SHA-256 of the trained values of a field."""
    digest = hashlib.sha256()
    for parameter in sdf.network.parameters():
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, options: FitOptions, row: Row) -> Shape:
    from sdf_tools.io.loading import load, validate_for_fitting
    from sdf_tools.mesh import repair
    from sdf_tools.topology import is_watertight

    shape = load(path)
    if isinstance(shape, PointCloud):
        row.kind, row.vertices = "point cloud", shape.points.shape[0]
        return shape
    row.kind, row.vertices, row.faces = "mesh", shape.vertices.shape[0], shape.faces.shape[0]
    validate_for_fitting(shape)
    if options.mend != "none":
        whole = options.mend == "repair"
        shape, changes = repair(shape, fill_holes=whole, remesh=None if whole else False)
        row.mended = one_line("; ".join(changes)) or None
    row.watertight = is_watertight(shape.faces.numpy())
    return shape


_seconds_a_step: dict[str, float] = {}
"""Configuration to the time of a step as it was in this process last."""


def _train(begun: _Begun, budget: float | None, row: Row) -> FittedShape:
    times: list[tuple[int, float]] = []

    def watch(done: int, loss: float) -> None:
        times.append((done, time.perf_counter()))

    def run(steps: int) -> FittedShape:
        times.clear()
        recipe = dataclasses.replace(begun.config.recipe, steps=steps)
        result = fit_prepared(begun.prepared, dataclasses.replace(begun.config, recipe=recipe), progress=watch)
        if result.interrupted:
            raise KeyboardInterrupt
        if len(times) > 1:
            _seconds_a_step[begun.configuration] = (times[-1][1] - times[0][1]) / (times[-1][0] - times[0][0])
        return result

    row.steps = begun.config.recipe.steps
    if budget is not None:
        if begun.configuration not in _seconds_a_step:
            run(_PROBE_STEPS)
        row.steps = max(1, round(budget / _seconds_a_step[begun.configuration]))
    result = run(row.steps)
    row.steps = result.history.step[-1] if result.history.step else 0
    row.fit_seconds = round(_seconds_a_step.get(begun.configuration, 0.0) * row.steps, 3)
    return result


@torch.no_grad()
def _measure(fitted: FittedShape, shape: Shape, options: FitOptions, row: Row) -> None:
    from sdf_tools.distance import SignedDistance
    from sdf_tools.metrics import evaluate

    try:
        mesh = fitted.extract_mesh(options.resolution)
    except ShapeError:
        raise ShapeError(f"the field has no surface after {row.steps:,} steps; give it more (--steps).") from None
    row.mesh_faces = mesh.faces.shape[0]
    if isinstance(shape, Mesh):
        result = evaluate(mesh, shape, samples=options.samples, iou_samples=5 * options.samples, paper=False)
        row.iou, row.accuracy, row.completeness, row.normal_error = (
            None if value != value else value
            for value in (result.iou, result.accuracy_mean, result.completeness_mean, result.normal_error_mean)
        )
    else:
        distance = SignedDistance(mesh, sign="unsigned")(shape.points)
        row.completeness = float(distance.mean()) * fitted.normalized.scale
    assert row.key is not None
    keep_surface(mesh, row.key, options)
