"""Compiled passes give what the network gives, whatever somebody has done to it: broken, frozen, rebuilt, recorded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("numba")
from sasnet_ns.kernels import StackedStep, stack_forms
from sasnet_ns.networks import Network, SignedDistanceField, build_network, fused_step, network_values, step_form

SMALL = {
    "sasnet": {"embedding_width": 32, "hidden_widths": (16, 16), "band_allocation": "equal", "grid_levels": 3},
    "siren": {"width": 16},
    "finer": {"width": 16},
    "gauss": {"width": 16, "scale": 3},
    "wire": {"width": 8},
    "pemlp": {"width": 16},
    "ffn": {"width": 16, "frequencies": 8},
    "sape": {"width": 16, "frequencies": 8, "resolution": 8},
    "ngp": {"grid_levels": 3, "grid_log2_entries": 8, "width": 8},
}


def small(name: str) -> Network:
    torch.manual_seed(0)
    return build_network(name, 3, 1, **SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_one_nan_among_the_weights_is_seen_in_values_and_losses(name: str) -> None:
    """A ReLU that made 0 of it let a broken network train on, with a loss that fell."""
    x, target = torch.rand(70, 3) * 2 - 1, torch.zeros(70, 1)
    for key, _ in small(name).named_parameters():
        network = small(name)
        with torch.no_grad():
            network.get_parameter(key).view(-1)[::7] = torch.nan
            values = network_values(network, x)
            wanted = network(x)
        assert torch.equal(values.isnan(), wanted.isnan()) and wanted.isnan().any(), key
        step = fused_step(network)
        assert step is not None
        assert step(x, target)[0].isnan(), key
        network.zero_grad()
        (network(x) - target).square().mean().backward()
        by_autograd = {own: p.grad.isnan() for own, p in network.named_parameters() if p.grad is not None}
        fused_step(network)(x, target)  # type: ignore[misc]
        for own, parameter in network.named_parameters():
            if parameter.grad is not None:
                assert not (by_autograd[own] & ~parameter.grad.isnan()).any(), (key, own)


@pytest.mark.parametrize("name", ["sasnet", "siren", "finer", "gauss", "ngp"])
def test_a_point_that_is_not_a_number_has_no_value(name: str) -> None:
    network, x = small(name), torch.rand(40, 3)
    x[3, 1] = torch.nan
    with torch.no_grad():
        assert network_values(network, x).isnan()[:, 0].nonzero().tolist() == [[3]]


@pytest.mark.parametrize("name", ["sasnet", "siren", "ngp", "gaussian_image"])
def test_recorded_operations_are_torchs(name: str) -> None:
    """Outputs that numba had filled were recorded as uninitialised memory."""
    from torch.fx.experimental.proxy_tensor import make_fx

    if name == "gaussian_image":
        torch.manual_seed(0)
        network = build_network(name, 2, 3, gaussians=20)
    else:
        network = small(name)
    x, y = torch.rand(2, 30, network.in_dim) * 2 - 1
    with torch.no_grad():
        wanted = network(y)
        if name == "gaussian_image":  # its tiles depend on the points
            torch.testing.assert_close(torch.jit.trace(network, (y,), check_trace=False)(y), wanted)
        else:
            torch.testing.assert_close(torch.jit.trace(network, (x,), check_trace=False)(y), wanted)
            torch.testing.assert_close(make_fx(network)(x)(y), wanted)
    if name in ("siren", "ngp"):
        network.implementation = "numba"  # type: ignore[assignment]
        with pytest.raises(ValueError, match="make_fx cannot record implementation='numba'"), torch.no_grad():
            make_fx(network)(x)


def test_a_field_is_recorded_too() -> None:
    torch.manual_seed(0)
    field, x, y = SignedDistanceField("siren", {"width": 16}), torch.rand(30, 3) - 0.5, torch.rand(30, 3) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(field, (x,))(y), field(y))


@pytest.mark.parametrize("name", ["siren", "ngp"])
def test_weights_that_are_made_of_others_are_left_to_autograd(name: str) -> None:
    network = small(name)
    layer = network.hidden[0] if name == "siren" else network.mlp[0]  # type: ignore[index]
    nn.utils.parametrizations.weight_norm(layer)  # type: ignore[arg-type]
    assert fused_step(network) is None
    with torch.no_grad():
        torch.testing.assert_close(network_values(network, torch.ones(2, 3)), network(torch.ones(2, 3)))


@pytest.mark.parametrize("name", ["ngp", "pemlp", "ffn", "sape"])
def test_other_activations_are_left_to_autograd(name: str) -> None:
    network = small(name)
    assert fused_step(network) is not None
    layers = network.mlp if name == "ngp" else network.layers
    layers[1] = nn.Softplus(beta=10)  # type: ignore[index, operator]
    assert fused_step(network) is None
    with torch.no_grad():
        torch.testing.assert_close(network_values(network, torch.ones(2, 3)), network(torch.ones(2, 3)))


@pytest.mark.parametrize("stacked", [False, True])
def test_what_is_frozen_after_the_step_was_built_stays_as_it_is(stacked: bool) -> None:
    network = small("sasnet")
    form = step_form(network)
    assert form is not None
    if stacked:
        form = stack_forms([form, form])
        tensors, step = form.tensors(), StackedStep(form, "numba")
    else:
        tensors, step = form.tensors(), fused_step(network)
    kinds = [tensor.requires_grad for tensor in tensors]
    assert step is not None and step.backend == "numba"
    shape = (2, 50) if stacked else (50,)
    x, target = torch.rand(*shape, 3), torch.zeros(*shape, 1)
    for trained in (kinds, [False] * len(kinds), kinds):
        for tensor, wanted in zip(tensors, trained, strict=True):
            tensor.grad = None
            tensor.requires_grad_(wanted)
        step(x, target)
        assert [tensor.grad is not None for tensor in tensors] == trained


def test_gradients_of_many_at_once_are_refused_in_a_sentence() -> None:
    network, x = small("siren"), torch.rand(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="one gradient at a time, not is_grads_batched=True"):
        torch.autograd.functional.jacobian(network, x, vectorize=True)
