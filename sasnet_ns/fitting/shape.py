"""From a shape to a signed distance field in one call, without nerfstudio."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sasnet_ns.networks import SASNetConfig, SignedDistanceField
from sasnet_ns.shapes.prepare import prepare_shape, require_inside
from sasnet_ns.training.budget import steps_within
from sasnet_ns.training.checkpoint import Checkpoint
from sasnet_ns.training.device_steps import DeviceSteps, why_no_graph, why_not_optimizers
from sasnet_ns.training.devices import chosen_device
from sasnet_ns.training.loop import History, Report, StepMaker, progress_bar, seeded, train
from sasnet_ns.training.objective import SDFObjective, SDFStep, look_at_shape
from sasnet_ns.training.options import plain_options, tensor_digest
from sasnet_ns.training.recipe import Recipe, build_optimizers
from sasnet_ns.training.spectrum import describe, fit_spectrum
from sasnet_ns.training.sphere_start import start_as_sphere
from sdf_tools.chunks import in_chunks
from sdf_tools.distance import SignedDistance
from sdf_tools.errors import ShapeWarning
from sdf_tools.pools import PoolConfig, RenewedPool, SDFPool
from sdf_tools.ranges import require

if TYPE_CHECKING:
    from sdf_tools.geometry import Mesh, NormalizedShape, Shape


@dataclass
class ShapeFit(PoolConfig):
    """How :func:`fit_shape` trains; the defaults are those of ``ns-train sasnet-sdf``.

    Raises:
        ValueError: a number is out of range, see :meth:`check`.
    """

    network: str = "sasnet"
    """Registry name of the network."""
    network_config: dict[str, Any] | None = None
    """Options of the network; None takes :func:`default_network_config`."""
    recipe: Recipe = field(default_factory=Recipe)
    """Optimiser and schedule."""
    objective: SDFObjective = field(default_factory=SDFObjective)
    """Loss terms."""
    seconds: float | None = None
    """Seconds of training, instead of the recipe's number of steps: as many as fit, measured beforehand, and the
    schedule spans them. Another number of steps each time, so another result."""
    cuda_graph: bool = False
    """On a CUDA device, record steps and replay them: nothing but the launches is left to the processor. What cannot be
    recorded is refused. Off by default, because it has never run on a device (docs/speed.md)."""
    spectrum: Literal["auto", "as_set"] = "as_set"
    """SASNet's frequencies for noisy clouds: auto lowers the band limit to what the noise leaves room for and says so,
    unless network_config is given. Clouds are cleaned beforehand, and then it gains nothing (docs/choosing.md)."""
    orientation: Literal["check", "guess", "trust"] = "check"
    """How the inside is found. check mends triangles and given normals where that is certain, says so, and refuses what
    would be a guess; guess takes the better guess; trust takes them as they are."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse what nothing can be trained with; again before training, because fields may have been set since.

        Raises:
            ValueError: a number is out of range.
        """
        super().check()
        require("seconds", self.seconds, 0, above=True)
        self.recipe.check()
        self.objective.check()


def default_network_config(network: str, noise: float = 0.0) -> dict[str, Any]:
    """Options that fitting starts from: for SASNet the preset for short runs, which ns-train has as well.

    Args:
        network: registry name.
        noise: of the input, box units; a SASNet's frequencies stay below what it hides.
    """
    if network != "sasnet":
        return {}
    plain = SASNetConfig.sdf_compact()
    fitting = fit_spectrum(plain, noise)
    if fitting == plain:
        return {"preset": "sdf_compact"}
    warnings.warn(f"{describe(fitting, noise)}.", ShapeWarning, stacklevel=3)
    changed = {
        option.name: getattr(fitting, option.name)
        for option in dataclasses.fields(plain)
        if getattr(fitting, option.name) != getattr(plain, option.name)
    }
    return {"preset": "sdf_compact", **changed}


@dataclass
class FittedShape:
    """A trained field and the shape it was trained on.

    Attributes:
        field: signed distance in box units; ``field.save(path)`` keeps it.
        normalized: the shape in box units and the way back to its own.
        history: loss of every tenth step, the last included, and the seconds of training until then.
        interrupted: whether Ctrl-C ended training early.
        iou: intersection over union of the field's inside and the shape's, of up to 50,000 samples of training; None
            where the sides of the shape are unknown.
    """

    field: SignedDistanceField
    normalized: NormalizedShape
    history: History
    interrupted: bool = False
    iou: float | None = None

    @property
    def losses(self) -> list[float]:
        """Loss of every tenth step, the last included."""
        return self.history.loss

    def extract_mesh(
        self,
        resolution: int = 512,
        bounds: Sequence[Sequence[float]] = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)),
        level: float = 0.0,
        *,
        method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
        search: Literal["auto", "growth"] = "auto",
        lipschitz: float | None = None,
        coarse_resolution: int = 64,
        thorough: bool = False,
        probes: int = 16_384,
        refine_steps: int = 0,
        normals: bool = False,
        cap: bool = False,
        chunk: int | None = None,
        seed: int = 0,
        progress: Callable[[str, int], None] | None = None,
        min_component_faces: int = 100,
    ) -> Mesh:
        """The surface in the shape's own units; options as for ``sdf_tools.extract_meshes``, in box units.

        Stray specks of fewer than ``min_component_faces`` triangles are left out, with a warning (see
        ``sdf_tools.extraction.drop_specks``); 0 keeps them.

        Raises:
            ShapeError: the field has no surface.
        """
        from sdf_tools.extraction import drop_specks, extract_mesh

        mesh = extract_mesh(
            self.field, resolution, bounds, level, method=method, search=search, lipschitz=lipschitz,
            coarse_resolution=coarse_resolution, thorough=thorough, probes=probes, refine_steps=refine_steps,
            normals=normals, cap=cap, chunk=chunk, seed=seed, progress=progress,
        )  # fmt: skip
        mesh, left_out = drop_specks(mesh, min_component_faces)
        if left_out:
            warnings.warn(left_out, stacklevel=2)
        return self.normalized.mesh_to_world(mesh)


@torch.inference_mode(False)  # records gradients, whatever the caller does
def fit_shape(
    shape: Shape | str,
    config: ShapeFit | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool | Callable[[int, float], None] = True,
    checkpoint: Checkpoint | None = None,
) -> FittedShape:
    """Fit a network to the signed distance of a shape.

    Args:
        shape: a mesh or point cloud in any units, a name (``armadillo``), or a file. A cloud without normals gets
            estimated ones, turned outward by the winding number; with ``objective.loss = "sign_agnostic"`` it needs
            none, because the network finds the sides itself, from the distance of a sphere that it starts as.
        config: see :class:`ShapeFit`.
        device: default CUDA if there is one, else the CPU.
        progress: True for a progress bar, or a function called with the step and the loss every tenth step.
        checkpoint: where training keeps its state and goes on from, see :func:`sasnet_ns.training.loop.train`; its
            options are filled in. Remove it once the results are written.

    Returns:
        The field and its frame. Ctrl-C ends training early and keeps what is there.

    Raises:
        ShapeError: the shape cannot be fitted.
        ValueError: a number of the configuration is out of range; this machine has no such device; training diverged,
            also with lower learning rates; the checkpoint is another run's; or ``cuda_graph`` asks for what cannot be.
    """
    config = config or ShapeFit()
    return fit_prepared(prepare_fit(shape, config, device), config, progress, checkpoint)


@dataclass
class PreparedFit:
    """All that comes before the first step of a fit.

    Attributes:
        normalized: the shape in box units.
        distance: of it.
        pool: samples, on the fit's device.
        dealer: of the batches.
    """

    normalized: NormalizedShape
    distance: SignedDistance
    pool: SDFPool
    dealer: SDFPool | RenewedPool


def prepare_fit(shape: Shape | str, config: ShapeFit, device: torch.device | str | None = None) -> PreparedFit:
    """The first part of :func:`fit_shape`, with its arguments and errors."""
    config.check()
    device = chosen_device(device)
    if config.objective.mask_sparsity_weight or config.objective.band_dropout:
        options = default_network_config(config.network) if config.network_config is None else config.network_config
        with seeded(config.seed):  # before minutes of sampling, not after them
            network = SignedDistanceField(config.network, options).network
        config.objective.check_network(network, config.network)
    agnostic = config.objective.loss == "sign_agnostic"
    normalized = prepare_shape(
        shape, normals=not agnostic, orientation=config.orientation, max_points=config.max_points
    )
    distance = SignedDistance(normalized.shape, sign="unsigned" if agnostic else "auto")
    pool = config.build_pool(normalized.shape, distance=distance).to(device)
    if not agnostic:
        require_inside(normalized.shape.name, pool.sdf)
    return PreparedFit(normalized, distance, pool, config.dealer(pool, normalized.shape, distance=distance))


def first_field(prepared: PreparedFit, config: ShapeFit) -> SignedDistanceField:
    """The field that a fit begins with, drawn with the configuration's seed."""
    normalized, options = prepared.normalized, config.network_config
    if options is None:
        options = default_network_config(config.network, normalized.noise if config.spectrum == "auto" else 0.0)
    with seeded(config.seed):
        sdf = SignedDistanceField(config.network, options, normalized.center, normalized.scale)
        sdf = sdf.to(prepared.pool.points.device)
        look_at_shape(sdf, prepared.distance)
    return sdf


def fit_prepared(
    prepared: PreparedFit,
    config: ShapeFit,
    progress: bool | Callable[[int, float], None] = True,
    checkpoint: Checkpoint | None = None,
) -> FittedShape:
    """The rest of :func:`fit_shape`, with its arguments and errors."""
    pool, agnostic = prepared.pool, config.objective.loss == "sign_agnostic"
    sdf = first_field(prepared, config)
    fitted = FittedShape(sdf, prepared.normalized, History())
    kept = None
    if checkpoint is not None:
        data = {"device": pool.points.device.type, "data": tensor_digest(pool.points, pool.sdf)[:12]}
        checkpoint = dataclasses.replace(checkpoint, options={**plain_options(config), **data})
        kept = checkpoint.read()
    if kept is not None:
        config = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, steps=kept["steps"]))
    elif config.seconds is not None:
        count = config.points_per_batch
        recipe = dataclasses.replace(config.recipe)
        recipe.steps = steps_within(
            config.seconds,
            sdf,
            config.objective,
            recipe,
            lambda step: pool.batch(count, step),
            make_steps_of=_step_makers(sdf, pool, config),
        )
        config = dataclasses.replace(config, recipe=recipe)
    bar = (
        contextlib.nullcontext(progress)
        if callable(progress)
        else progress_bar(progress, config.recipe.steps, "fitting")
    )
    with bar as report:
        try:
            if agnostic and kept is None:
                start_as_sphere(sdf, config.recipe, config.points_per_batch, config.seed)
            _train(fitted, prepared, config, report, checkpoint)
        except KeyboardInterrupt:
            fitted.interrupted = True
    if not agnostic:
        fitted.iou = sample_iou(sdf, pool)
    return fitted


@torch.no_grad()
def sample_iou(field: SignedDistanceField, pool: SDFPool) -> float:
    """Overlap of a field's inside and the shape's, of up to 50,000 samples of the pool."""
    stride = max(1, len(pool) // 50_000)
    predicted = in_chunks(field, pool.points[::stride]) < 0
    inside = pool.sdf[::stride] < 0
    return float((predicted & inside).sum() / (predicted | inside).sum().clamp_min(1))


def _train(
    fitted: FittedShape, prepared: PreparedFit, config: ShapeFit, report: Report, checkpoint: Checkpoint | None
) -> None:
    steps = SDFStep(fitted.field, config.objective, config.recipe.steps)

    def loss_at(step: int) -> Tensor:
        losses, _ = steps.losses(prepared.dealer.batch(config.points_per_batch, step), step)
        return functools.reduce(torch.add, losses.values())

    makers = _step_makers(fitted.field, prepared.pool, config)
    train(
        fitted.field.network,
        config.recipe,
        loss_at,
        after_step=steps.finish,
        report=report,
        history=fitted.history,
        checkpoint=checkpoint,
        make_steps=None if makers is None else makers(fitted.field, config.recipe.steps),
    )


def _step_makers(
    field: SignedDistanceField, pool: SDFPool, config: ShapeFit
) -> Callable[[SignedDistanceField, int], StepMaker] | None:
    """What records the steps of a field like this one, given the field and how many; None for the ordinary loop."""
    if not config.cuda_graph:
        return None
    reason = why_no_graph(field, config.objective)
    if reason is None:
        reason = why_not_optimizers(build_optimizers(field.network, config.recipe).values())
    if reason is None and config.recipe.clip_norm is not None:
        reason = "the recipe has clip_norm"
    if reason is None and config.renewed:
        reason = "the pool is renewed"
    if reason is not None:
        raise ValueError(f"cuda_graph: steps cannot be recorded, because {reason}.")
    count, objective = config.points_per_batch, config.objective
    return lambda field, steps: (
        lambda optimizers, rates_at: DeviceSteps(field, objective, pool, count, steps, optimizers, rates_at)
    )
