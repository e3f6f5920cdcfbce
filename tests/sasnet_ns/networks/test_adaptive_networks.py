"""Networks that look at the signal or change while they train: SAPE, INCODE, MSIREN, NeuRBF, GaussianImage."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sasnet_ns.kernels.gaussians import gaussian_sum
from sasnet_ns.networks.baselines.gaussian_image import GaussianImage
from sasnet_ns.networks.baselines.incode import Incode
from sasnet_ns.networks.baselines.modulated_siren import ModulatedSiren
from sasnet_ns.networks.baselines.neurbf import NeuRBF, fit_kernels
from sasnet_ns.networks.baselines.sape import SAPE
from sasnet_ns.networks.interpolation import flat_index, surrounding_cells


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def uniform(*shape, dtype=torch.float32):
    return torch.rand(*shape, dtype=dtype) * 2 - 1


def edge_image(n=32):
    """Black left of a vertical edge in the middle, white right of it."""
    image = torch.zeros(n, n, 3)
    image[:, n // 2 :] = 1
    return image


def test_interpolation_reproduces_affine_functions():
    x = uniform(200, 3, dtype=torch.float64)
    cells, weights = surrounding_cells(x, 5, first=-1.0, last=1.0)
    assert torch.allclose(weights.sum(1), torch.ones(200, dtype=torch.float64))
    assert torch.allclose((weights[..., None] * (cells * 0.5 - 1)).sum(1), x, atol=1e-12)
    assert flat_index(torch.tensor([[1, 2, 3]]), 5).item() == 1 * 25 + 2 * 5 + 3
    _, outside = surrounding_cells(torch.tensor([[3.0]]), 5, first=-1.0, last=1.0)
    assert outside.tolist() == [[0.0, 1.0]]


# SAPE


def small_sape(**options):
    return SAPE(2, 1, **{"width": 8, "frequencies": 8, "frequency_scale": 1.0, "resolution": 8, **options})


def test_sape_starts_from_the_coordinates_alone():
    network = small_sape()
    x = uniform(20, 2)
    features = network.encode(x)
    assert torch.equal(features[:, :2], x) and (features[:, 2:] == 0).all()
    network.open_blocks.fill_(network.blocks)
    phase = 2 * math.pi * x @ network.frequencies.T
    assert torch.allclose(network.encode(x)[:, 2::2], phase.sin(), atol=1e-6)
    assert torch.allclose(network.encode(x)[:, 3::2], phase.cos(), atol=1e-6)


def test_sape_opens_block_after_block_in_the_first_half_of_the_run():
    network = small_sape()
    assert network.blocks == 8  # 16 features, two at a time
    x, error = uniform(500, 2), torch.ones(500)
    center = torch.zeros(1, 2)
    steps = 160  # ten steps a block
    opened = []
    for step in range(1, 101):
        network.on_step(step, steps, x, error)
        opened.append(network.masks(center)[0])
    assert opened[1].tolist() == pytest.approx([0.4, 0.4] + [0] * 14, abs=1e-6)  # ramp: twice the share of the interval
    assert opened[4].tolist() == pytest.approx([1, 1] + [0] * 14, abs=1e-6)
    assert opened[9].tolist() == pytest.approx([1, 1] + [0] * 14, abs=1e-6)
    assert opened[12].tolist() == pytest.approx([1, 1, 0.6, 0.6] + [0] * 12, abs=1e-6)
    assert (opened[79] == 1).all() and (opened[99] == 1).all()


def test_sape_stops_where_the_error_is_small():
    network = small_sape(resolution=16)
    x = uniform(4000, 2)
    for step in range(1, 41):
        network.on_step(step, 160, x, torch.where(x[:, 0] < 0, 1e-4, 1.0))
    fitted, wanting = network.masks(torch.tensor([[-0.95, 0.0], [0.95, 0.0]])).sum(1)
    assert fitted.item() == pytest.approx(2, abs=1e-5), "the first block was under way when the error was first judged"
    assert wanting.item() == pytest.approx(8, abs=1e-5)
    assert 2 < network.masks(torch.tensor([[-0.3125, 0.0]])).sum() < 8, "the blur joins the two"


def test_sape_reads_its_threshold_in_the_signals_range():
    def blocks_after(signal):
        network = small_sape(epsilon=1e-3)
        network.initialize_from(signal)
        x = uniform(4000, 2)
        for step in range(1, 41):
            network.on_step(step, 160, x, torch.full((4000,), 2e-3))
        return network.open_blocks.max()

    assert blocks_after(torch.rand(4, 4, 1)) == 4, "2e-3 is above the threshold of values in [0, 1]"
    assert blocks_after(torch.rand(4, 4, 1) - 0.5) == 1, "and below the 4e-3 of values in [-1, 1]"


def test_sape_finishes_when_there_are_more_blocks_than_steps():
    network = small_sape()
    for step in range(1, 7):
        network.on_step(step, 6, uniform(100, 2), torch.ones(100))
    assert (network.open_blocks == network.blocks).all()


@pytest.mark.parametrize("in_dim", [1, 2, 3])
def test_sape_sees_every_change_of_points_that_come_again(in_dim):
    network = SAPE(in_dim, 1, width=8, frequencies=7, frequency_scale=1.0, resolution=8)
    encode, x, others = network.encoder(), uniform(200, in_dim), uniform(200, in_dim)

    def same(points):
        assert torch.equal(encode(points), network.encode(points))

    for step in range(1, 9):
        network.on_step(step, 40, x, torch.ones(200))
        same(x)
        same(x)
    same(others)
    same(x[:50])
    same(x)
    same(x)
    x.mul_(0.5)
    same(x)
    same(x)
    network.load_state_dict(SAPE(in_dim, 1, width=8, frequencies=7, frequency_scale=2.0, resolution=8).state_dict())
    network.open_blocks.fill_(network.blocks)
    same(x)
    network.open_blocks.uniform_(0, network.blocks)
    same(x)
    with torch.inference_mode():
        hidden = uniform(50, in_dim)
    same(hidden)
    same(hidden)


@pytest.mark.parametrize("failing", ["sin", "cat", "mul"])
def test_sape_goes_on_from_an_interrupted_encoding(failing, monkeypatch):
    network = small_sape()
    network.open_blocks.fill_(network.blocks)
    encode, first, second = network.encoder(), uniform(200, 2), uniform(200, 2)
    encode(first)
    with monkeypatch.context() as patch:
        patch.setattr(torch, failing, lambda *_, **__: pytest.fail("interrupted"))
        with pytest.raises(BaseException, match="interrupted"):
            encode(second)
    assert torch.equal(encode(second), network.encode(second))
    assert torch.equal(encode(first), network.encode(first))


# INCODE


def test_incode_is_its_formula():
    network = Incode(2, 3, width=6, hidden_layers=1).double()
    network.features.normal_()
    x = uniform(10, 2, dtype=torch.float64)
    h = network.features
    for layer in network.harmonizer:
        h = h * torch.sigmoid(h) if isinstance(layer, nn.SiLU) else layer.weight @ h + layer.bias
    a, b, c, d = h
    h = x
    for layer in (network.first, network.hidden[0]):
        h = a.exp() * torch.sin(b.exp() * 30 * (h @ layer.weight.T + layer.bias) + c) + d
    assert torch.allclose(network(x), h @ network.output.weight.T + network.output.bias, atol=1e-12)


def test_incode_starts_as_published():
    network = Incode(2, 3)
    assert [layer.out_features for layer in network.harmonizer if isinstance(layer, nn.Linear)] == [64, 32, 4]
    for layer in network.harmonizer:
        if isinstance(layer, nn.Linear):
            assert (layer.bias == 0.312).all() and layer.weight.std().item() == pytest.approx(1e-3, rel=0.2)
    assert network.first.weight.abs().max() <= 0.5
    assert network.hidden[0].weight.abs().max().item() == pytest.approx(math.sqrt(6 / 256) / 30, rel=1e-2)
    assert network.coefficients().tolist() == pytest.approx([0.312] * 4, abs=0.01)
    assert network.penalty() == 0, "all coefficients start positive"
    with torch.no_grad():
        network.harmonizer[-1].bias.copy_(torch.tensor([-1.0, -2.0, 3.0, -4.0]))
        network.harmonizer[-1].weight.zero_()
    assert network.penalty().item() == pytest.approx(0.1993 * 1 + 0.0196 * 2 + 0.0269 * 4)


@pytest.mark.parametrize(("shape", "channels"), [((24, 32), 3), ((24, 32), 1), ((8, 12, 10), 1)])
def test_incode_takes_frozen_features_from_the_signal(shape, channels):
    pytest.importorskip("torchvision")
    network = Incode(len(shape), channels, width=8)
    signal = torch.rand(*shape, channels)
    network.initialize_from(signal)
    features = network.features.clone()
    assert features.shape == ((128,) if len(shape) == 3 else (64,)) and features.std() > 0.01
    assert not features.requires_grad and "features" not in dict(network.named_parameters())
    torch.manual_seed(5)
    network.initialize_from(signal * torch.linspace(0, 1, shape[0]).reshape(-1, *([1] * len(shape))))
    assert not torch.allclose(network.features, features)
    network(uniform(5, len(shape))).sum().backward()
    assert network.harmonizer[0].weight.grad.abs().max() > 0


# MSIREN


def test_msiren_is_its_formula_at_the_centre_of_a_tile():
    network = ModulatedSiren(2, 3, width=6, hidden_layers=1, latent_dim=4, strides=4).double()
    tile = torch.tensor([[1, 3]])
    z = network.codes[1 * 5 + 3]
    first, second = network.modulator
    m0 = torch.relu(first.weight @ z + first.bias)
    m1 = torch.relu(second.weight @ torch.cat((m0, z)) + second.bias)
    s0, s1 = network.synthesis
    h = m0 * torch.sin(30 * s0.bias)  # the tile's own coordinates are zero here
    h = m1 * torch.sin(30 * (s1.weight @ h + s1.bias))
    expected = network.output.weight @ h + network.output.bias
    assert torch.allclose(network(tile.double() * 0.5 - 1)[0], expected, atol=1e-12)
    assert m1.abs().max() > 0, "amplitudes of zero would compare nothing"


def test_msiren_blends_neighbouring_tiles_linearly():
    network = ModulatedSiren(1, 1, width=16, latent_dim=4, strides=4).double()
    with torch.no_grad():
        for layer in network.synthesis:
            layer.weight.zero_()  # every tile is a constant
            layer.bias.fill_(0.02)
    nodes = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    values = network(nodes)[:, 0]
    assert values.std() > 1e-4
    between = network(nodes[:-1] + 0.125)[:, 0]  # a quarter of the way to the next centre
    assert torch.allclose(between, 0.75 * values[:-1] + 0.25 * values[1:], atol=1e-12)


def test_msiren_counts_its_codes_only_where_it_trains_them():
    trained = ModulatedSiren(2, 3, latent_dim=8, strides=4).parameter_count()
    assert trained - ModulatedSiren(2, 3, latent_dim=8, strides=4, codes="fixed").parameter_count() == 25 * 8


# NeuRBF


def test_neurbf_is_its_formula():
    network = NeuRBF(2, 3, kernels=20, implementation="torch").double()
    with torch.no_grad():
        for parameter in (network.kernel_weight, network.bias, network.table):
            parameter.normal_()
    network.shapes.copy_(torch.eye(2) * 9 + torch.tensor([[0.0, 2.0], [2.0, 1.0]]))
    x = uniform(30, 2, dtype=torch.float64)
    offset = x[:, None] - network.centers
    response = 1 / (1 + torch.einsum("nki,kij,nkj->nk", offset, network.shapes, offset))
    nearest = offset.norm(dim=-1).argsort(1)[:, :4]
    chosen = torch.gather(response, 1, nearest)
    chosen = chosen / chosen.sum(1, keepdim=True)
    multipliers = (2 ** torch.linspace(-3, 12, 32)).double()
    assert torch.allclose(network.multipliers, multipliers, rtol=1e-5)
    sines = torch.sin(chosen[..., None] * network.multipliers)
    local = (network.kernel_weight[nearest] * sines).sum(1)
    from sasnet_ns.kernels import hash_grid

    grid = hash_grid(x, network.table, network.layout, implementation="torch")
    z = network.layers[0](torch.cat((grid, local), 1) + network.bias)
    assert torch.allclose(network.sine_scale, (10 ** torch.linspace(1, 2, 64)).double(), rtol=1e-5)
    z = z + torch.sin(network.sine_scale * z)
    assert torch.allclose(network(x), network.layers[2](torch.relu(network.layers[1](z))), atol=1e-4)
    assert torch.allclose(network.responses(x)[0], chosen, atol=1e-8)


def test_neurbf_puts_kernels_on_edges_and_stretches_them_along():
    centers, shapes = fit_kernels(edge_image().double().numpy(), 6, seed=0)
    assert (np.abs(centers[:, 1]) < 0.1).all(), "the only change is at column 0"
    assert np.ptp(centers[:, 0]) > 1.5
    across, along = shapes[:, 1, 1], shapes[:, 0, 0]
    assert (across > 2 * along).all() and across.mean() > 4 * along.mean(), (
        "inverse squared widths: narrow across the edge"
    )
    network = NeuRBF(2, 3, kernels=6, implementation="torch")
    network.initialize_from(edge_image())
    assert (network.centers[:, 1].abs() < 0.1).all()


def test_neurbf_refuses_more_kernels_than_cells_and_bears_flat_signals():
    with pytest.raises(ValueError, match="17 kernels are too many for a signal of 16 cells"):
        fit_kernels(np.zeros((4, 4, 1)), 17, seed=0)
    centers, shapes = fit_kernels(np.ones((8, 8, 1)), 5, seed=0)
    assert np.isfinite(centers).all() and np.isfinite(shapes).all()


def test_neurbf_forgets_its_neighbours_when_points_or_kernels_change():
    network = NeuRBF(2, 3, kernels=30, implementation="torch")
    x = uniform(50, 2)
    before = network.responses(x)[1].clone()
    x.mul_(-1)
    after = network.responses(x)[1]
    assert not torch.equal(before, after)
    network.centers.mul_(-1)
    assert torch.equal(network.responses(x)[1].sort(1).values, before.sort(1).values)
    buffer = np.zeros((50, 2), np.float32)  # torch does not see what numpy writes
    first = network.responses(torch.from_numpy(buffer))[1].clone()
    buffer[:] = x.numpy()
    assert not torch.equal(network.responses(torch.from_numpy(buffer))[1], first)
    with torch.inference_mode():
        assert torch.equal(network.responses(x)[1].sort(1).values, before.sort(1).values)


def test_points_of_a_call_are_not_saved_with_a_network():
    network = NeuRBF(2, 3, kernels=30, implementation="torch")
    before = len(pickle.dumps(network))
    network(uniform(20_000, 2))
    assert len(pickle.dumps(network)) == before


# GaussianImage


def brute_force(points, center, cholesky, color):
    offset = points[:, None] - center
    total = points.new_zeros(len(points), color.shape[1])
    for n in range(len(center)):
        factor = torch.zeros(2, 2, dtype=points.dtype)
        factor[0, 0], factor[1, 0], factor[1, 1] = cholesky[n]
        inverse = torch.linalg.inv(factor @ factor.T)
        weight = torch.exp(-0.5 * torch.einsum("ni,ij,nj->n", offset[:, n], inverse, offset[:, n]))
        total = total + torch.where(weight >= 1 / 255, weight, 0)[:, None] * color[n]
    return total


@pytest.mark.parametrize("tile", [2, 8, 50])
def test_tiles_change_nothing(tile):
    points = (torch.rand(400, 2, dtype=torch.float64) * torch.tensor([30, 20])).requires_grad_()
    center = (torch.rand(25, 2, dtype=torch.float64) * torch.tensor([40, 30]) - 5).requires_grad_()
    cholesky = (torch.rand(25, 3, dtype=torch.float64) * 4 + 0.5).requires_grad_()
    color = torch.rand(25, 3, dtype=torch.float64, requires_grad=True)
    tensors = (points, center, cholesky, color)
    expected, got = brute_force(*tensors), gaussian_sum(*tensors, tile=tile)
    assert expected.abs().max() > 1
    assert torch.allclose(got, expected, atol=1e-12)
    probe = torch.rand_like(expected)
    for one, other in zip(
        torch.autograd.grad((expected * probe).sum(), tensors),
        torch.autograd.grad((got * probe).sum(), tensors),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-10)


def test_gaussians_without_width_or_far_away_are_left_out():
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    center = torch.tensor([[0.0, 0.0], [500.0, 500.0], [0.0, 0.0]])
    cholesky = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    got = gaussian_sum(points, center, cholesky, torch.eye(3))
    assert torch.allclose(got, torch.tensor([[0, 0, 1.0], [0, 0, math.exp(-1)]]), atol=1e-6)


def test_gaussian_image_starts_as_published():
    network = GaussianImage(2, 3)
    assert network.parameter_count() == 16_640 * 8
    position = torch.tanh(network.position)
    assert position.abs().max() < 1 and position.std(0).tolist() == pytest.approx([1 / math.sqrt(3)] * 2, rel=0.02)
    for drawn in (network.cholesky, network.color):
        assert drawn.min() >= 0 and drawn.max() <= 1 and drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    center, cholesky = network.gaussians()
    assert torch.allclose(cholesky - network.cholesky, torch.tensor([0.5, 0, 0.5]))
    assert center.min() >= 0 and center.max() <= 512


def test_gaussian_image_counts_in_the_signals_pixels_and_range():
    network = GaussianImage(2, 1, gaussians=1)
    with torch.no_grad():
        network.position.zero_()
        network.cholesky.copy_(torch.tensor([[1.5, 0.0, 1.5]]))  # standard deviation 2 pixels
        network.color.fill_(0.8)
    network.initialize_from(torch.rand(20, 40, 1))
    two_pixels = torch.tensor([[2 * 2 / 20, 0.0], [0.0, 2 * 2 / 40]])
    assert network(two_pixels)[:, 0].tolist() == pytest.approx([0.8 * math.exp(-0.5)] * 2, abs=1e-6)
    network.initialize_from(torch.rand(20, 40, 1) - 0.5)
    assert network(torch.zeros(1, 2)).item() == pytest.approx(0.6, abs=1e-6)
    assert network(torch.ones(1, 2)).item() == -1
    with torch.no_grad():
        network.color.fill_(3.0)
    assert network(torch.zeros(1, 2)).item() == 1, "clamped"


def test_copies_of_a_sape_see_the_masks_that_are_loaded():
    network, other, x = small_sape(), small_sape(), uniform(20, 2)
    network.open_blocks.add_(2.0)
    other.load_state_dict({**network.state_dict(), "open_blocks": torch.ones_like(other.open_blocks)})
    for _ in range(3):
        network(x)
        for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            copied.load_state_dict(other.state_dict())
            assert torch.equal(copied(x), other(x))
        network.load_state_dict(network.state_dict())  # counts another change of the tensors


def test_sape_is_differentiated_forward():
    network = small_sape().double()
    network.open_blocks.fill_(network.blocks)
    x = uniform(5, 2, dtype=torch.float64)
    forward = torch.stack([torch.func.jacfwd(lambda point: network(point[None])[0])(point) for point in x])
    torch.testing.assert_close(forward, network.value_and_gradient(x)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussians_under_vmap_are_those_of_the_tiles(dtype):
    network = GaussianImage(2, 1, gaussians=40, pixels=(16, 12), tile=3).to(dtype)
    with torch.no_grad():
        network.cholesky[0, 0] = -0.5  # a zero on the diagonal: left out
        network.color.mul_(0.05)  # clamped nowhere
    x = uniform(30, 2, dtype=dtype)
    values, jacobian = network.value_and_gradient(x)

    def value(point):
        return network(point[None])[0, 0]

    torch.testing.assert_close(torch.func.vmap(value)(x), values[:, 0])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(value))(x), jacobian[:, 0], rtol=1e-4, atol=1e-5)
    states = {name: torch.stack((tensor, 2 * tensor)) for name, tensor in network.named_parameters()}
    both = torch.func.vmap(lambda state: torch.func.functional_call(network, state, (x,)))(states)
    torch.testing.assert_close(both[0], values)
