"""A network's values in one pass against the network itself."""

import threading

import pytest
import torch

from sasnet_ns.kernels import FusedValues
from sasnet_ns.networks import SASNet, SignedDistanceField, build_network, network_values, step_form

pytest.importorskip("numba")

NETWORKS = [
    ("sasnet", {"preset": "sdf_compact"}, 3, 1),
    ("sasnet", {"preset": "sdf_compact", "masks": False}, 3, 2),
    ("sasnet", {"preset": "sdf_compact", "mask_embedding": False, "grid_interpolation": "linear"}, 3, 1),
    ("sasnet", {"preset": "toy"}, 2, 3),
    ("sasnet-grid", {}, 3, 1),
    ("sasnet-paper", {}, 3, 1),
    ("siren", {"width": 60}, 3, 1),
    ("finer", {"width": 60, "omega_0": 8}, 3, 1),
    ("gauss", {"width": 60, "scale": 3}, 2, 3),
    ("ngp", {"grid_features": 4}, 3, 1),
    ("ngp", {}, 2, 3),
]


@pytest.mark.parametrize(("name", "options", "in_dim", "out_dim"), NETWORKS)
def test_values_are_those_of_the_network(name: str, options: dict, in_dim: int, out_dim: int) -> None:
    torch.manual_seed(0)
    network = build_network(name, in_dim=in_dim, out_dim=out_dim, **options)
    form = step_form(network)
    assert form is not None
    x = torch.rand(1001, in_dim) - 0.5
    values = FusedValues(form, "numba")(x, scale=2.0)
    twin = FusedValues(form, "torch")(x, scale=2.0)
    torch.testing.assert_close(values, twin, rtol=1e-4, atol=2e-5)
    with torch.enable_grad():
        torch.testing.assert_close(values, network(2 * x).detach(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("bands", [0, 2, 4])
def test_bands_left_out(bands: int) -> None:
    field = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    points = torch.rand(200, 3) - 0.5
    with torch.no_grad():
        values = field(points, bands=bands)
    torch.testing.assert_close(values, field(points, bands=bands).detach(), rtol=1e-4, atol=2e-5)
    with pytest.raises(ValueError, match="between 0 and 4"), torch.no_grad():
        field(points, bands=5)


def test_same_bits_whatever_the_threads_and_the_other_points() -> None:
    field = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    points = torch.rand(3000, 3) - 0.5
    before = torch.get_num_threads()
    with torch.no_grad():
        whole = field(points)
        try:
            torch.set_num_threads(1)
            assert torch.equal(whole, field(points))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(whole, torch.cat([field(part) for part in points.split(777)]))


def test_changed_and_exchanged_weights_are_seen() -> None:
    field = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    points = torch.rand(100, 3) - 0.5
    with torch.no_grad():
        first = field(points)
        field.network.output_layer().bias += 1
        torch.testing.assert_close(field(points), first + 1)
        torch.nn.utils.vector_to_parameters(torch.zeros(field.network.parameter_count()), field.network.parameters())
        assert not field(points).any()
    field.double()
    with torch.no_grad():
        assert field(points.double()).dtype == torch.float64
    other = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    with torch.no_grad():
        expected = other(points)
        parameters = {**dict(other.named_parameters()), **dict(other.named_buffers())}
        torch.testing.assert_close(torch.func.functional_call(field.float(), parameters, (points,)), expected)


def test_a_changed_omega_is_seen() -> None:
    field = SignedDistanceField("siren", {"width": 32})
    points = torch.rand(100, 3) - 0.5
    with torch.no_grad():
        field(points)
        field.network.omega_0 = 10.0
        values = field(points)
    torch.testing.assert_close(values, field(points).detach(), rtol=1e-4, atol=2e-5)


def test_points_far_away_and_not_numbers_are_safe() -> None:
    field = SignedDistanceField("ngp", {})
    points = torch.tensor([[1e30, 0, 0], [float("nan"), 0, 0], [float("inf"), 0, 0], [0, 0, 0], [7, 7, 7]])
    with torch.no_grad():
        values = field(points)
    assert values[3:].isfinite().all()


def test_several_threads_at_once() -> None:
    field = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    points = torch.rand(8, 4000, 3) - 0.5
    with torch.no_grad():
        expected = [field(part) for part in points]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        with torch.no_grad():
            found[index] = field(points[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], expected[index]) for index in range(8))


def test_hooks_gradients_and_subclasses_take_the_networks_own_way() -> None:
    class Doubled(SASNet):
        def forward(self, x: torch.Tensor, bands: int | None = None) -> torch.Tensor:
            return 2 * super().forward(x, bands)

    field = SignedDistanceField("sasnet", {"preset": "sdf_compact"})
    points = torch.rand(50, 3) - 0.5
    assert field(points).requires_grad
    seen: list[torch.Tensor] = []
    handle = field.network.hidden[0].register_forward_hook(lambda *_: None)
    with torch.no_grad():
        values = field(points)
        handle.remove()
        handle = field.network.register_forward_hook(lambda module, given, output: seen.append(output))
        field(points)
        handle.remove()
        assert len(seen) == 1
        assert isinstance(field.network, SASNet)
        doubled = Doubled(field.network.config)
        doubled.load_state_dict(field.network.state_dict())
        torch.testing.assert_close(network_values(doubled, points, scale=2.0)[:, 0], 2 * values)
        assert network_values(field.network, points[:0]).shape == (0, 1)
        assert network_values(field.network, points.reshape(5, 10, 3)).shape == (5, 10, 1)


def test_a_siren_that_scales_its_coordinates() -> None:
    network = build_network("siren", in_dim=3, out_dim=1, coordinate_scale=0.5)
    points = torch.rand(100, 3) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(
            network_values(network, points, scale=2.0), network(2 * points), rtol=1e-4, atol=2e-5
        )
