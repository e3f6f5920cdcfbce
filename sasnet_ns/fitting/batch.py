"""Many shapes at once: K networks of one architecture trained together."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from sasnet_ns.fitting.shape import (
    FittedShape,
    PreparedFit,
    ShapeFit,
    default_network_config,
    first_field,
    fit_prepared,
    prepare_fit,
    sample_iou,
)
from sasnet_ns.networks import StackedNetworks, build_network, step_form
from sasnet_ns.training.loop import History, progress_bar
from sasnet_ns.training.sphere_start import start_as_sphere
from sasnet_ns.training.together import StackedPools, check_objective, train_together

if TYPE_CHECKING:
    from sdf_tools.geometry import Shape


@torch.inference_mode(False)  # records gradients, whatever the caller does
def fit_batch(
    shapes: Sequence[Shape | str],
    config: ShapeFit | None = None,
    *,
    seeds: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    progress: bool | Callable[[int, float], None] = True,
) -> list[FittedShape]:
    """Fit K networks of one architecture to K shapes, all in the same steps.

    On a CPU each thread trains whole networks, and every field is bit for bit the one that :func:`fit_shape` gives by
    the compiled step; K should be a multiple of the threads. On CUDA the kernels are launched
    once for all K.

    Args:
        shapes: as :func:`fit_shape` takes them.
        config: of all. Its network is SASNet, SIREN or ngp; band dropout, the sparsity of masks, ``seconds``,
            ``clip_norm``, ``cuda_graph``, SASNet's ``grid_variant`` wisp and SIREN's ``coordinate_scale`` are for one
            network at a time.
        seeds: of each shape's samples and weights, instead of ``config.seed``.
        device: default CUDA if there is one, else the CPU.
        progress: True for a progress bar, or a function called with the step and the mean loss every tenth step.

    Returns:
        A field and its frame for each shape, in their order. Ctrl-C ends training early and keeps what is there. A
        network that runs away is trained again by itself, at lower rates, as :func:`fit_shape` does it.

    Raises:
        ShapeError: a shape cannot be fitted.
        ValueError: the configuration is not for several networks, or training of one diverged, also alone.
    """
    config = config or ShapeFit()
    check_batch(config)
    if seeds is not None and len(seeds) != len(shapes):
        raise ValueError(f"there are {len(shapes)} shapes and {len(seeds)} seeds; give one a shape.")
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds or [config.seed] * len(shapes)]
    prepared = [prepare_fit(shape, own, device) for shape, own in zip(shapes, configs, strict=True)]
    if not prepared:
        return []
    trained = train_batch(prepared, configs, progress)
    for k, reason in trained.away.items():
        name = prepared[k].normalized.shape.name
        warnings.warn(f"'{name}' is fitted again by itself: {reason}", stacklevel=2)
        trained.fitted[k] = fit_prepared(prepared[k], configs[k], progress=False)
    return trained.fitted


@dataclasses.dataclass
class TrainedBatch:
    """What training together leaves.

    Attributes:
        fitted: one a shape.
        away: of those whose network ran away, what was seen; they have to be fitted again by :func:`fit_prepared`.
        threads: processor threads that each network was trained on.
    """

    fitted: list[FittedShape]
    away: dict[int, str]
    threads: int


def check_batch(config: ShapeFit) -> None:
    """Refuse what only one shape at a time can be fitted with.

    Raises:
        ValueError: see :func:`fit_batch`.
    """
    check_objective(config.objective)
    if config.seconds is not None:
        raise ValueError("shapes that are fitted together need a number of steps, not seconds.")
    if config.renewed:
        raise ValueError("shapes that are fitted together have one pool each; leave renewed off.")
    if config.cuda_graph:
        raise ValueError("steps of shapes that are fitted together are not recorded; leave cuda_graph off.")
    if config.network not in ("sasnet", "siren", "ngp"):
        raise ValueError(f"{config.network} cannot be trained together with others; sasnet, siren and ngp can.")
    if config.recipe.clip_norm is not None:
        raise ValueError("gradients of shapes that are fitted together are not clipped; leave recipe.clip_norm out.")
    options = default_network_config(config.network) if config.network_config is None else config.network_config
    with torch.device("meta"):
        network = build_network(config.network, in_dim=3, out_dim=1, **options)
    if step_form(network) is None:
        option = "grid_variant wisp" if config.network == "sasnet" else "a coordinate_scale other than 1"
        raise ValueError(f"{config.network} with {option} is not trained together; fit such shapes one at a time.")


def train_batch(
    prepared: Sequence[PreparedFit],
    configs: Sequence[ShapeFit],
    progress: bool | Callable[[int, float], None] = True,
) -> TrainedBatch:
    """The training of :func:`fit_batch`; at least one shape, configurations that differ in seeds alone."""
    config, agnostic = configs[0], configs[0].objective.loss == "sign_agnostic"
    fields = [first_field(one, own) for one, own in zip(prepared, configs, strict=True)]
    fitted = [FittedShape(sdf, one.normalized, History()) for sdf, one in zip(fields, prepared, strict=True)]
    bar = (
        contextlib.nullcontext(progress)
        if callable(progress)
        else progress_bar(progress, config.recipe.steps, f"fitting {len(prepared)}")
    )
    away: dict[int, str] = {}
    with bar as report:
        networks = None
        try:
            if agnostic:
                for sdf, own in zip(fields, configs, strict=True):
                    start_as_sphere(sdf, own.recipe, own.points_per_batch, own.seed)
            networks = StackedNetworks([sdf.network for sdf in fields])
            pools = StackedPools([one.pool for one in prepared])
            histories = [one.history for one in fitted]
            _, away = train_together(
                networks, pools, config.recipe, config.objective, config.points_per_batch,
                report=report, histories=histories,
            )  # fmt: skip
        except KeyboardInterrupt:
            for one in fitted:
                one.interrupted = True
        if networks is not None:
            networks.write_back()
    for k, one in enumerate(fitted):
        if not agnostic and k not in away:
            one.iou = sample_iou(one.field, prepared[k].pool)
    alone = networks is not None and networks.step.backend == "numba"
    return TrainedBatch(fitted, away, 1 if alone else torch.get_num_threads())
