"""Each baseline against its own definition: encodings, activations, initial values, sizes, derivatives."""

import copy
import math

import pytest
import torch
from torch import nn

from sasnet_ns.networks import build_network, network_names
from sasnet_ns.networks.baselines.ffn import FFN, fourier_frequencies
from sasnet_ns.networks.baselines.finer import Finer
from sasnet_ns.networks.baselines.gauss import Gauss
from sasnet_ns.networks.baselines.ngp import HashGridMLP
from sasnet_ns.networks.baselines.pemlp import PEMLP
from sasnet_ns.networks.baselines.sape import SAPE
from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.baselines.wire import ComplexLinear, Wire
from sasnet_ns.networks.sizes import ROWS, TASKS, parameter_count, parameter_counts, sized_options

SMALL = {
    "siren": {"width": 12},
    "finer": {"width": 12, "detach_scale": False},
    "wire": {"width": 8, "omega": 3.0, "sigma": 1.0},
    "gauss": {"width": 12, "scale": 1.5},
    "pemlp": {"width": 12, "octaves": 3},
    "ffn": {"width": 12, "frequencies": 6, "frequency_scale": 1.0},
    "sape": {"width": 12, "frequencies": 6, "frequency_scale": 1.0, "resolution": 8},
    "incode": {"width": 12, "hidden_layers": 1},
    "msiren": {"width": 12, "latent_dim": 4, "strides": 3},
    "gaussian_image": {"gaussians": 30, "pixels": (8, 8), "tile": 3},
    "neurbf": {"kernels": 9, "features": 6, "grid_log2_entries": 6, "grid_min": 4, "grid_max": 8, "width": 8},
    "ngp": {"grid_levels": 2, "grid_log2_entries": 6, "grid_min": 4, "grid_max": 8, "width": 8},
    "grid": {"grid_levels": 2, "grid_log2_entries": 6, "grid_min": 4, "grid_max": 8, "width": 8},
    "flair": {"width": 6, "hidden_layers": 1, "sigma": 2.0},
    "metric_grids": {"grid_levels": 2, "grid_log2_entries": 6, "grid_min": 4, "grid_max": 8, "width": 8},
    "cafe": {"width": 12, "frequencies": 6, "frequency_scale": 1.0, "polynomials": 5},
    "sasnet": {"preset": "toy", "embedding_width": 16, "hidden_widths": (8, 8), "band_limit": 8, "low_range": 2},
    "sasnet-paper": {"embedding_width": 16, "hidden_widths": (8, 8), "band_limit": 8, "low_range": 2, "grid_levels": 2},
    "sasnet-grid": {"embedding_width": 16, "hidden_widths": (8,), "groups": (2,), "band_limit": 8, "low_range": 2},
}


def small(name, in_dim=2, out_dim=3, **options):
    torch.manual_seed(0)
    compiled = ("neurbf", "ngp", "grid", "metric_grids", "sasnet", "sasnet-paper", "sasnet-grid", "siren")
    kernels = {"implementation": "torch"} if name in compiled else {}  # no time to compile here
    return build_network(name, in_dim, out_dim, **{**kernels, **SMALL[name], **options})


def random_points(count, in_dim=2, dtype=torch.float64):
    return torch.rand(count, in_dim, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9


def test_every_network_has_a_small_version_here():
    assert set(SMALL) == set(network_names())


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("siren", "image", 133_123),
        ("finer", "image", 133_123),
        ("wire", "image", 133_403),
        ("ffn", "image", 134_083),
        ("sape", "image", 134_403),
        ("gaussian_image", "image", 133_120),
        ("neurbf", "image", 128_871),
        ("incode", "image", 139_495),
        ("msiren", "image", 129_015),
        ("pemlp", "image", 143_363),
        ("gauss", "image", 133_123),
        ("pemlp", "volume", 148_225),
        ("siren", "volume", 132_865),
        ("gauss", "volume", 132_865),
        ("wire", "sdf", 132_856),
        ("finer", "sdf", 132_865),
    ],
)
def test_parameters_at_the_papers_settings(name, preset, count):
    assert parameter_count(name, *TASKS[preset], preset=preset) == count


@pytest.mark.parametrize("table", ROWS)
def test_rows_of_a_table_have_equal_sizes(table):
    rows = parameter_counts(table)
    assert tuple(row.network for row in rows) == ROWS[table]
    counts = [row.table for row in rows]
    assert max(counts) <= 1.03 * min(counts)
    for row in rows:
        network = build_network(row.network, *TASKS["image" if table == "step" else table], **row.options)
        assert network.parameter_count() == row.table


def test_sizes_follow_the_wish_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    for parameters in (11_000, 60_000):
        options = sized_options("finer", 2, 3, parameters, preset="image")
        assert options["preset"] == "image"
        assert abs(parameter_count("finer", 2, 3, **options) / parameters - 1) < 0.02
    assert torch.rand(1) == expected
    options = sized_options("sasnet", 2, 3, 60_000, preset="image", embedding="siren", masks=False)
    assert abs(parameter_count("sasnet", 2, 3, **options) / 60_000 - 1) < 0.01
    with pytest.raises(ValueError, match="has at least"):
        sized_options("ngp", 2, 3, 1000)


def test_presets_refuse_in_one_sentence():
    with pytest.raises(ValueError, match="'ffn' has no preset 'sdf'; it has image, toy"):
        build_network("ffn", 3, 1, preset="sdf")
    with pytest.raises(ValueError, match="'ngp' has no preset 'image'; it has none"):
        build_network("ngp", 2, 3, preset="image")
    assert build_network("siren", 2, 3, preset="image", width=8).omega_0 == 43


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
def test_one_to_four_coordinates(name, in_dim):
    limits = {"gaussian_image": (2, "2 coordinates"), "sape": (3, "1 to 3")}
    largest, message = limits.get(name, (4, ""))
    if in_dim > largest or (name == "gaussian_image" and in_dim != 2):
        with pytest.raises(ValueError, match=message):
            small(name, in_dim)
        return
    network = small(name, in_dim, 2)
    assert network(torch.rand(3, 5, in_dim) * 2 - 1).shape == (3, 5, 2)
    assert network(torch.rand(in_dim)).shape == (2,)
    assert network(torch.rand(0, in_dim)).shape == (0, 2)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_derivatives_match_finite_differences(name):
    """Coordinates and every parameter, in double precision."""
    network = small(name, 2, 2).double()
    if name == "sape":
        network.open_blocks.uniform_(0.3, 4.7)
    if name == "incode":
        network.features.normal_()
    x = random_points(6).requires_grad_()
    parameters = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in parameters:
            if parameter.abs().max() < 1e-3:  # tables and features start too small to see
                parameter.uniform_(-0.5, 0.5)
    gradients = torch.autograd.grad(network(x).square().sum(), [x, *parameters])

    def loss():
        with torch.no_grad():
            return network(x).square().sum().item()

    generator = torch.Generator().manual_seed(0)
    for tensor, gradient in zip([x, *parameters], gradients, strict=True):
        largest = int(gradient.abs().argmax())
        for flat in {largest, *torch.randint(gradient.numel(), (3,), generator=generator).tolist()}:
            entry = tensor.detach().view(-1)[flat : flat + 1]
            start, values = entry.clone(), []
            for step in (1e-6, -1e-6):
                entry.copy_(start + step)
                values.append(loss())
            entry.copy_(start)
            expected = (values[0] - values[1]) / 2e-6
            assert gradient.view(-1)[flat].item() == pytest.approx(expected, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_state_brings_back_the_function(name):
    """After looking at a signal and training steps, a state dict alone restores the values."""
    if name == "incode":
        pytest.importorskip("torchvision")
    network = small(name)
    signal = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(2))
    network.initialize_from(signal)
    x = random_points(40, dtype=torch.float32)
    for step in range(1, 5):
        network.on_step(step, 8, x, torch.ones(40))
    again = small(name)
    with torch.no_grad():
        for tensor in again.state_dict().values():
            tensor.zero_()
    again(x)
    again.load_state_dict(copy.deepcopy(network.state_dict()))
    assert torch.equal(again(x), network(x))


def test_most_networks_have_no_penalty():
    for name in set(SMALL) - {"incode"}:
        assert small(name).penalty() == 0


def linears_of(network):
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("name", ["gauss", "pemlp", "ffn", "sape"])
def test_torchs_default_initialisation(name):
    torch.manual_seed(0)
    for layer in linears_of(build_network(name, 2, 3)):
        bound = 1 / math.sqrt(layer.in_features)
        assert layer.weight.abs().max() <= bound
        if layer.weight.numel() > 500:
            assert layer.weight.abs().max() > 0.98 * bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_gauss_is_its_formula():
    network = Gauss(2, 3, width=7, hidden_layers=1, scale=30.0).double()
    x = random_points(20)
    h = torch.exp(-((30 * (x @ network.first.weight.T + network.first.bias)) ** 2))
    h = torch.exp(-((30 * (h @ network.hidden[0].weight.T + network.hidden[0].bias)) ** 2))
    assert torch.allclose(network(x), h @ network.output.weight.T + network.output.bias, atol=1e-12)


def test_wire_is_its_formula():
    network = Wire(2, 3, width=5, hidden_layers=1, omega=20.0, sigma=10.0).double()
    x = random_points(50) * 0.1

    def gabor(z):
        return torch.exp(1j * 20 * z - (10 * z).abs() ** 2)

    def affine(layer, h):
        return h @ torch.view_as_complex(layer.weight).T + torch.view_as_complex(layer.bias)

    h = gabor((x @ network.first.weight.T + network.first.bias).to(torch.complex128))
    h = gabor(affine(network.hidden[0], h))
    assert torch.allclose(network(x), affine(network.output, h).real, atol=1e-12)
    assert h.abs().max() > 0.1, "a formula that underflows to zero would compare nothing"


def test_complex_layers_start_as_torchs_and_hold_real_numbers():
    torch.manual_seed(0)
    ours, theirs = ComplexLinear(100, 200), nn.Linear(100, 200, dtype=torch.cfloat)
    assert not ours.weight.is_complex() and ours.weight.numel() == 2 * theirs.weight.numel()
    ours_complex = torch.view_as_complex(ours.weight)
    for part in ("real", "imag"):
        expected = getattr(theirs.weight, part)
        assert getattr(ours_complex, part).std().item() == pytest.approx(expected.std().item(), rel=0.02)
        assert getattr(ours_complex, part).abs().max().item() == pytest.approx(0.1, rel=0.01)


def test_wire_has_a_gradient_where_z_is_zero():
    network = Wire(1, 1, width=4)
    nn.init.zeros_(network.first.bias)
    gradient = network.gradient(torch.zeros(1, 1))
    assert torch.isfinite(gradient).all()


def test_positional_encoding_values():
    features = PEMLP(2, 1, octaves=3).encode(torch.tensor([[0.3, -0.7]]))[0]
    expected = [0.3, -0.7]
    for octave in (1, 2, 4):
        expected += [math.sin(octave * 0.3), math.sin(octave * -0.7), math.cos(octave * 0.3), math.cos(octave * -0.7)]
    assert features.tolist() == pytest.approx(expected, abs=1e-6)
    assert PEMLP(3, 1).encoding_dim == 63 and PEMLP(3, 1, include_input=False).encoding_dim == 60
    turned = PEMLP(1, 1, octaves=1, base=math.pi, include_input=False).encode(torch.tensor([[0.5]]))
    assert turned[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_fourier_features_values_and_laws():
    network = FFN(2, 1, frequencies=2)
    network.frequencies.copy_(torch.tensor([[1.0, 0.0], [2.0, -3.0]]))
    angles = [2 * math.pi * 0.1, 2 * math.pi * (2 * 0.1 - 3 * 0.2)]
    expected = [f(a) for a in angles for f in (math.sin, math.cos)]
    assert network.encode(torch.tensor([[0.1, 0.2]]))[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert "frequencies" not in dict(network.named_parameters())

    torch.manual_seed(0)
    normal = fourier_frequencies(20_000, 2, 5.0, "normal")
    assert normal.std(0).tolist() == pytest.approx([5, 5], rel=0.03)
    radial = fourier_frequencies(20_000, 2, 20.0, "radial")
    length = radial.norm(dim=1)
    # Half-normal lengths in uniform directions: low frequencies are common, unlike with the normal law.
    assert length.square().mean().sqrt().item() == pytest.approx(20, rel=0.03)
    assert (length < 2).float().mean().item() == pytest.approx(math.erf(0.1 / math.sqrt(2)), rel=0.1)
    for drawn in (normal, radial):
        lengths = drawn.norm(dim=1)
        assert (lengths[1:] >= lengths[:-1] - 1e-4).all(), "sorted from low to high"


@pytest.mark.parametrize("name", ["siren", "finer"])
def test_sine_networks_are_their_formulas(name):
    torch.manual_seed(0)
    kind = {"siren": Siren, "finer": Finer}[name]
    network = kind(2, 3, width=7, hidden_layers=2, omega_0=12.0).double()
    h = random_points(20)
    for layer in (network.first, *network.hidden):
        z = h @ layer.weight.T + layer.bias
        h = torch.sin(12 * (z if name == "siren" else (z.abs() + 1) * z))
    assert torch.allclose(network(random_points(20)), h @ network.output.weight.T + network.output.bias, atol=1e-12)


@pytest.mark.parametrize("name", ["siren", "finer", "incode", "msiren"])
def test_sine_networks_start_from_sirens_laws(name):
    """First weights U(+-1/d), the others U(+-sqrt(6/n)/omega_0), biases torch's U(+-1/sqrt(n)) (SIREN, Sec. 3.2)."""
    torch.manual_seed(0)
    network = build_network(name, 2, 3, preset="image")
    layers = [*network.synthesis] if name == "msiren" else [network.first, *network.hidden]
    omega_0 = {"siren": 43, "finer": 43}.get(name, 30)
    for layer in (*layers, network.output):
        bound = 1 / 2 if layer is layers[0] else math.sqrt(6 / layer.in_features) / omega_0
        assert 0.97 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    for layer in layers[1:]:
        assert 0.9 / math.sqrt(layer.in_features) < layer.bias.abs().max() <= 1 / math.sqrt(layer.in_features)


def test_siren_spreads_its_activations_evenly_through_the_layers():
    """What the laws are for: every layer's output has the arcsine distribution's deviation, 1 / sqrt(2)."""
    torch.manual_seed(0)
    network = build_network("siren", 2, 3, width=256, hidden_layers=4, omega_0=30.0, implementation="torch")
    h = random_points(2_000, dtype=torch.float32)
    for layer in (network.first, *network.hidden):
        h = network._activation(h, layer, exact=False)
        assert h.std().item() == pytest.approx(1 / math.sqrt(2), rel=0.08)


def test_finers_first_bias_is_what_the_papers_set():
    torch.manual_seed(0)
    wide = Finer(3, 1, first_bias_scale=1.0).first.bias
    assert 0.97 < wide.abs().max() <= 1 and wide.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.1)
    usual = Finer(3, 1, first_bias_scale=None).first.bias
    assert 0.5 < usual.abs().max() <= 1 / math.sqrt(3)
    assert (build_network("finer", 2, 3, preset="image").first.bias == 0).all(), "the SASNet paper's images"


@pytest.mark.parametrize("kind", [PEMLP, FFN, SAPE])
def test_encoded_networks_are_relu_networks_on_their_encoding(kind):
    torch.manual_seed(0)
    network = kind(2, 3, width=9, hidden_layers=2).double()
    if kind is SAPE:
        network.open_blocks.fill_(17.5)
    x = random_points(20)
    h = network.encode(x)
    assert h.shape == (20, {PEMLP: 42, FFN: 512, SAPE: 514}[kind])
    for layer in network.layers[::2]:
        h = torch.relu(h @ layer.weight.T + layer.bias)
    assert torch.allclose(network(x), h @ network.output.weight.T + network.output.bias, atol=1e-12)


def test_hash_grid_network_is_its_formula_and_starts_as_published():
    """Levels that are not hashed, written out as bilinear interpolation of tables; instant-ngp's U(+-1e-4)."""
    torch.manual_seed(0)
    network = HashGridMLP(
        2, 3, levels=2, log2_entries=8, grid_min=4, grid_max=8, width=6, implementation="torch"
    ).double()
    assert 0.97e-4 < network.table.abs().max() <= 1e-4
    with torch.no_grad():
        network.table.normal_()
    x = random_points(30)
    features, first = [], 0
    for side in network.layout.resolutions:
        table = network.table[first : first + side**2].reshape(side, side, 2).transpose(0, 1)  # first axis fastest
        first += side**2
        place = (x + 1) / 2 * (side - 1)
        low = place.floor().clamp(max=side - 2).long()
        part = place - low
        total = 0
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (part[:, 0] if i else 1 - part[:, 0]) * (part[:, 1] if j else 1 - part[:, 1])
            total = total + weight[:, None] * table[low[:, 0] + i, low[:, 1] + j]
        features.append(total)
    h = torch.cat(features, 1)
    for layer in (network.mlp[0], network.mlp[2]):
        h = torch.relu(h @ layer.weight.T + layer.bias)
    last = network.mlp[4]
    assert torch.allclose(network(x), h @ last.weight.T + last.bias, atol=1e-10)


def test_neurbf_and_sasnet_start_as_published():
    torch.manual_seed(0)
    neurbf = build_network("neurbf", 2, 3, preset="image", implementation="torch")
    for drawn in (neurbf.table, neurbf.kernel_weight):
        assert 0.97e-4 < drawn.abs().max() <= 1e-4
    sasnet = build_network("sasnet", 2, 3, preset="image", implementation="torch")
    for layer in (*sasnet.hidden, sasnet.output):
        bound = math.sqrt(6 / layer.in_features) / 43
        assert 0.97 * bound < layer.weight.abs().max() <= bound
    assert 0.97 / math.sqrt(2) < sasnet.phase.abs().max() <= 1 / math.sqrt(2)
    assert sasnet.mask_generator.table.std().item() == pytest.approx(0.01, rel=0.05)


def test_msirens_codes_and_modulator_start_at_their_scale():
    """Codes N(0, 1/latent_dim), so that their length is one; the modulator as torch draws a linear layer."""
    torch.manual_seed(0)
    network = build_network("msiren", 2, 3)
    assert network.codes.norm(dim=1).mean().item() == pytest.approx(1, rel=0.02)
    for layer in network.modulator:
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.97 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize(("name", "dims"), [("ngp", (2, 3)), ("grid", (3, 1)), ("metric_grids", (2, 3))])
def test_a_hash_grid_of_a_size_keeps_neurons_to_read_it(name: str, dims: tuple[int, int]) -> None:
    for parameters in (30_000, 60_000, 100_000):
        options = sized_options(name, *dims, parameters)
        assert options["width"] >= 16 and abs(parameter_count(name, *dims, **options) / parameters - 1) < 0.05
    assert sized_options("ngp", 2, 3, 60_000, grid_log2_entries=12)["grid_log2_entries"] == 12


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 56,669 parameters, not 40,000.*embedding_width"):
        sized_options("sasnet", 3, 1, 40_000, preset="sdf_compact")


def test_sasnets_by_other_names_have_sizes_too() -> None:
    for name, preset in (("sasnet-paper", "sdf"), ("sasnet-grid", "sdf_grid")):
        options = sized_options(name, 3, 1, 200_000)
        assert parameter_count(name, 3, 1, **options) == parameter_count("sasnet", 3, 1, preset=preset, **options)
        assert abs(parameter_count(name, 3, 1, **options) / 200_000 - 1) < 0.1


@pytest.mark.parametrize("name", [name for name in SMALL if name != "gaussian_image"])
def test_a_file_of_weights_holds_all_of_a_network(name):
    """What is built without numbers has them all from the file, and what is computed from options besides."""
    wanted = small(name, 3)
    with torch.device("meta"):
        network = small(name, 3)
    network = network.to_empty(device="cpu")
    network.load_state_dict(wanted.state_dict())
    x = random_points(20, 3, torch.float32)
    assert torch.equal(network(x), wanted(x))
