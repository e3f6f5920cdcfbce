import math

import pytest
import torch

from sasnet_ns.analysis import expand_network, expand_neuron, input_frequencies, radial_spectrum
from sasnet_ns.analysis.bessel import merge_frequencies
from sasnet_ns.analysis.contribution import neuron_contributions
from sasnet_ns.networks import build_network, network_names


@pytest.mark.parametrize("weights", [[0.7], [1.3, -0.4], [0.9, -1.7, 0.3]])
def test_a_sine_of_sines_is_its_expansion(weights):
    """Equation 5 for one neuron, at arbitrary inputs y."""
    weights = torch.tensor(weights, dtype=torch.float64)
    k, alpha, left_out = expand_neuron(weights, tolerance=1e-10)
    y = torch.randn(100, len(weights), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    expected = torch.sin(torch.sin(y) @ weights + 0.6)
    got = torch.sin(y @ k.double().T + 0.6) @ alpha
    assert (got - expected).abs().max() <= left_out + 1e-12 and left_out < 1e-6
    assert (alpha.abs()[1:] <= alpha.abs()[:-1]).all()


def test_the_bound_on_what_is_left_out_holds_and_is_not_idle():
    weights = torch.tensor([1.5, 0.8, -1.1], dtype=torch.float64)
    y = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.sin(torch.sin(y) @ weights)
    errors, bounds = [], []
    for tolerance in (1e-1, 1e-2, 1e-4):
        k, alpha, left_out = expand_neuron(weights, tolerance)
        errors.append((torch.sin(y @ k.double().T) @ alpha - expected).abs().max().item())
        bounds.append(left_out)
    assert all(error <= bound for error, bound in zip(errors, bounds, strict=True))
    assert errors[0] > errors[1] > 10 * errors[2]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("siren", {"width": 4, "hidden_layers": 1, "implementation": "torch"}),
        (
            "sasnet",
            {
                "embedding_width": 6, "hidden_widths": (5,), "groups": (0,), "masks": False, "band_limit": 6,
                "low_range": 2, "bands": 1, "implementation": "torch",
            },
        ),
    ],
)  # fmt: skip
def test_a_network_is_its_expansion(name, options):
    torch.manual_seed(0)
    network = build_network(name, 2, 3, **options).double()
    series = expand_network(network, tolerance=1e-6 if name == "sasnet" else 1e-7)
    x = torch.rand(60, 2, dtype=torch.float64) * 2 - 1
    error = (series(x) - network(x)).abs().amax(0)
    assert (error <= series.error_bound + 1e-10).all()
    assert error.max() < 1e-3 * network(x).std()


def test_a_frozen_embedding_gives_a_fourier_series():
    """Theorem 1's consequence: only whole frequencies, with the amplitudes that a Fourier transform finds."""
    torch.manual_seed(0)
    network = build_network(
        "sasnet", 1, 1, embedding_width=4, hidden_widths=(3,), groups=(0,), masks=False, band_limit=6, low_range=2,
        bands=1, implementation="torch",
    ).double()  # fmt: skip
    series = merge_frequencies(expand_network(network, tolerance=1e-9))
    cycles = series.frequencies[:, 0] / math.pi
    assert (cycles - cycles.round()).abs().max() < 1e-5
    n = 512
    x = torch.arange(n, dtype=torch.float64)[:, None] * 2 / n - 1
    assert torch.allclose(series(x), network(x), atol=1e-6)
    lines = torch.fft.rfft(network(x)[:, 0].detach()).abs() * 2 / n
    half = len(series.amplitudes) // 2
    amplitude = torch.hypot(series.amplitudes[:half, 0], series.amplitudes[half:, 0])
    for cycle, expected in zip(cycles[:half].round().int().tolist(), amplitude.tolist(), strict=True):
        if 0 < cycle < n // 2:
            assert lines[cycle].item() == pytest.approx(expected, abs=1e-6)
    assert amplitude.max() > 0.01


@pytest.mark.parametrize("period", [2.0, 2 / 0.95, 1.7])
def test_equal_frequencies_of_a_frozen_embedding_are_brought_together(period):
    """They are sums of numbers in single precision; 11 % of these lines used to be split."""
    torch.manual_seed(0)
    network = build_network(
        "sasnet", 2, 1, embedding_width=6, hidden_widths=(5,), groups=(0,), masks=False, band_limit=20, low_range=4,
        bands=1, period=period,
    )  # fmt: skip
    series = expand_network(network, tolerance=1e-5)
    merged = merge_frequencies(series)
    whole = (series.frequencies * period / (2 * math.pi)).round()
    sign = torch.where(whole[:, 0] != 0, whole[:, 0].sign(), whole[:, 1].sign())
    distinct = (whole * torch.where(sign == 0, 1.0, sign)[:, None] + 0.0).unique(dim=0)
    assert len(merged.frequencies) == 2 * len(distinct)
    x = torch.rand(50, 2, dtype=torch.float64) * 2 - 1
    assert (merged(x) - series(x)).abs().max() < 1e-4


def test_a_hidden_layer_as_wide_as_the_input_has_contributions():
    found = neuron_contributions(build_network("siren", 2, 1, width=2, coordinate_scale=0.5), torch.rand(7, 2) - 0.5)
    assert list(found) == ["hidden.0.weight", "hidden.1.weight", "output.weight"]


def test_what_cannot_be_expanded_says_so():
    for network in (build_network("siren", 2, 1, width=4), build_network("finer", 2, 1, width=4, hidden_layers=1)):
        with pytest.raises(ValueError, match="one hidden layer"):
            expand_network(network)
    with pytest.raises(ValueError, match="more than 50 terms"):
        expand_neuron(torch.tensor([2.0, 2.0, 2.0]), max_terms=50)


def test_input_frequencies_are_counted_in_cycles_per_side():
    network = build_network("sasnet", 2, 3, preset="toy")
    cycles = input_frequencies(network)
    assert torch.allclose(cycles, cycles.round(), atol=1e-4) and cycles.abs().max() <= 60.001
    siren = build_network("siren", 2, 1, width=500, omega_0=30.0)
    assert input_frequencies(siren).abs().max().item() == pytest.approx(30 * 0.5 / math.pi, rel=0.01)
    with torch.no_grad():
        siren.first.weight.mul_(2)
    assert input_frequencies(siren).abs().max().item() == pytest.approx(30 / math.pi, rel=0.01)
    octaves = input_frequencies(build_network("pemlp", 2, 1, octaves=2)) * math.pi
    assert torch.allclose(octaves, torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 2]]))
    assert input_frequencies(build_network("ffn", 3, 1, frequencies=7)).shape == (7, 3)
    with pytest.raises(ValueError, match="Gauss has no frequencies"):
        input_frequencies(build_network("gauss", 2, 1))


def test_radial_spectrum_finds_a_wave():
    x = torch.arange(64) * 2 / 64 - 1
    rows, columns = torch.meshgrid(x, x, indexing="ij")
    frequency, amplitude = radial_spectrum(0.25 + 0.8 * torch.sin(math.pi * (3 * rows + 4 * columns)))
    assert frequency.tolist() == list(range(33))
    assert amplitude[0].item() == pytest.approx(0.25)
    ring = sum(round(math.hypot(i, j)) == 5 for i in range(-32, 32) for j in range(-32, 32))
    assert amplitude[5].item() == pytest.approx(0.4 * math.sqrt(2 / ring), rel=1e-6)
    rest = torch.cat((amplitude[1:5], amplitude[6:]))
    assert rest.max() < 1e-7


def test_coordinates_that_are_scaled_count():
    torch.manual_seed(0)
    options = {"width": 4, "hidden_layers": 1, "omega_0": 3.0, "coordinate_scale": 0.5, "implementation": "torch"}
    network = build_network("siren", 2, 1, **options).double()
    series = expand_network(network, tolerance=1e-7)
    x = torch.rand(60, 2, dtype=torch.float64) * 2 - 1
    assert ((series(x) - network(x)).abs().amax(0) <= series.error_bound + 1e-10).all()
    for name in ("siren", "finer", "pemlp"):
        torch.manual_seed(0)
        whole = input_frequencies(build_network(name, 3, 1))
        torch.manual_seed(0)
        assert torch.allclose(input_frequencies(build_network(name, 3, 1, coordinate_scale=0.5)), 0.5 * whole)


def test_an_incode_is_no_siren():
    network = build_network("incode", 2, 1, width=4, hidden_layers=1)
    with pytest.raises(ValueError, match="only a SIREN"):
        expand_network(network)
    with pytest.raises(ValueError, match="Incode has no frequencies"):
        input_frequencies(network)


@pytest.mark.parametrize("name", [name for name in network_names() if name != "gaussian_image"])
def test_contributions_of_every_network_have_a_row_a_point(name):
    small = {"width": 16} if name not in ("sasnet", "sasnet-paper", "sasnet-grid", "neurbf") else {}
    x = torch.rand(50, 2) * 2 - 1
    found = neuron_contributions(build_network(name, 2, 3, **small), x)
    assert all(part.shape[0] == 50 and torch.isfinite(part).all() for part in found.values())
