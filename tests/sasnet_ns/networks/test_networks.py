import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sasnet_ns.networks import (
    SASNetConfig,
    SignedDistanceField,
    build_network,
    network_names,
    network_values,
    sample_frequencies,
)
from sasnet_ns.networks.frequencies import high_candidates, low_candidates


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("sdf", 130_917),
        ("sdf_grid", 132_809),
        ("sdf_compact", 117_573),
        ("volume", 138_181),
        ("image", 128_867),
        ("tiger_p", 129_841),
        ("tiger_d", 214_001),
    ],
)
def test_presets_have_their_parameter_counts(preset, count):
    assert getattr(SASNetConfig, preset)().setup().parameter_count() == count


@pytest.mark.parametrize(("name", "count"), [("siren", 132_865), ("finer", 132_865), ("ngp", 128_193)])
def test_baselines_have_the_tables_parameter_counts(name, count):
    assert build_network(name, in_dim=3, out_dim=1).parameter_count() == count


@pytest.mark.parametrize(
    ("in_dim", "low", "band_limit", "high_count", "n_low", "n_high"),
    [(2, 12, 60, 128, 324, 216), (2, 12, 60, 200, 324, 310), (3, 6, 30, 128, 1182, 4776), (3, 6, 40, 128, 1182, 4833)],
)
def test_candidate_frequencies_follow_the_authors_rule(in_dim, low, band_limit, high_count, n_low, n_high):
    assert len(low_candidates(in_dim, low)) == n_low
    assert len(high_candidates(in_dim, low, band_limit, high_count)) == n_high


def test_frequencies_are_sorted_into_low_group_and_bands():
    drawn = sample_frequencies(256, 2, band_limit=60, low_range=12)
    k = drawn.multipliers
    assert k.dtype == torch.int64 and k.shape == (256, 2)
    assert torch.equal(k[:2], torch.eye(2, dtype=torch.int64))
    assert sum(drawn.group_sizes) == 256 and drawn.group_sizes[0] == 128
    largest = k.abs().amax(1)
    assert (largest[:128] <= 12).all() and (largest[:128] >= 1).all()
    assert (largest[128:] > 12).all() and (largest[128:] <= 60).all()
    cuts = np.linspace(12, 61, 5)
    edges = np.cumsum(drawn.group_sizes)
    for band in range(4):
        members = largest[edges[band] : edges[band + 1]]
        assert (members >= cuts[band]).all() and (members < cuts[band + 1]).all()
    assert (k[128:].unique(dim=0).shape[0]) == 128, "high frequencies must not repeat"
    assert (k[:, 0] >= 0).all(), "only half of the frequency plane is needed"


def test_first_layer_holds_the_stated_frequencies_and_is_frozen():
    net = SASNetConfig.sdf().setup()
    cycles = net.frequencies * net.config.period / (2 * math.pi)
    drawn = sample_frequencies(256, 3, 30, 6)
    assert torch.allclose(cycles, drawn.multipliers.float(), atol=1e-4)
    assert "frequencies" not in dict(net.named_parameters())
    # The spectrum itself: along the first axis, neuron j is a pure tone of k_j cycles per period.
    net = SASNetConfig.sdf(masks=False).setup()
    x = torch.zeros(256, 3)
    x[:, 0] = torch.arange(256) * 2 / 256 - 1
    h = net._embed(x, None, [], 256).detach()
    spectrum = torch.fft.rfft(h, dim=0).abs()
    tones = drawn.multipliers[:, 0]
    other = (drawn.multipliers[:, 1:] != 0).any(1)
    assert torch.equal(spectrum.argmax(0)[tones > 0], tones[tones > 0])
    assert torch.allclose(h[:, (tones == 0) & other].std(0), torch.tensor(0.0), atol=1e-4)


def test_same_frequencies_for_every_seed_of_the_run():
    torch.manual_seed(0)
    a = SASNetConfig.sdf().setup()
    torch.manual_seed(1)
    b = SASNetConfig.sdf().setup()
    assert torch.equal(a.frequencies, b.frequencies)
    assert not torch.equal(a.phase, b.phase)


def test_masks_start_near_one_half_and_the_low_group_has_none():
    torch.manual_seed(0)
    net = SASNetConfig.sdf().setup()
    embedding, first, second = net.masks(torch.rand(4, 25, 3) * 2 - 1)
    assert embedding.shape == (4, 25, 4) and first.shape == (4, 25, 8) and second.shape == (4, 25, 8)
    for mask in (embedding, first, second):
        assert (mask > 0.35).all() and (mask < 0.65).all()


def test_forward_is_the_formula():
    """Equations 2 and 3 of the paper written out with full-width masks."""
    torch.manual_seed(0)
    net = SASNetConfig.sdf(implementation="torch").setup().double()
    x = torch.rand(50, 3, dtype=torch.float64) * 2 - 1
    m0, m1, m2 = net.masks(x)
    low, *bands = net.band_sizes
    wide = [torch.ones(50, low, dtype=torch.float64)]
    wide += [m0[:, [i]].expand(-1, n) for i, n in enumerate(bands)]
    h = torch.cat(wide, 1) * torch.sin(x @ net.frequencies.T + net.phase)
    for layer, mask in zip(net.hidden, (m1, m2), strict=True):
        h = mask.repeat_interleave(layer.out_features // 8, 1) * torch.sin(30 * (h @ layer.weight.T + layer.bias))
    assert torch.allclose(net(x), h @ net.output.weight.T + net.output.bias, atol=1e-12)


def test_masks_off_and_single_layers_unmasked():
    assert SASNetConfig.sdf(masks=False).setup().mask_generator is None
    net = SASNetConfig.sdf(groups=(0, 8)).setup()
    embedding, first, second = net.masks(torch.zeros(2, 3))
    assert embedding.shape == (2, 4) and first is None and second.shape == (2, 8)
    net(torch.zeros(2, 3)).sum().backward()
    assert SASNetConfig.sdf(embedding="siren").setup()(torch.zeros(2, 3)).shape == (2, 1)


def test_leaving_out_bands_equals_closing_their_masks():
    torch.manual_seed(0)
    net = SASNetConfig.sdf().setup()
    x = torch.rand(64, 3) * 2 - 1
    keep = sum(net.band_sizes[:3])
    preview = net(x, bands=2)
    with torch.no_grad():
        net.hidden[0].weight[:, keep:] = 0
    assert torch.allclose(preview, net(x), atol=1e-5)
    with pytest.raises(ValueError, match="between 0 and 4"):
        net(x, bands=5)


@pytest.mark.parametrize("name", sorted(set(network_names()) - {"gaussian_image"}))
@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 5, 3), (0, 3)])
def test_any_batch_shape(name, shape):
    net = build_network(name, in_dim=3, out_dim=2, **({"resolution": 8} if name == "sape" else {}))
    assert net(torch.rand(shape) * 2 - 1).shape == (*shape[:-1], 2)


@pytest.mark.parametrize("name", ["sasnet", "siren", "finer"])
def test_gradient_matches_finite_differences(name):
    torch.manual_seed(0)
    extra = {"detach_scale": False} if name == "finer" else {}
    net = build_network(name, in_dim=3, out_dim=1, **extra).double()
    x = torch.rand(20, 3, dtype=torch.float64) * 1.8 - 0.9
    gradient = net.gradient(x)
    eps = 1e-6
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = eps
        difference = (net(x + step) - net(x - step))[:, 0] / (2 * eps)
        assert torch.allclose(gradient[:, axis], difference, rtol=1e-4, atol=1e-6)


def test_gradient_is_differentiable_again():
    """An Eikonal loss's parameter gradient against finite differences of that loss."""
    torch.manual_seed(0)
    net = SASNetConfig.sdf().setup().double()
    x = torch.rand(10, 3, dtype=torch.float64) * 1.8 - 0.9

    def eikonal():
        return (net.gradient(x).norm(dim=-1) - 1).square().mean()

    eikonal().backward()
    for parameter in (net.phase, net.hidden[0].weight, net.mask_generator.table, net.mask_generator.decoder_in.weight):
        index = tuple(int(i) for i in torch.nonzero(parameter.grad.abs() == parameter.grad.abs().max())[0])
        with torch.no_grad():
            values = []
            for delta in (1e-6, -2e-6):
                parameter[index] += delta
                values.append(eikonal().item())
            parameter[index] += 1e-6
        assert parameter.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_embedding_and_output_stay_fp32_under_autocast():
    net = SASNetConfig.sdf().setup()
    seen = {}
    net.output.register_forward_hook(lambda module, inputs, output: seen.update(i=inputs[0].dtype, o=output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = net._embed(torch.rand(5, 3), None, [], 256)
        net(torch.rand(5, 3))
    assert h.dtype == torch.float32 and seen == {"i": torch.float32, "o": torch.float32}


def test_parameter_roles_cover_everything_once():
    net = SASNetConfig.sdf().setup()
    roles = net.parameter_roles()
    listed = [id(p) for parameters in roles.values() for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())
    assert [tuple(p.shape) for p in roles["hidden"]] == [(224, 256), (224, 224)]
    assert sum(p.numel() for p in roles["masks"]) == 20_480 + 1_988


def test_finer_detaches_its_scale_by_default():
    net = build_network("finer", in_dim=1, out_dim=1, first_bias_scale=0.0)
    assert (net.first.bias == 0).all()
    z = torch.tensor([[0.3]])
    net.first.weight.data.fill_(1.0)
    h = net._activation(z, net.first, exact=False)[0, 0]
    assert h.item() == pytest.approx(math.sin(30 * 1.3 * 0.3), abs=1e-5)
    h.backward()
    expected = math.cos(30 * 1.3 * 0.3) * 30 * 1.3 * 0.3
    assert net.first.weight.grad[0, 0].item() == pytest.approx(expected, rel=1e-4)


def test_registry_refuses_in_one_sentence():
    with pytest.raises(ValueError, match="no network is called 'resnet'"):
        build_network("resnet", 3, 1)
    with pytest.raises(ValueError, match="does not take these options"):
        build_network("siren", 3, 1, grid_levels=3)
    with pytest.raises(ValueError, match="does not divide into 8 groups"):
        build_network("sasnet", 3, 1, hidden_widths=(225, 224))
    with pytest.raises(ValueError, match="one each"):
        build_network("sasnet", 3, 1, hidden_widths=(224,))


def test_field_round_trip_keeps_values_and_frame(tmp_path):
    field = SignedDistanceField("siren", {"width": 32}, center=torch.tensor([1.0, 2.0, 3.0]), scale=0.5)
    field.save(tmp_path / "field.pt")
    again = SignedDistanceField.load(tmp_path / "field.pt")
    x = torch.rand(10, 3) - 0.5
    assert torch.equal(field(x), again(x))
    assert again.center.tolist() == [1, 2, 3] and again.scale.item() == 0.5
    assert list(tmp_path.iterdir()) == [tmp_path / "field.pt"]
    value, gradient = field.value_and_gradient(x)
    assert torch.allclose(value, field(x)) and gradient.shape == (10, 3)
    eps = torch.tensor([1e-3, 0, 0])
    assert torch.allclose(gradient[:, 0], (field(x + eps) - field(x - eps)) / 2e-3, atol=2e-2)
    (tmp_path / "text.pt").write_text("no field")
    with pytest.raises(ValueError, match="is not a field"):
        SignedDistanceField.load(tmp_path / "text.pt")


def test_a_network_of_ones_own_is_built_by_name() -> None:
    from sasnet_ns.networks import Siren, build_network, network_names, register_network, registry

    class Mine(Siren):
        """A network that nobody else has."""

    try:
        register_network("mine", Mine)
        register_network("mine", Mine)  # the same one again: a module that is imported twice
        assert "mine" in network_names()
        network = build_network("mine", in_dim=2, out_dim=3, width=8)
        assert isinstance(network, Mine) and (network.in_dim, network.out_dim) == (2, 3)
        with pytest.raises(ValueError, match="'mine' does not take these options"):
            build_network("mine", in_dim=2, out_dim=3, widht=8)
        with pytest.raises(ValueError, match="called 'siren' already"):
            register_network("siren", Mine)
        assert type(build_network("siren", in_dim=2, out_dim=3, width=8)) is Siren
    finally:
        registry._BUILDERS.pop("mine", None)


@pytest.mark.parametrize("preset", ["image", "volume", "sdf", "sdf_compact", "tiger_p", "tiger_d", "toy"])
def test_no_preset_has_an_empty_band(preset):
    network = getattr(SASNetConfig, preset)().setup()
    assert len(network.band_sizes) == 5 and min(network.band_sizes) > 0


def test_equal_bands_hold_integers_of_their_own_range():
    drawn = sample_frequencies(144, 3, band_limit=30, low_range=6, allocation="equal")
    assert drawn.group_sizes == (72, 18, 18, 18, 18)
    largest = drawn.multipliers.abs().amax(1)
    for band, (low, high) in enumerate([(7, 12), (13, 18), (19, 24), (25, 30)]):
        part = largest[72 + 18 * band : 90 + 18 * band]
        assert part.min() >= low and part.max() <= high
    with pytest.raises(ValueError, match="4 bands do not fit between frequencies 6 and 8"):
        sample_frequencies(64, 3, band_limit=8, low_range=6, allocation="equal")


def test_the_default_is_a_sasnet_most_of_whose_parameters_are_its_sine_part():
    network = SASNetConfig.sdf_compact().setup()
    masks = sum(p.numel() for p in network.mask_generator.parameters())
    assert len(network.hidden) == 2 and all(network.config.groups)
    assert masks < 0.5 * network.parameter_count()


def test_options_of_presets_are_checked_and_visible():
    import inspect

    assert "band_limit" in inspect.signature(SASNetConfig.sdf).parameters
    assert SASNetConfig.sdf(band_limit=40).band_limit == 40
    with pytest.raises(TypeError, match="band_limt"):
        SASNetConfig.sdf(band_limt=40)
    with pytest.warns(DeprecationWarning, match="sdf_grid"):
        assert SASNetConfig.sdf_fast() == SASNetConfig.sdf_grid()


def test_grid_options_have_one_spelling_and_former_ones_still_load():
    now = build_network("ngp", 3, 1, grid_levels=3, grid_log2_entries=8, grid_features=1)
    before = build_network("ngp", 3, 1, levels=3, log2_entries=8, features=1)
    assert now.layout == before.layout
    assert build_network("sasnet", 3, 1, preset="sdf_fast").parameter_count() == 132_809


def test_empty_bands_and_lost_masks_are_said() -> None:
    with pytest.warns(UserWarning, match="no neuron of 96 is in band 1 of 4: band_allocation='equal'"):
        SASNetConfig.sdf_grid(band_allocation="lattice").setup()
    with pytest.warns(UserWarning, match="without its masks this network has 62,145 of 117,573 parameters"):
        SASNetConfig.sdf_compact(masks=False).setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for preset in ("sdf", "sdf_compact", "sdf_grid", "image", "volume", "toy", "tiger_p", "tiger_d"):
            assert min(getattr(SASNetConfig, preset)().setup().band_sizes) > 0, preset
        SASNetConfig.sdf(masks=False).setup()  # the paper's network keeps most of what it has


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("sasnet", {"embedding": "Frozen"}, "embedding must be one of frozen, siren, not 'Frozen'"),
        ("sasnet", {"band_allocation": "Equal"}, "band_allocation must be one of"),
        ("sasnet", {"grid_variant": "authors"}, "grid_variant must be one of"),
        ("sasnet", {"groups": (-8, 8)}, "groups of network 'sasnet' must be 0 or more"),
        ("sasnet", {"hidden_widths": (0, 0)}, "hidden_widths of network 'sasnet' must be 1 or more"),
        ("sasnet", {"period": 0}, "period of network 'sasnet' must be more than 0"),
        ("sasnet", {"decoder_width": 0}, "decoder_width of network 'sasnet' must be 1 or more"),
        ("ffn", {"frequency_law": "uniform"}, "frequency_law must be one of normal, radial"),
        ("msiren", {"codes": "frozen"}, "codes must be one of"),
        ("siren", {"hidden_layers": -1}, "hidden_layers of network 'siren' must be 0 or more"),
        ("siren", {"omega_0": 0}, "omega_0 of network 'siren' must be more than 0"),
        ("siren", {"implementation": "cuda"}, "implementation must be one of auto, torch"),
        ("wire", {"sigma": 0}, "sigma of network 'wire' must be more than 0"),
        ("sape", {"resolution": 1}, "resolution of network 'sape' must be 2 or more"),
        ("neurbf", {"kernels": 0}, "kernels of network 'neurbf' must be 1 or more"),
        ("neurbf", {"sine_range": (1.0,)}, "sine_range takes two numbers"),
        ("cafe", {"polynomials": 0}, "polynomials of network 'cafe' must be 1 or more"),
        ("cafe", {"branches": 0}, "branches of network 'cafe' must be 1 or more"),
        ("siren", {"width": 10**12}, "cannot be built with these options"),
    ],
)
def test_options_that_make_no_network_are_refused_in_a_sentence(name, options, said):
    with pytest.raises(ValueError, match=said):
        build_network(name, 3, 1, **options)


@pytest.mark.parametrize(("options", "said"), [({"preset": "foo"}, "preset"), ({"nonsense": 3}, "nonsense")])
def test_a_network_that_cannot_be_is_not_sized_either(options, said):
    from sasnet_ns.networks.sizes import sized_options

    with pytest.raises(ValueError, match=said):
        sized_options("sasnet", 3, 1, 20_000, **options)


def test_a_lattice_without_frequencies_is_refused() -> None:
    with pytest.raises(ValueError, match="no frequency between low_range 6 and band_limit 7 in 1 dimensions"):
        sample_frequencies(5, 1, 7, 6, 0.75)


def test_ranges_of_too_many_frequencies_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 50,000,000; take a smaller band_limit"):
        build_network("sasnet", 3, 1, band_limit=400, low_range=300)
    content = {"network": "sasnet", "network_config": {"band_limit": 3000, "low_range": 2999}}
    torch.save({"description": content, "state": {"scale": torch.ones(())}}, tmp_path / "field.pt")
    with pytest.raises(ValueError, match="is not a field written by"):
        SignedDistanceField.load(tmp_path / "field.pt")
    with pytest.raises(ValueError, match="groups are numbers of masks"):
        SASNetConfig(groups=(-8, 8)).setup()


@pytest.mark.parametrize("in_dim", [5, 6])
def test_more_coordinates_than_a_hash_grid_takes_go_without_masks(in_dim):
    assert build_network("sasnet", in_dim, 1, masks=False)(torch.rand(3, in_dim)).shape == (3, 1)
    with pytest.raises(ValueError, match="1 to 4"):
        build_network("sasnet", in_dim, 1)
    with pytest.raises(ValueError, match="1 to 6 coordinates"):
        build_network("sasnet", 7, 1, masks=False)


def test_bands_are_for_networks_that_have_some():
    with pytest.raises(ValueError, match="bands=1 is for SASNet"):
        network_values(build_network("siren", 3, 1, width=8), torch.rand(3, 3), bands=1)


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    options = {"omega_0": np.linspace(10, 30, 3)[1], "width": np.int64(8), "hidden_layers": 1}
    field = SignedDistanceField("siren", options)
    for name in ("field.pt", "field.safetensors"):
        field.save(tmp_path / name)
        again = SignedDistanceField.load(tmp_path / name)
        assert again.description == field.description and type(again.description["network_config"]["width"]) is int


def test_a_field_in_another_precision_stays_where_it_is() -> None:
    center = torch.tensor([4_500_123.4, 512_345.6, 120.0], dtype=torch.float64)
    field = SignedDistanceField("siren", {"width": 8}, center, 0.01)
    for changed in (field.half(), field.float(), field.double()):
        assert changed.center.dtype == torch.float64 and torch.equal(changed.center, center)
        assert float(changed.scale) == 0.01
    assert field.half().network.first.weight.dtype == torch.float16
    assert field.to("meta").center.is_meta


def test_networks_of_other_dimensions_are_compiled_one_after_the_other() -> None:
    torch._dynamo.reset()
    for preset, dims in (("toy", 2), ("sdf_compact", 3)):
        network = getattr(SASNetConfig, preset)().setup()
        compiled = torch.compile(network, backend="eager")
        for count in (10, 33):
            x = torch.rand(count, dims) - 0.5
            assert torch.allclose(compiled(x), network(x), atol=1e-6)
