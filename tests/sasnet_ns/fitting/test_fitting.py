from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sasnet_ns.fitting import Muon, Recipe, SDFObjective, ShapeFit, fit_shape, learning_rate_factor, sdf_losses
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training.config import load_config
from sasnet_ns.training.muon import orthogonalize
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.pools import SDFBatch

ROOT = Path(__file__).resolve().parents[3]


def ball(radius: float = 20.0, center: float = 1000.0, subdivisions: int = 3) -> Mesh:
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(torch.from_numpy(sphere.vertices.copy()) + center, torch.from_numpy(sphere.faces.copy()))


def quick(**changes: object) -> ShapeFit:
    values = {
        "network": "siren",
        "network_config": {"width": 48},
        "recipe": Recipe(steps=150, warmup_steps=5),
        "points_per_batch": 1500,
        "pool_size": 20_000,
        "coarse_scales": (0.1,),
    }
    return ShapeFit(**{**values, **changes})  # type: ignore[arg-type]


def test_a_ball_comes_back_in_its_own_units_and_position():
    fitted = fit_shape(ball(), quick(), progress=False)
    mesh = fitted.extract_mesh(48)
    radius = (mesh.vertices - 1000).norm(dim=1)
    assert abs(float(radius.median()) - 20) < 0.2 and float((radius - 20).abs().quantile(0.9)) < 0.5
    assert fitted.losses[-1] < 0.2 * fitted.losses[0]
    assert fitted.field(torch.zeros(1, 3)).item() < 0 < fitted.field(torch.full((1, 3), 0.5)).item()


def test_same_seed_same_weights_and_progress_is_reported():
    seen: list[int] = []
    runs = [
        fit_shape(ball(), quick(recipe=Recipe(steps=25)), progress=lambda step, loss: seen.append(step)) for _ in "ab"
    ]
    assert seen == [10, 20, 25] * 2
    for a, b in zip(runs[0].field.parameters(), runs[1].field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_points_without_normals_are_oriented_and_fitted():
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator, dtype=torch.float64), dim=1)
    fitted = fit_shape(PointCloud(points), quick(), progress=False)
    assert abs(float(fitted.extract_mesh(32).vertices.norm(dim=1).median()) - 1) < 0.03


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ShapeError):
        fit_shape("no-such-shape", progress=False)
    with pytest.raises(ShapeError):
        fit_shape(PointCloud(torch.rand(10, 3).double()), progress=False)


def test_ctrl_c_keeps_what_is_there():
    def interrupt(step: int, loss: float) -> None:
        raise KeyboardInterrupt

    fitted = fit_shape(ball(), quick(), progress=interrupt)
    assert fitted.interrupted and len(fitted.losses) == 1


def test_muon_orthogonalizes_and_matches_adams_step_size():
    generator = torch.Generator().manual_seed(0)
    for shape in ((40, 64), (64, 40)):
        singular = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=generator)))
        assert singular.min() > 0.5 and singular.max() < 1.3
    weight = torch.nn.Parameter(torch.zeros(40, 64))
    weight.grad = torch.randn(40, 64, generator=generator)
    Muon([weight], lr=0.01).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.25)
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_schedule_by_hand():
    recipe = Recipe(steps=110, warmup_steps=10, final_factor=0.1)
    assert learning_rate_factor(0, recipe) == pytest.approx(0.1)
    assert learning_rate_factor(9, recipe) == 1.0
    assert learning_rate_factor(60, recipe) == pytest.approx(0.55)
    assert learning_rate_factor(110, recipe) == pytest.approx(0.1)
    assert type(learning_rate_factor(60, recipe)) is float


def test_objective_terms_and_their_schedules():
    torch.manual_seed(0)
    field = SignedDistanceField("sasnet", {"hidden_widths": (16, 16), "embedding_width": 32})
    points = torch.rand(40, 3) - 0.5
    batch = SDFBatch(points, points.norm(dim=1) - 0.3, torch.zeros(40, dtype=torch.uint8), (40, 0, 0))
    objective = SDFObjective(eikonal_weight=0.2, eikonal_final_weight=0.0, mask_sparsity_weight=0.1)
    losses, predicted = sdf_losses(field, batch, objective, progress=0.5)
    assert set(losses) == {"sdf", "eikonal", "mask_sparsity"} and predicted.shape == (40,)
    gradient = field.value_and_gradient(points)[1]
    assert losses["eikonal"].item() == pytest.approx(0.1 * (gradient.norm(dim=1) - 1).square().mean().item(), rel=1e-4)
    # 4 + 8 + 8 masks that start at one half: the mean over points of their sum, in every loss alike.
    assert losses["mask_sparsity"].item() == pytest.approx(0.1 * 20 * 0.5, abs=0.05)
    assert set(sdf_losses(field, batch, objective, progress=1.0)[0]) == {"sdf", "mask_sparsity"}
    assert objective.far_weight_at(0.5) == pytest.approx(math.sqrt(objective.far_weight * objective.far_final_weight))
    paper = sdf_losses(field, batch, SDFObjective(loss="coarse_to_fine"))[0]["sdf"]
    assert paper.item() == pytest.approx((predicted - batch.sdf).square().mean().item(), rel=1e-5)


def test_the_papers_recipes_load_as_stated():
    for path in sorted((ROOT / "configs").glob("sdf_paper_*.yaml")):
        config = load_config(path, ShapeFit)
        assert config.recipe.steps == 200_000 and config.points_per_batch == 10_000
        assert config.recipe.learning_rate == 1e-4 and config.recipe.mask_learning_rate == 5e-4
        assert learning_rate_factor(150_000, config.recipe) == 1.0 and config.recipe.optimizer == "adam"
        assert SignedDistanceField(config.network, config.network_config).network.parameter_count() == 130_917


def test_wrong_configurations_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "typo.yaml").write_text("netwrk: sasnet\n")
    with pytest.raises(ValueError, match="'netwrk' is not a field of ShapeFit"):
        load_config(tmp_path / "typo.yaml", ShapeFit)
    (tmp_path / "nested.yaml").write_text("recipe: fast\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        load_config(tmp_path / "nested.yaml", ShapeFit)
    with pytest.raises(ValueError, match="there is no configuration"):
        load_config(tmp_path / "missing.yaml", ShapeFit)
