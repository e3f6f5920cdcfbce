"""Derivatives that a user asks for in his own way: of third order, forward, by torch.func, where none are recorded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd import forward_ad

from sasnet_ns.fitting.grid_fit import GridFit, fit_grid
from sasnet_ns.fitting.signal import Signal
from sasnet_ns.networks import build_network
from sdf_tools.losses import divergence_loss, laplacian

SMALL = {
    "sasnet": {"embedding_width": 32, "hidden_widths": (16, 16), "band_allocation": "equal", "grid_levels": 3},
    "siren": {"width": 16},
    "ngp": {"grid_levels": 3, "grid_log2_entries": 8, "width": 8, "grid_interpolation": "smoothstep"},
}


def small(name, **options):
    torch.manual_seed(0)
    network = build_network(name, 3, 1, **SMALL[name], **options)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.shape[-1] == 2 and parameter.shape[0] > 100:
                parameter.normal_()  # tables, which begin next to nothing
    return network


def twins(name):
    compiled, plain = small(name), small(name, implementation="torch")
    plain.load_state_dict(compiled.state_dict())
    return compiled, plain


def through_both(name, count, loss):
    """Gradients of ``loss(network, points)`` by the points and all parameters, of both twins."""
    x, found = torch.rand(count, 3) * 1.8 - 0.9, []
    for network in twins(name):
        points = x.clone().requires_grad_()
        loss(network, points).backward()
        found.append([points.grad, *(p.grad for p in network.parameters() if p.requires_grad)])
    return found


@pytest.mark.parametrize("name", SMALL)
def test_losses_of_second_derivatives_train_like_the_twin(name):
    """DiGS, curvature and singular-Hessian terms need the parameters' gradients of second derivatives."""

    def loss(network, points):
        gradient = torch.autograd.grad(network(points).sum(), points, create_graph=True)[0]
        return divergence_loss(laplacian(gradient, points))

    for a, b in zip(*through_both(name, 60, loss), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("name", SMALL)
def test_third_derivatives_can_be_differentiated_again(name):
    def loss(network, points):
        value = network(points).sum()
        for _ in range(3):
            value = torch.autograd.grad(value, points, create_graph=True)[0].square().sum()
        return value

    (a, *_), (b, *_) = through_both(name, 20, loss)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("name", [*SMALL, "finer"])
def test_forward_mode_and_torch_func_give_the_gradient(name):
    network = small(name) if name in SMALL else build_network(name, 3, 1, width=16)
    x, v = torch.rand(7, 3), torch.randn(7, 3)
    gradient = network.gradient(x).detach()
    along = (gradient * v).sum(1, keepdim=True)
    with torch.no_grad(), forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(network(forward_ad.make_dual(x, v))).tangent
        assert tangent is not None
        torch.testing.assert_close(tangent, along, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.func.jvp(network, (x,), (v,))[1], along, rtol=1e-4, atol=1e-4)
    jacobian = torch.func.vmap(torch.func.jacrev(network))(x)
    torch.testing.assert_close(jacobian[:, 0], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"detach_scale": False}])
def test_finer_has_its_own_derivatives_by_the_coordinates(options):
    network = build_network("finer", 2, 1, width=16, **options).double()
    x = torch.rand(20, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(network, x.requires_grad_())


def test_finer_trains_with_its_factor_held_constant():
    network = build_network("finer", 2, 1, width=16)
    exact = copy.deepcopy(network)
    exact.detach_scale = False
    x = torch.rand(20, 2)
    for each in (network, exact):
        each(x).square().mean().backward()
    assert not torch.allclose(network.first.weight.grad, exact.first.weight.grad, rtol=0.05)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_and_fits_do_not_mind_that_none_are_recorded_outside(mode):
    image, network = Signal(torch.rand(12, 12, 3), "noise"), small("sasnet")
    with mode():
        value, jacobian = network.value_and_gradient(torch.rand(5, 3))
        config = GridFit(network="siren", network_config={"width": 8})
        config.recipe.steps = 3
        fitted = fit_grid(image, config, progress=False)
    assert value.shape == (5, 1) and jacobian.shape == (5, 1, 3)
    assert len(fitted.history.step) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["sasnet", "siren", "finer", "ngp", "neurbf", "metric_grids", "msiren", "pemlp"])
def test_networks_in_other_precisions(name, dtype):
    torch.manual_seed(0)
    network = build_network(name, 2, 2)
    x = torch.rand(30, 2)
    with torch.no_grad():
        expected, values = network(x), network.to(dtype)(x.to(dtype))
    assert values.dtype == dtype
    assert float((values.float() - expected).abs().max()) < 0.3 * float(expected.abs().max())


def test_a_default_of_float64_makes_float64_networks():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        network = build_network("sasnet", 3, 1, **SMALL["sasnet"])
        assert network(torch.rand(4, 3)).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)
