"""Losses on fields whose derivatives are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from sdf_tools import losses


@pytest.fixture
def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(64, 3, generator=generator, dtype=torch.float64) + 0.2).requires_grad_(True)


def test_coarse_to_fine_by_hand():
    predicted = torch.tensor([0.1, 0.2, 0.3, 0.4])
    target = torch.zeros(4)
    kind = torch.tensor([0, 1, 2, 0], dtype=torch.uint8)
    total = 0.01 + 0.16 + 0.01 * (0.04 + 0.09)
    assert losses.coarse_to_fine_loss(predicted, target, kind, reduction="sum").item() == pytest.approx(total)
    assert losses.coarse_to_fine_loss(predicted, target, kind).item() == pytest.approx(total / 4)
    weighted = losses.coarse_to_fine_loss(
        predicted, target, kind, coarse_weight=0.5, uniform_weight=0.0, reduction="sum"
    )
    assert weighted.item() == pytest.approx(0.17 + 0.5 * 0.04)


def test_coarse_to_fine_weighs_in_the_precision_of_the_values():
    kind = torch.tensor([losses.COARSE, losses.FINE, losses.UNIFORM])
    one = torch.ones(3, dtype=torch.float64)
    assert losses.coarse_to_fine_loss(one, 0 * one, kind, uniform_weight=0.1, reduction="sum") == 0.01 + 1 + 0.1


def test_coarse_to_fine_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="one shape"):
        losses.coarse_to_fine_loss(torch.zeros(4, 1), torch.zeros(4), torch.zeros(4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="reduction"):
        losses.coarse_to_fine_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), reduction="none")


def test_distance_field_of_a_sphere(points):
    radius = points.norm(dim=-1)
    gradient = losses.gradient(radius - 0.3, points)
    hessian = losses.hessian(gradient, points)
    laplacian = losses.laplacian(gradient, points)
    assert torch.allclose(gradient, points / radius[:, None])
    assert torch.allclose(laplacian, 2 / radius)
    assert losses.eikonal_loss(gradient).item() == pytest.approx(0, abs=1e-20)
    assert losses.divergence_loss(laplacian).item() == pytest.approx((2 / radius).mean().item())
    assert losses.curvature_loss(laplacian).item() == losses.divergence_loss(laplacian).item()
    change = losses.hessian_gradient_product(gradient, points)
    assert losses.directional_divergence_loss(gradient, change).item() == pytest.approx(0, abs=1e-12)
    assert losses.singular_hessian_loss(hessian).item() == pytest.approx(0, abs=1e-12)
    assert losses.normal_alignment_loss(gradient, points).item() == pytest.approx(0, abs=1e-12)


def test_quadratic_field(points):
    # f = x^2 + 2 y^2 + 3 z^2: H = diag(2, 4, 6).
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    gradient = losses.gradient((scale * points.square()).sum(-1), points)
    hessian = losses.hessian(gradient, points)
    assert torch.allclose(hessian, torch.diag(2 * scale).expand(64, 3, 3))
    assert losses.singular_hessian_loss(hessian).item() == pytest.approx(48)
    assert losses.divergence_loss(losses.laplacian(gradient, points)).item() == pytest.approx(12)
    change = losses.hessian_gradient_product(gradient, points)
    assert torch.allclose(change, 2 * scale * gradient)
    expected = ((2 * scale * gradient.square()).sum(-1) / gradient.square().sum(-1)).mean()
    assert losses.directional_divergence_loss(gradient, change).item() == pytest.approx(expected.item())


def test_eikonal_powers():
    gradient = torch.tensor([[3.0, 0, 0], [0, 0.5, 0]])
    assert losses.eikonal_loss(gradient).item() == pytest.approx((4 + 0.25) / 2)
    assert losses.eikonal_loss(gradient, power=1).item() == pytest.approx((2 + 0.5) / 2)


def test_surface_and_off_surface_terms():
    values = torch.tensor([0.0, -0.01, 0.02])
    expected = (1 + math.exp(-1) + math.exp(-2)) / 3
    assert losses.off_surface_loss(values, alpha=100).item() == pytest.approx(expected)
    assert losses.manifold_loss(values).item() == pytest.approx(0.01)
    assert losses.sign_agnostic_loss(values, torch.tensor([0.0, 0.01, 0.05])).item() == pytest.approx(0.01)
    assert losses.sign_agnostic_loss(values, -values.abs(), power=2).item() == pytest.approx((4e-4 + 16e-4) / 3)


def test_normal_terms():
    gradient = torch.tensor([[2.0, 0, 0], [0, 1.0, 0]])
    normals = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]])
    assert losses.normal_alignment_loss(gradient, normals).item() == pytest.approx((2 + 1) / 2)
    assert losses.normal_alignment_loss(gradient, normals, signed=False).item() == pytest.approx((0 + 1) / 2)
    assert losses.normal_difference_loss(gradient, normals).item() == pytest.approx((3 + math.sqrt(2)) / 2)


def test_layers_without_masks_have_no_sparsity():
    mask = torch.rand(5, 3)
    assert losses.mask_sparsity_loss([None, mask]) == losses.mask_sparsity_loss([mask])
    assert losses.mask_sparsity_loss([None]) == 0


def test_mask_sparsity_sums_groups_and_averages_points():
    masks = [torch.full((10, 4), 0.5), torch.full((10, 8), 0.25)]
    assert losses.mask_sparsity_loss(masks).item() == pytest.approx(4.0)
    assert losses.mask_sparsity_loss([]).item() == 0


def test_numerical_laplacian_ignores_what_is_finer_than_the_step(points):
    def field(x: torch.Tensor) -> torch.Tensor:
        return x.square().sum(-1) + 1e-3 * torch.sin(2 * math.pi * x[..., 0] / 0.01)

    assert torch.allclose(losses.numerical_laplacian(field, points, 0.01), torch.full((64,), 6.0).double(), atol=1e-6)


def test_everything_reaches_the_parameters(points):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Softplus(10), torch.nn.Linear(16, 1)).double()
    values = network(points)[:, 0]
    gradient = losses.gradient(values, points)
    terms = [
        losses.eikonal_loss(gradient),
        losses.divergence_loss(losses.laplacian(gradient, points)),
        losses.singular_hessian_loss(losses.hessian(gradient, points)),
        losses.directional_divergence_loss(gradient, losses.hessian_gradient_product(gradient, points)),
    ]
    for term in terms:
        found = torch.autograd.grad(term, network[0].weight, retain_graph=True)[0]
        assert torch.isfinite(found).all() and found.abs().max() > 0


def test_empty_batches_give_zero():
    empty, rows = torch.zeros(0), torch.zeros(0, 3)
    assert losses.eikonal_loss(rows).item() == 0
    assert losses.off_surface_loss(empty).item() == 0
    assert losses.coarse_to_fine_loss(empty, empty, empty).item() == 0


def test_distance_weighted_loss_by_hand():
    from sdf_tools.losses import distance_weighted_loss

    target = torch.tensor([0.0, 0.01, -0.01, 0.5])
    predicted = target + torch.tensor([0.002, 0.004, -0.004, 0.1])
    # weights: 1, 0.01 / 0.02, the same inside, and the lower bound 0.1 instead of 0.01 / 0.51
    expected = (0.002 + 0.5 * 0.004 + 0.5 * 0.004 + 0.1 * 0.1) / 4
    assert distance_weighted_loss(predicted, target, near=0.01, far_weight=0.1).item() == pytest.approx(expected)
    # An error of 0.3 at distance 0.5 endangers the sign: weight 1 instead of 0.1.
    endangered = distance_weighted_loss(torch.tensor([0.2]), torch.tensor([0.5]), near=0.01, far_weight=0.1)
    assert endangered.item() == pytest.approx(0.3)
    with pytest.raises(ValueError, match="one shape"):
        distance_weighted_loss(predicted, target[:2])


def test_heat_loss_is_its_formula() -> None:
    values, gradient = torch.tensor([0.0, -0.1]), torch.tensor([[0.0, 0, 1], [0, 2, 0]])
    expected = (1.0 + torch.exp(torch.tensor(-2 * 10 * 0.1)) * 2.5) / 2
    assert losses.heat_loss(values, gradient, 10.0).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "loss",
    [
        lambda: losses.sign_agnostic_loss(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0])),
        lambda: losses.distance_weighted_loss(torch.zeros(2, 1), torch.zeros(2)),
        lambda: losses.heat_loss(torch.zeros(2, 1), torch.zeros(2, 3), 1.0),
        lambda: losses.normal_alignment_loss(torch.ones(2, 3), torch.ones(2, 1, 3)),
        lambda: losses.normal_difference_loss(torch.ones(2, 3), torch.ones(1, 3)),
        lambda: losses.directional_divergence_loss(torch.ones(2, 3), torch.ones(2, 1, 3)),
    ],
    ids=["sign_agnostic", "distance_weighted", "heat", "alignment", "difference", "divergence"],
)
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match=r"one shape|one number for each"):
        loss()


def test_sign_agnostic_by_hand():
    values = torch.tensor([0.0, -1.0, 0.5])
    assert losses.sign_agnostic_loss(values, torch.tensor([0.0, 1.0, 1.0]), power=2).item() == pytest.approx(0.25 / 3)


def test_affine_fields_do_not_bend(points):
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    for field in (lambda p: p @ weight.detach(), lambda p: p @ weight - 1):  # without and with weights to train
        gradient = losses.gradient(field(points), points)
        assert torch.equal(losses.hessian(gradient, points), torch.zeros(64, 3, 3, dtype=torch.float64))
        assert torch.equal(losses.hessian_gradient_product(gradient, points), torch.zeros_like(points))
        laplacian = losses.laplacian(gradient, points)
        assert torch.equal(laplacian, torch.zeros(64, dtype=torch.float64))
        losses.divergence_loss(laplacian).backward()  # a loss like any other
    with pytest.raises(RuntimeError, match="require"):
        losses.laplacian(torch.ones(2, 3), torch.ones(2, 3))
