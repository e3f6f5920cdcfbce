"""Losses for clouds without sides: the sign-agnostic one beside newer ones, at equal processor time of training.

All train the start of ``configs/sdf_sign_agnostic.yaml`` (from a sphere) on the same prepared cloud: the losses with a
SIREN at a low frequency, SASNet's rows with the networks they name, of which the last is the configuration's. Adam and
the schedule are the recipe's, over the time instead of steps. Losses without a distance to compare with (StEik,
Neural-Singular-Hessian, HotSpot) see points of the cloud and points of the box, with their papers' weights. SASNet's
usual frequencies tear the sides apart; with a low range L and band limit B near the SIREN's, or opened band by band, it
keeps them. Noisy clouds and the raw scans are cleaned or not, as named. ``--quick``: one cloud, 5 seconds. Which to
run: ``SASNET_UNSIGNED``, comma-separated clouds and methods with a slash between.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import cloud_cases
from torch import Tensor

from sasnet_ns.fitting.shape import PreparedFit, ShapeFit, first_field, prepare_fit
from sasnet_ns.networks import SASNet, SignedDistanceField
from sasnet_ns.training.config import load_config
from sasnet_ns.training.recipe import build_optimizers, learning_rate_factor
from sasnet_ns.training.sphere_start import start_as_sphere
from sdf_tools import losses
from sdf_tools.extraction import extract_mesh
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.io.writing import write_json
from sdf_tools.reconstruction import drop_crumbs

SECONDS = 20
RESOLUTION = 128
ROOT = Path(__file__).resolve().parents[2]
CLOUDS = ("bunny raw scans", "spot noise 0.5 %", "armadillo noise 0.25 %")
OPENED = 0.6  # share of training after which all bands take part
SURFACE, AROUND = 1500, 1000  # points of a step on the cloud, and in the box


@dataclass
class Step:
    """What a method's loss sees."""

    field: SignedDistanceField
    prepared: PreparedFit
    config: ShapeFit
    share: float
    number: int
    generator: torch.Generator
    bands: int | None = None  # of a SASNet; None for all


def _distances(step: Step) -> Tensor:
    """SAL's error of the distances with today's weights over distance and time, of the pool's points."""
    batch = step.prepared.pool.batch(step.config.points_per_batch, step.number)
    far = step.config.objective.far_weight_at(step.share)
    return losses.distance_weighted_loss(
        step.field(batch.points, step.bands).abs(), batch.sdf, near=step.config.objective.near, far_weight=far
    )


def _box(step: Step) -> Tensor:
    return torch.rand(AROUND, 3, generator=step.generator) - 0.5


def _on_cloud(step: Step) -> Tensor:
    shape = step.prepared.normalized.shape
    points = shape.vertices if isinstance(shape, Mesh) else shape.points
    return points[torch.randint(len(points), (SURFACE,), generator=step.generator)].float()


def _beside(points: Tensor, step: Step) -> Tensor:
    return points + 0.02 * torch.randn(points.shape, generator=step.generator)


def _pool_gradient(step: Step) -> Tensor:
    points = step.prepared.pool.batch(step.config.points_per_batch, step.number).points[::3]
    if step.bands is None:
        return step.field.value_and_gradient(points)[1]
    points = points.clone().requires_grad_()
    return losses.gradient(step.field(points, step.bands), points)


def sign_agnostic(step: Step) -> Tensor:
    """SAL and Eikonal term, the loss of ``configs/sdf_sign_agnostic.yaml``."""
    return _distances(step) + 0.1 * losses.eikonal_loss(_pool_gradient(step))


def sign_agnostic_heat(step: Step) -> Tensor:
    """The same and HotSpot's heat."""
    values, gradient = step.field.value_and_gradient(_box(step))
    return sign_agnostic(step) + 0.1 * losses.heat_loss(values, gradient, 10 + 40 * step.share)


def sign_agnostic_steik(step: Step) -> Tensor:
    """The same and StEik's second derivative along the gradient, which fades over training."""
    points = _box(step).requires_grad_()
    gradient = losses.gradient(step.field(points), points)
    change = losses.hessian_gradient_product(gradient, points)
    fade = max(0.0, 1 - 2 * step.share)
    return sign_agnostic(step) + 1e-3 * fade * losses.directional_divergence_loss(gradient, change)


def sign_agnostic_singular(step: Step) -> Tensor:
    """The same and Neural-Singular-Hessian's determinant near the surface, which fades over training."""
    points = _beside(_on_cloud(step)[:500], step).requires_grad_()
    gradient = losses.gradient(step.field(points), points)
    fade = max(0.0, 1 - 2 * step.share)
    return sign_agnostic(step) + 1e-5 * fade * losses.singular_hessian_loss(losses.hessian(gradient, points))


def hotspot(step: Step) -> Tensor:
    """HotSpot (Wang et al. 2024): boundary, heat, Eikonal, no distances."""
    values, gradient = step.field.value_and_gradient(_box(step))
    near, near_gradient = step.field.value_and_gradient(_beside(_on_cloud(step)[:500], step))
    values, gradient = torch.cat([values, near]), torch.cat([gradient, near_gradient])
    boundary = losses.manifold_loss(step.field(_on_cloud(step)))
    heat = losses.heat_loss(values, gradient, 10 + 40 * step.share)
    return 350 * boundary + 20 * heat + 10 * losses.eikonal_loss(gradient)


def steik(step: Step) -> Tensor:
    """StEik (Yang et al. 2023): SIREN's four terms without normals, and the divergence along the gradient."""
    points = _box(step).requires_grad_()
    values = step.field(points)
    gradient = losses.gradient(values, points)
    change = losses.hessian_gradient_product(gradient, points)
    fade = float(np.interp(step.share, [0, 0.2, 0.4, 1], [1, 1, 1e-3, 0]))
    return (
        3000 * losses.manifold_loss(step.field(_on_cloud(step)))
        + 100 * losses.off_surface_loss(values)
        + 50 * losses.eikonal_loss(gradient, power=1)
        + 100 * fade * losses.directional_divergence_loss(gradient, change)
    )


def singular_hessian(step: Step) -> Tensor:
    """Neural-Singular-Hessian (Wang et al. 2023)."""
    points = _box(step).requires_grad_()
    values = step.field(points)
    gradient = losses.gradient(values, points)
    near = _beside(_on_cloud(step)[:500], step).requires_grad_()
    hessian = losses.hessian(losses.gradient(step.field(near), near), near)
    fade = float(np.interp(step.share, [0, 0.2, 0.4, 1], [1, 1, 1e-2, 0]))
    return (
        7000 * losses.manifold_loss(step.field(_on_cloud(step)))
        + 600 * losses.off_surface_loss(values)
        + 50 * losses.eikonal_loss(gradient, power=1)
        + 3 * fade * losses.singular_hessian_loss(hessian)
    )


METHODS: dict[str, Callable[[Step], Tensor]] = {
    "SAL": sign_agnostic,
    "SASNet of shapes": sign_agnostic,
    "SASNet of shapes opened band by band": sign_agnostic,
    "SASNet L=2 B=12": sign_agnostic,
    "SASNet L=2 B=12 opened band by band": sign_agnostic,
    "SASNet L=1 B=8 without hidden masks": sign_agnostic,
    "SAL + heat": sign_agnostic_heat,
    "SAL + StEik": sign_agnostic_steik,
    "SAL + singular Hessian": sign_agnostic_singular,
    "HotSpot": hotspot,
    "StEik": steik,
    "Neural-Singular-Hessian": singular_hessian,
}


SMOOTH: dict[str, Any] = {"preset": "sdf", "omega_0": 12.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "SASNet of shapes": {"preset": "sdf"},
    "SASNet L=2 B=12": {**SMOOTH, "low_range": 2, "band_limit": 12},
    "SASNet L=1 B=8 without hidden masks": {**SMOOTH, "low_range": 1, "band_limit": 8, "groups": (0, 0)},
}
BY_BAND = " opened band by band"


@dataclass
class Row:
    """One method on one cloud; distances in thousandths of the box."""

    cloud: str
    method: str
    steps: int
    iou: float
    mesh_to_truth: float
    truth_to_mesh: float
    pieces: int
    watertight: bool


def run(json_path: Path | None, quick: bool) -> None:
    """Every method on every cloud."""
    torch.set_num_threads(1)
    clouds, wanted = (os.environ.get("SASNET_UNSIGNED", "") + "/").split("/")[:2]
    names = [name.strip() for name in clouds.split(",") if name.strip()] or list(CLOUDS[1:2] if quick else CLOUDS)
    chosen = [name.strip() for name in wanted.split(",") if name.strip()] or list(METHODS)
    rows = [Row(**row) for row in json.loads(json_path.read_text())] if json_path and json_path.is_file() else []
    for name in names:
        cloud, truth = _cloud(name)
        for method in chosen:
            if any(row.cloud == name and row.method == method for row in rows):
                continue
            field, prepared, steps = train(cloud, method, 5 if quick else SECONDS)
            rows.append(_judge(name, method, field, prepared, truth, steps))
            print(markdown(rows[-1:]), flush=True)
            if json_path is not None:
                write_json(json_path, [dataclasses.asdict(row) for row in rows])


def _cloud(name: str) -> tuple[PointCloud, Mesh]:
    if name == CLOUDS[0]:
        scans, truth = (load(cloud_cases.folder() / f) for f in ("bunny_raw_scans_362k.npz", "bunny_zippered.ply"))
        assert isinstance(scans, PointCloud) and isinstance(truth, Mesh)
        return scans, truth
    shape, case = name.split(" ", 1)
    mesh = cloud_cases.truth(shape)
    assert mesh is not None
    return cloud_cases.make(shape, case, mesh, 30_000, 1).cloud, mesh


def train(cloud: PointCloud, method: str, seconds: float) -> tuple[SignedDistanceField, PreparedFit, int]:
    """A field from the sphere on, for so many processor seconds of steps."""
    config = load_config(ROOT / "configs" / "sdf_sign_agnostic.yaml", ShapeFit)
    sasnet = NETWORKS.get(method.removesuffix(BY_BAND))
    options: dict[str, Any] = {"omega_0": 12.0} if sasnet is None else sasnet
    options = {**options, "implementation": "torch"}  # third derivatives
    config = dataclasses.replace(config, network="siren" if sasnet is None else "sasnet", network_config=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_fit(cloud, config, "cpu")
    field = first_field(prepared, config)
    bands = field.network.config.bands if isinstance(field.network, SASNet) and method.endswith(BY_BAND) else None
    start_as_sphere(field, config.recipe, config.points_per_batch, config.seed, bands=None if bands is None else 0)
    recipe, generator = dataclasses.replace(config.recipe, steps=1000), torch.Generator().manual_seed(0)
    optimizers = list(build_optimizers(field.network, recipe).values())
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    started, number, share = time.process_time(), 0, 0.0
    while share < 1:
        factor = learning_rate_factor(int(1000 * share), recipe)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = factor * rate
            optimizer.zero_grad()
        opened = None if bands is None or share >= OPENED else int(share / OPENED * (bands + 1))
        loss = METHODS[method](Step(field, prepared, config, share, number, generator, opened))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(field.network.parameters(), 10.0)
        for optimizer in optimizers:
            optimizer.step()
        number += 1
        share = (time.process_time() - started) / seconds
    return field, prepared, number


def _judge(name: str, method: str, field: SignedDistanceField, prepared: PreparedFit, truth: Mesh, steps: int) -> Row:
    from sdf_tools.metrics import evaluate
    from sdf_tools.topology import face_components, is_watertight

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mesh = extract_mesh(lambda points: field(points.float()), RESOLUTION)
        except ValueError:  # no surface
            return Row(name, method, steps, 0.0, float("nan"), float("nan"), 0, False)
    pieces = face_components(mesh.faces.numpy())[0]
    mesh = prepared.normalized.mesh_to_world(drop_crumbs(mesh))
    found = evaluate(mesh, truth, samples=50_000, iou_samples=200_000, paper=False)
    iou = float("nan") if name == CLOUDS[0] else found.iou
    return Row(
        name, method, steps, iou, 1e3 * found.accuracy_mean, 1e3 * found.completeness_mean, pieces,
        is_watertight(mesh.faces.numpy()),
    )  # fmt: skip


def markdown(rows: list[Row]) -> str:
    """Rows of a table for the docs."""
    return "\n".join(
        f"| {row.cloud} | {row.method} | {row.steps:,} | {'-' if np.isnan(row.iou) else f'{row.iou:.4f}'} | "
        f"{row.mesh_to_truth:.3f} | {row.truth_to_mesh:.3f} | {row.pieces} |"
        for row in rows
    )
