"""What a masked sine network is for, beside grids and SIREN at equal time.

Derivatives, offsets, noise, sparse samples, super-resolution, levels of detail by bands.

Steps are those that take as long as ``STEPS`` of the default network's, one thread (the table of steps is printed
first). Everything is measured against the truth: an implicit shape whose curvature automatic differentiation gives, the
mesh whose samples were noisy or few, the picture before it was made small.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.network import GRID, VARIANTS, prepared, step_times, train_variant
from benchmarks.report import print_table, write_rows
from benchmarks.shapes import SHARED
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from sasnet_ns.fitting import ShapeFit, fit_shape
from sasnet_ns.fitting.grid_fit import GridFit, fit_grid
from sasnet_ns.fitting.image_metrics import psnr
from sasnet_ns.fitting.signal import Signal, read_image, shrink
from sasnet_ns.fitting.volume import read_volume
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training import Recipe, SDFObjective
from sasnet_ns.training.loop import seeded, train
from sasnet_ns.training.objective import SDFStep
from sdf_tools import Evaluation, evaluate, extract_mesh, sample_surface
from sdf_tools.distance import SignedDistance
from sdf_tools.extraction import drop_specks
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.pools import PoolConfig

STEPS = 2000
NETWORKS = ("default", "its grid, ReLU readout", "sasnet-grid", "ngp", "siren")
CHOICES = {
    "default": ("sasnet", {"preset": "sdf_compact"}),
    "its grid, ReLU readout": ("grid", GRID),
    "sasnet-grid": ("sasnet-grid", {}),
    "ngp": ("ngp", {}),
    "siren": ("siren", {}),
}
Figures = dict[str, float]


@dataclass
class Row:
    """One fit's figures."""

    section: str
    network: str
    figures: Figures


def run(json_path: Path | None, quick: bool) -> None:
    """Every section that the JSON file does not hold yet; ``--quick``: a tenth of the steps."""
    torch.set_num_threads(1)
    rows = [] if json_path is None or not json_path.is_file() else [Row(**r) for r in json.loads(json_path.read_text())]
    done = {row.section for row in rows}
    times = step_times("armadillo")
    steps = {name: round(STEPS * times["default"] / times[name]) // (10 if quick else 1) for name in NETWORKS}
    print_table("Steps", ("network",), ("steps", "ms"), [(n, f"{steps[n]:,}", f"{times[n]:.1f}") for n in NETWORKS])
    for section in (derivatives, offsets, noise, sparse, images, volumes, levels):
        title, name = (section.__doc__ or "").splitlines()[0], section.__name__
        if name not in done:
            rows += [Row(name, label, figures) for label, figures in section(steps)]
            write_rows(json_path, rows)
        _show(title, [row for row in rows if row.section == name])


def _show(title: str, rows: list[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    lines = [(row.network, *(f"{row.figures.get(name, float('nan')):.4g}" for name in columns)) for row in rows]
    print_table(title, ("",), columns, lines)


def bumps(x: Tensor) -> Tensor:
    """(N,) an implicit ball of radius 0.36 with waves of two lengths: smooth, with a curvature that is known."""
    coarse = torch.sin(18 * x).prod(-1)
    fine = torch.sin(45 * x + 1).prod(-1)
    return x.norm(dim=-1) - 0.36 - 0.02 * coarse - 0.004 * fine


def mean_curvature(gradient: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """(N,) half the divergence of the unit gradient, by automatic differentiation."""
    x = points.clone().requires_grad_()
    unit = normalize(gradient(x), dim=-1)
    parts = [torch.autograd.grad(unit[:, axis].sum(), x, retain_graph=True)[0][:, axis] for axis in range(3)]
    return 0.5 * torch.stack(parts).sum(0).detach()


def _implicit_gradient(x: Tensor) -> Tensor:
    return torch.autograd.grad(bumps(x).sum(), x, create_graph=True)[0]


def _gradient(field: SignedDistanceField, x: Tensor) -> Tensor:
    return field.value_and_gradient(x)[1]


def derivatives(steps: dict[str, int]) -> Iterator[tuple[str, Figures]]:
    """Derivatives at 5,000 points of a wavy ball: normals, mean curvature against the exact one, spread of |grad f|"""
    mesh = extract_mesh(bumps, 512, refine_steps=3)
    pool = PoolConfig().build_pool(mesh)
    points = sample_surface(mesh, 5_000, seed=3).points
    for _ in range(5):  # from the triangles to the surface itself
        slope = _implicit_gradient(points.requires_grad_()).detach()
        points = (points.detach() - (bumps(points) / slope.square().sum(-1)).detach()[:, None] * slope).detach()
    truth = mean_curvature(_implicit_gradient, points)
    normals = normalize(_implicit_gradient(points.clone().requires_grad_()).detach(), dim=-1)
    for name in NETWORKS:
        field = _trained(name, pool, steps[name]).double()
        curvature = mean_curvature(functools.partial(_gradient, field), points)
        values, gradient = (part.detach() for part in field.value_and_gradient(points))
        cosine = (normalize(gradient, dim=-1) * normals).sum(-1).clamp(-1, 1)
        error = (curvature - truth).abs()
        yield (
            name,
            {
                "|f|, 1e-4": 1e4 * float(values.abs().mean()),
                "normals, deg": float(torch.rad2deg(torch.arccos(cosine)).mean()),
                "curvature, median error / mean": float(error.median() / truth.abs().mean()),
                "curvature, 95 %": float(error.quantile(0.95) / truth.abs().mean()),
                "spread of |grad f|": float(gradient.norm(dim=-1).std()),
            },
        )


def offsets(steps: dict[str, int]) -> Iterator[tuple[str, Figures]]:
    """Offset surfaces of the Armadillo: how far a level set's vertices are from where it should be, 1e-4 box units"""
    frame, pool = prepared("armadillo")
    assert isinstance(frame.shape, Mesh)
    distance = SignedDistance(frame.shape)
    for name in NETWORKS:
        field = _trained(name, pool, steps[name])
        figures: Figures = {}
        for level in (-0.05, -0.02, 0.02, 0.05):
            mesh, _ = drop_specks(extract_mesh(field, 256, level=level))
            error = (distance(mesh.vertices.double()) - level).abs()
            figures[f"{level:+.2f}: mean"] = 1e4 * float(error.mean())
            figures[f"{level:+.2f}: largest"] = 1e4 * float(error.max())
        yield name, figures


def _fitted_cloud(steps: dict[str, int], cloud: PointCloud, truth: Mesh) -> Iterator[tuple[str, Figures]]:
    for name in NETWORKS:
        network, options = CHOICES[name]
        config = ShapeFit(network=network, network_config=dict(options), recipe=Recipe(steps=steps[name]))
        result = evaluate(fit_shape(cloud, config, progress=False).extract_mesh(256), truth, samples=100_000)
        yield name, _surface(result)


def _surface(result: Evaluation) -> Figures:
    return {
        "IoU": result.iou,
        "to truth, 1e-3": 1e3 * result.accuracy_mean,
        "from truth": 1e3 * result.completeness_mean,
        "normals, deg": result.normal_error_mean,
        "pieces": result.components_prediction,
        "watertight": float(result.watertight_prediction),
    }


def noise(steps: dict[str, int]) -> Iterator[tuple[str, Figures]]:
    """30,000 points of the Armadillo with noise of 0.25 % of the diagonal, prepared as every cloud is"""
    truth = _armadillo()
    diagonal = float((truth.vertices.amax(0) - truth.vertices.amin(0)).norm())
    samples = sample_surface(truth, 30_000, seed=1).points
    shaken = samples + 0.0025 * diagonal * torch.randn(samples.shape, generator=_generator(), dtype=samples.dtype)
    yield from _fitted_cloud(steps, PointCloud(shaken, name="noisy"), truth)


def sparse(steps: dict[str, int]) -> Iterator[tuple[str, Figures]]:
    """2,000 oriented points of the Armadillo"""
    truth = _armadillo()
    samples = sample_surface(truth, 2_000, seed=1)
    yield from _fitted_cloud(steps, PointCloud(samples.points, samples.normals, name="sparse"), truth)


def images(steps: dict[str, int]) -> Iterator[tuple[str, Figures]]:
    """Super-resolution of images, as many steps each: fitted at half the size, compared with the whole picture, dB"""
    for path in sorted((SHARED / "images" / "kodak").glob("*.png"))[:2]:
        yield from _upsampled(read_image(path, 512), "bicubic", steps["default"])


def volumes(steps: dict[str, int]) -> Iterator[tuple[str, Figures]]:
    """Super-resolution of a volume, as many steps each: fitted at half the size, compared with the whole one, dB"""
    path = SHARED / "volumes" / "cranium_ct.npz"
    if path.is_file():
        yield from _upsampled(shrink(read_volume(path), 96), "trilinear", steps["default"])


def _upsampled(whole: Signal, mode: str, steps: int) -> Iterator[tuple[str, Figures]]:
    grid = tuple(2 * (size // 2) for size in whole.grid)
    values = whole.values[tuple(slice(size) for size in grid)]
    mean = torch.nn.functional.avg_pool2d if len(grid) == 2 else torch.nn.functional.avg_pool3d
    small = dataclasses.replace(whole, values=mean(values.movedim(-1, 0)[None], 2)[0].movedim(0, -1).contiguous())
    resized = interpolate(small.values.movedim(-1, 0)[None], scale_factor=2, mode=mode)[0].movedim(0, -1)
    yield f"{whole.name}: {mode}", {"fitted": float("nan"), "twice the size": psnr(resized.clamp(0, 1), values)}
    for network in ("sasnet", "siren", "ngp"):
        recipe = Recipe(steps=steps // 4, optimizer="adam", learning_rate=1e-3, mask_learning_rate=5e-3)
        if network == "ngp":
            recipe.learning_rate = 5e-3
        fit = fit_grid(small, GridFit(network=network, recipe=recipe, points_per_batch=10_000), progress=False)
        yield (
            f"{whole.name}: {network}",
            {
                "fitted": psnr(fit.field.render().clamp(0, 1), small.values),
                "twice the size": psnr(fit.field.render(scale=2).clamp(0, 1), values),
            },
        )


def levels(steps: dict[str, int]) -> Iterator[tuple[str, Figures]]:
    """Levels of detail from one network, trained with a tenth of the steps without some of its bands"""
    frame, pool = prepared("armadillo")
    assert isinstance(frame.shape, Mesh)
    with seeded(0):
        field = VARIANTS["default"]()
    losses = SDFStep(field, SDFObjective(band_dropout=0.1), steps["default"])

    def loss_at(step: int) -> Tensor:
        terms, _ = losses.losses(pool.batch(PoolConfig.points_per_batch, step), step)
        return functools.reduce(torch.add, terms.values())

    train(field.network, Recipe(steps=steps["default"]), loss_at, report_every=steps["default"])
    for bands in range(5):
        mesh, _ = drop_specks(extract_mesh(functools.partial(field, bands=bands), 320))
        result = evaluate(mesh, frame.shape, samples=100_000)
        yield f"{bands} bands", _surface(result)


def _trained(name: str, pool: object, steps: int) -> SignedDistanceField:
    with seeded(0):
        field = VARIANTS[name]()
    train_variant(field, pool, steps, 0, 1.0)  # type: ignore[arg-type]
    return field


def _armadillo() -> Mesh:
    shape = prepared("armadillo")[0].shape
    assert isinstance(shape, Mesh)
    return shape


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)
