"""FLAIR, MetricGrids and CAFE+ against their formulas; what all networks share is in test_baselines.py."""

import math

import pytest
import torch
from torch import nn

from sasnet_ns.kernels import hash_grid
from sasnet_ns.networks.baselines.cafe import Cafe
from sasnet_ns.networks.baselines.flair import Flair
from sasnet_ns.networks.baselines.metric_grids import MetricGrids
from sasnet_ns.networks.sizes import parameter_count


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random_points(count):
    return torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9


def test_flair_is_its_formula():
    network = Flair(2, 3, width=5, hidden_layers=1, shift=0.75, sigma=0.75, roll_off=0.4).double()
    with torch.no_grad():
        network.hidden[0].weight.mul_(8)  # some values are longer than 1, and scaled to 1
    x = random_points(50)

    def activation(z, t=1.0, beta=0.4, zeta=0.75, sigma=0.75):
        pulse = torch.sinc(z / t) / t * torch.cos(math.pi * beta * z / t) / (1 - (2 * beta * z / t) ** 2 + 1e-6)
        h = pulse * torch.exp(-(z**2) / (2 * sigma**2)) * torch.exp(2j * math.pi * zeta * z)
        return h / h.abs().clamp(min=1)

    h = activation((x @ network.first.weight.T + network.first.bias).to(torch.complex128))
    layer = network.hidden[0]
    z = h @ torch.view_as_complex(layer.weight).T + torch.view_as_complex(layer.bias)
    h = activation(z)
    assert (h.abs() > 1 - 1e-9).any() and (h.abs() < 0.9).any()
    values = h.real @ network.output.weight.T + network.output.bias
    assert torch.allclose(network(x), values, atol=1e-9)
    network.sigmoid = True
    assert torch.allclose(network(x), values.sigmoid(), atol=1e-9) and network.output_layer() is None


def test_flairs_pulse_has_all_derivatives_where_z_is_zero():
    network = Flair(1, 1, width=4, hidden_layers=0).double()
    nn.init.zeros_(network.first.bias)
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    first = network.gradient(x)
    second = torch.autograd.grad(first.sum(), x)[0]
    step = 1e-4
    left, middle, right = network(torch.tensor([[-step], [0.0], [step]], dtype=torch.float64))
    assert first.item() == pytest.approx(((right - left) / (2 * step)).item(), rel=1e-5)
    assert second.item() == pytest.approx(((right - 2 * middle + left) / step**2).item(), rel=1e-3, abs=1e-3)


def test_metric_grids_are_their_formula():
    options = {"grid_levels": 2, "grid_log2_entries": 8, "grid_min": 4, "grid_max": 8, "width": 6}
    network = MetricGrids(2, 3, hidden_layers=3, implementation="torch", **options).double()
    for table in network.tables:
        nn.init.uniform_(table)
    x = random_points(30)
    metrics = (x, x.sin() / math.sin(1), x.asin() / math.asin(1))
    grids = [hash_grid(metrics[k], network.tables[k], network.layouts[k], implementation="torch") for k in range(3)]
    assert [layout.resolutions for layout in network.layouts] == [(4, 7), (4, 7), (2, 3)]
    h = sum(grids)
    for layer, seen in enumerate([(x + 1) / 2, *grids]):
        h = torch.sin(30 * network.modulators[layer](seen)) ** 2 * torch.sin(30 * network.sines[layer](h))
    assert torch.allclose(network(x), network.output(h), atol=1e-9)
    assert torch.isfinite(network.value_and_gradient(torch.ones(1, 2, dtype=torch.float64))[1]).all()


def test_cafe_multiplies_affine_maps_of_fourier_and_chebyshev_features():
    network = Cafe(2, 3, width=5, frequencies=4, frequency_scale=1.0, polynomials=6, branches=3).double()
    x = random_points(20)
    angles = 2 * math.pi * x @ network.frequencies.T
    polynomials = torch.cos(torch.arange(6) * x.acos()[..., None]).flatten(1)  # T_n(cos t) = cos(n t)
    features = torch.cat([angles.sin(), angles.cos(), polynomials], -1)
    assert torch.allclose(network.encode(x), features, atol=1e-9)
    one, two, three = (branch(features) for branch in network.branches)
    assert torch.allclose(network(x), network.output(torch.relu(network.hidden[0](one * two * three))), atol=1e-9)
    assert parameter_count("cafe", 2, 3) == 224_439, "0.22 million, as its authors say"
