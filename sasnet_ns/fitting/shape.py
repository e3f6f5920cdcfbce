"""From a shape to a signed distance field in one call, without nerfstudio."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.shapes.prepare import prepare_shape
from sasnet_ns.training.loop import History, Report, progress_bar, train
from sasnet_ns.training.objective import SDFObjective, sdf_losses
from sasnet_ns.training.recipe import Recipe
from sasnet_ns.training.sphere_start import start_as_sphere

if TYPE_CHECKING:
    from sdf_tools.geometry import Mesh, NormalizedShape, Shape
    from sdf_tools.pools import SDFPool


@dataclass
class ShapeFit:
    """How :func:`fit_shape` trains; the defaults are those of ``ns-train sasnet-sdf``."""

    network: str = "sasnet"
    """Registry name of the network."""
    network_config: dict[str, Any] | None = None
    """Options of the network; None takes :func:`default_network_config`."""
    recipe: Recipe = field(default_factory=Recipe)
    """Optimiser and schedule."""
    objective: SDFObjective = field(default_factory=SDFObjective)
    """Loss terms."""
    points_per_batch: int = 2_500
    """Points in an optimisation step (paper: 10,000)."""
    pool_size: int = 1_000_000
    """Points whose signed distance is computed before training."""
    fine_scale: float = 0.001
    """Laplace scale of the fine samples around the surface, box units (paper: 0.001)."""
    coarse_scales: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Laplace scales that share the coarse samples, box units (paper: 0.1 alone)."""
    uniform_share: float = 0.15
    """Share of each batch drawn uniformly from the box, which keeps stray sheets out of empty space (paper: 0)."""
    seed: int = 0
    """Seed of weights, samples and batches."""


def default_network_config(network: str) -> dict[str, Any]:
    """Options that fitting starts from: for SASNet the preset whose parameters go further in a short run."""
    return {"preset": "sdf_fast"} if network == "sasnet" else {}


@dataclass
class FittedShape:
    """A trained field and the shape it was trained on.

    Attributes:
        field: signed distance in box units; ``field.save(path)`` keeps it.
        normalized: the shape in box units and the way back to its own.
        losses: loss of every tenth step, the last included.
        interrupted: whether Ctrl-C ended training early.
    """

    field: SignedDistanceField
    normalized: NormalizedShape
    losses: list[float]
    interrupted: bool = False

    def extract_mesh(
        self,
        resolution: int = 512,
        bounds: Sequence[Sequence[float]] = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)),
        level: float = 0.0,
        *,
        method: Literal["marching_cubes", "dual_contouring"] = "marching_cubes",
        search: Literal["auto", "lipschitz", "growth"] = "auto",
        lipschitz: float | None = None,
        coarse_resolution: int = 64,
        probes: int = 16_384,
        refine_steps: int = 0,
        normals: bool = False,
        cap: bool = False,
        chunk: int | None = None,
        seed: int = 0,
        progress: Callable[[str, int], None] | None = None,
    ) -> Mesh:
        """The surface in the shape's own units; options as for ``sdf_tools.extract_meshes``, in box units.

        Raises:
            ShapeError: the field has no surface.
        """
        from sdf_tools.extraction import extract_mesh

        mesh = extract_mesh(
            self.field, resolution, bounds, level, method=method, search=search, lipschitz=lipschitz,
            coarse_resolution=coarse_resolution, probes=probes, refine_steps=refine_steps, normals=normals, cap=cap,
            chunk=chunk, seed=seed, progress=progress,
        )  # fmt: skip
        return self.normalized.mesh_to_world(mesh)


def fit_shape(
    shape: Shape | str,
    config: ShapeFit | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool | Callable[[int, float], None] = True,
) -> FittedShape:
    """Fit a network to the signed distance of a shape.

    Args:
        shape: a mesh or point cloud in any units, a name (``armadillo``), or a file. A cloud without normals gets
            estimated ones, turned outward by the winding number; with ``objective.loss = "sign_agnostic"`` it needs
            none, because the network finds the sides itself, from the distance of a sphere that it starts as.
        config: see :class:`ShapeFit`.
        device: default CUDA if there is one, else the CPU.
        progress: True for a progress bar, or a function called with the step and the loss every tenth step.

    Returns:
        The field and its frame. Ctrl-C ends training early and keeps what is there.

    Raises:
        ShapeError: the shape cannot be fitted.
        ValueError: the loss is no longer a finite number.
    """
    config = config or ShapeFit()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    agnostic = config.objective.loss == "sign_agnostic"
    normalized = prepare_shape(shape, normals=not agnostic)
    from sdf_tools.pools import build_sdf_pool

    pool = build_sdf_pool(
        normalized.shape,
        config.pool_size,
        uniform_share=config.uniform_share,
        seed=config.seed,
        sign="unsigned" if agnostic else "auto",
    ).to(device)
    options = default_network_config(config.network) if config.network_config is None else config.network_config
    torch.manual_seed(config.seed)
    sdf = SignedDistanceField(config.network, options, normalized.center, normalized.scale).to(device)
    fitted = FittedShape(sdf, normalized, [])
    bar = (
        contextlib.nullcontext(progress)
        if callable(progress)
        else progress_bar(progress, config.recipe.steps, "fitting")
    )
    with bar as report:
        try:
            if agnostic:
                start_as_sphere(sdf, config.recipe, config.points_per_batch, config.seed)
            _train(fitted, pool, config, report)
        except KeyboardInterrupt:
            fitted.interrupted = True
    return fitted


def _train(fitted: FittedShape, pool: SDFPool, config: ShapeFit, report: Report) -> None:
    def loss_at(step: int) -> Tensor:
        batch = pool.batch(config.points_per_batch, step)
        losses, _ = sdf_losses(fitted.field, batch, config.objective, step / config.recipe.steps)
        return torch.stack(list(losses.values())).sum()

    train(fitted.field.network, config.recipe, loss_at, report=report, history=History(loss=fitted.losses))
