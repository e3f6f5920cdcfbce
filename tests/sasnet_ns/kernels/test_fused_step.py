"""A training step in one pass against autograd: loss, values and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")
from sasnet_ns.kernels import FusedStep, HashGridLayout, PointLoss, StepForm, StepLayer, _numba_step_plan, _openmp
from sasnet_ns.networks import (
    Finer,
    Gauss,
    HashGridMLP,
    Network,
    SASNet,
    SASNetConfig,
    SignedDistanceField,
    Siren,
    Wire,
    build_network,
    step_form,
)
from sasnet_ns.networks import fused_step as step_of
from sdf_tools.errors import ShapeError
from sdf_tools.losses import coarse_to_fine_loss, distance_weighted_loss, sign_agnostic_loss

SMALL: dict[str, Any] = {
    "embedding_width": 37,
    "hidden_widths": (36, 20),
    "groups": (6, 5),
    "grid_levels": 4,
    "grid_log2_entries": 9,
    "grid_max": 64,
    "decoder_width": 13,
    "feature_std": 0.5,
}


def sasnet(**changes: Any) -> SASNet:
    return SASNet(SASNetConfig(**{**SMALL, **changes}))


def opened(name: str, in_dim: int, out_dim: int, **options: Any) -> Network:
    """A SAPE in the middle of training, with masks between 0 and 1."""
    network = build_network(name, in_dim, out_dim, **options)
    x = 2 * torch.rand(500, in_dim) - 1
    for step in range(30, 33):
        network.on_step(step, 100, x, x[:, 0] > 0)
    return network


NETWORKS: dict[str, Any] = {
    "sasnet": lambda: sasnet(),
    "one hidden layer, smoothstep": lambda: sasnet(
        hidden_widths=(40,), groups=(20,), grid_interpolation="smoothstep", grid_features=3
    ),
    "three hidden layers": lambda: sasnet(hidden_widths=(24, 16, 40), groups=(3, 4, 5), grid_features=1),
    "image": lambda: sasnet(in_dim=2, out_dim=3, band_limit=60, low_range=12),
    "no masks": lambda: sasnet(masks=False),
    "no masks on the embedding": lambda: sasnet(mask_embedding=False, groups=(4, 1)),
    "a layer without groups": lambda: sasnet(groups=(0, 4)),
    "masks on the embedding alone": lambda: sasnet(groups=(0, 0), bands=3),
    "empty bands": lambda: sasnet(bands=12, band_limit=9, low_range=6),
    "trained frequencies": lambda: sasnet(embedding="siren"),
    "wide": lambda: SASNet(SASNetConfig.sdf(feature_std=0.5)),
    "sdf_fast": lambda: SASNet(SASNetConfig.sdf_fast(feature_std=0.5)),
    "siren": lambda: Siren(width=70, hidden_layers=2),
    "siren, image": lambda: Siren(2, 3, width=33, hidden_layers=1),
    "finer": lambda: Finer(width=70, omega_0=8),
    "finer, image": lambda: Finer(2, 3, width=33, hidden_layers=1, omega_0=5, detach_scale=False),
    "gauss": lambda: Gauss(width=70, scale=3),
    "gauss, narrow bells": lambda: Gauss(2, 3, width=33, hidden_layers=1),
    "wire": lambda: Wire(width=35, omega=2, sigma=1.5),
    "wire, image": lambda: Wire(2, 3, width=33, hidden_layers=1, coordinate_scale=0.5),
    "pemlp": lambda: build_network("pemlp", 3, 1, width=40, coordinate_scale=0.5),
    "ffn": lambda: build_network("ffn", 2, 3, width=40, frequencies=30),
    "sape": lambda: opened("sape", 2, 3, width=40, frequencies=30, resolution=16),
    "sape, 3 coordinates": lambda: opened("sape", 3, 1, width=40, frequencies=31, resolution=8),
    "ngp": lambda: HashGridMLP(log2_entries=9, grid_max=64, width=20),
    "ngp, image": lambda: HashGridMLP(2, 3, log2_entries=9, levels=5, grid_max=64, features=4, hidden_layers=1),
}


def make(name: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    if isinstance(network, HashGridMLP):
        torch.nn.init.normal_(network.table)
    return network


def data(network: Network, points: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 2.2 * torch.rand(points, network.in_dim, generator=generator) - 1.1
    return x, 0.3 * torch.randn(points, network.out_dim, generator=generator)


def gradients(network: Network) -> dict[str, Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.double().clone()
    return found


def by_autograd(network: Network, x: Tensor, loss: Any, dtype: torch.dtype = torch.float64) -> Any:
    """Loss, values and gradients of a copy in another precision; ``loss`` takes the values."""
    twin = copy.deepcopy(network).to(dtype)
    twin.zero_grad()
    predicted = twin(x.to(dtype))
    value = loss(predicted)
    value.backward()
    return value.detach(), predicted.detach(), gradients(twin)


def assert_same(step: tuple[Tensor, Tensor], network: Network, expected: Any, tolerance: float = 3e-5) -> None:
    value, predicted, wanted = expected
    assert step[0].item() == pytest.approx(value.item(), rel=1e-5)
    assert (step[1] - predicted).abs().max() < tolerance * max(1.0, predicted.abs().max().item())
    found = gradients(network)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        error = (found[name] - gradient).norm() / gradient.norm().clamp_min(1e-12)
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_gradient(name: str) -> None:
    """Against autograd in float64, through the networks' own code; more than two blocks, the last one not full."""
    network = make(name)
    x, target = data(network, 150)
    step = step_of(network)
    assert step is not None
    found = step(x, target)
    assert_same(found, network, by_autograd(network, x, lambda values: (values - target.double()).square().mean()))


@pytest.mark.parametrize("name", ["sasnet", "image", "siren", "finer", "finer, image", "gauss", "ngp"])
def test_the_torch_twin(name: str) -> None:
    """The definition agrees with the networks to rounding, in float64."""
    network = make(name).double()
    x, target = (tensor.double() for tensor in data(network, 60))
    form = step_form(network)
    assert form is not None
    step = FusedStep(form)
    assert step.backend == "torch"
    found = step(x, target)
    expected = by_autograd(network, x, lambda values: (values - target).square().mean())
    assert_same(found, network, expected, tolerance=1e-9)


@pytest.mark.parametrize("points", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sizes_and_threads(points: int, threads: int) -> None:
    before = torch.get_num_threads()
    network = make("sasnet")
    x, target = data(network, points)
    step = step_of(network)
    assert step is not None
    try:
        torch.set_num_threads(threads)
        found = step(x, target)
        first = gradients(network)
        step(x, target)
        again = gradients(network)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert_same(found, network, by_autograd(network, x, lambda values: (values - target.double()).square().mean()))


@pytest.mark.parametrize(
    ("name", "large"), [("sasnet", False), ("sasnet", True), ("finer", False), ("gauss", False), ("wire", False)]
)
@pytest.mark.parametrize("runtime", ["torch's threads", "Python's threads"])
def test_the_number_of_threads_changes_no_bit(
    name: str, large: bool, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(_numba_step_plan, "LARGE_TABLE", 1)
    if runtime == "Python's threads":
        monkeypatch.setattr(_openmp, "team", lambda: None)
    before = torch.get_num_threads()
    network = make(name)
    x, target = data(network, 700)
    found = []
    try:
        for threads in (4, 2, 1):
            torch.set_num_threads(threads)
            step = step_of(network)
            assert step is not None
            loss, values = step(x, target)
            found.append([loss, values, *gradients(network).values()])
        torch.set_num_threads(3)
        several = step_of(network)
        assert several is not None
        several(x, target)
        third = list(gradients(network).values())
        torch.set_num_threads(2)  # as a run that gives a core away
        several(x, target)
        fewer = list(gradients(network).values())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(third, fewer, strict=True))


def test_a_large_table_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that would each need a gradient of the whole table take levels of it instead."""
    monkeypatch.setattr(_numba_step_plan, "LARGE_TABLE", 1)
    before = torch.get_num_threads()
    network = make("one hidden layer, smoothstep")
    x, target = data(network, 200)
    step = step_of(network)
    assert step is not None
    try:
        torch.set_num_threads(2)
        found = step(0.5 * x, target, scale=2.0)
    finally:
        torch.set_num_threads(before)
    assert_same(found, network, by_autograd(network, x, lambda values: (values - target.double()).square().mean()))


def test_python_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_openmp, "team", lambda: None)
    before = torch.get_num_threads()
    network = make("sasnet")
    x, target = data(network, 200)
    step = step_of(network)
    assert step is not None
    try:
        torch.set_num_threads(2)
        found = step(x, target)
    finally:
        torch.set_num_threads(before)
    assert_same(found, network, by_autograd(network, x, lambda values: (values - target.double()).square().mean()))


def weighted(values: Tensor, target: Tensor) -> Tensor:
    return distance_weighted_loss(values, target, near=0.02, far_weight=0.1)


kind = torch.arange(200) % 3
LOSSES: dict[str, Any] = {
    "distance_weighted": (PointLoss(1, near=0.02, far_weight=0.1), None, weighted),
    "no margin": (
        PointLoss(1, near=0.02, far_weight=0.1, sign_margin=float("inf")),
        None,
        lambda f, t: distance_weighted_loss(f, t, near=0.02, far_weight=0.1, sign_margin=float("inf")),
    ),
    "sign_agnostic": (
        PointLoss(1, near=0.02, far_weight=0.1, absolute=True),
        None,
        lambda f, t: weighted(f.abs(), t),
    ),
    "SAL, squared": (PointLoss(2, absolute=True), None, lambda f, t: sign_agnostic_loss(f, t, power=2)),
    "coarse_to_fine": (
        PointLoss(2),
        torch.where(kind == 0, 1.0, 0.01),
        lambda f, t: coarse_to_fine_loss(f, t, kind, coarse_weight=0.01),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_signed_distances(name: str) -> None:
    """Those of sdf_tools, on a field whose box coordinates the network sees doubled."""
    loss, weight, expected = LOSSES[name]
    torch.manual_seed(0)
    field = SignedDistanceField("sasnet", SMALL)
    x = torch.rand(200, 3) - 0.5
    target = (x.norm(dim=-1) - 0.3).abs() if loss.absolute else x.norm(dim=-1) - 0.3
    step = step_of(field.network)
    assert step is not None
    found = step(x, target[:, None], loss, weight, scale=2.0)
    wanted = by_autograd(field.network, 2 * x, lambda values: expected(values[:, 0], target.double()))
    assert_same(found, field.network, wanted)
    assert loss(found[1], target[:, None], weight).item() == pytest.approx(found[0].item(), rel=1e-5)


@pytest.mark.parametrize("near", [0.0, -1.0, float("nan")])
def test_a_distance_that_is_none_is_refused(near: float) -> None:
    with pytest.raises(ValueError, match="near is a distance above 0"):
        PointLoss(near=near)


def test_an_unknown_power_is_refused() -> None:
    with pytest.raises(ValueError, match="power"):
        PointLoss(3)


@pytest.mark.parametrize("name", ["sasnet", "finer", "wire"])
def test_parameters_are_read_in_every_step(name: str) -> None:
    """Ten steps of Adam end where autograd's do."""
    network = make(name)
    twin = copy.deepcopy(network)
    step = step_of(network)
    assert step is not None
    optimizers = [torch.optim.Adam(each.parameters(), lr=1e-3, fused=True) for each in (network, twin)]
    for number in range(10):
        x, target = data(network, 150, number)
        step(x, target)
        twin.zero_grad()
        (twin(x) - target).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    for (name, found), wanted in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert (found - wanted).abs().max() < 2e-4, name


def test_with_graph() -> None:
    """Gradients are handed over by backward, scaled and added to what is there."""
    network = make("image")
    x, target = data(network, 100)
    step = step_of(network)
    assert step is not None
    step(x, target)
    once = gradients(network)
    network.zero_grad()
    for _ in range(2):
        value, predicted = step.with_graph(x, target)
        assert not predicted.requires_grad
        assert all(parameter.grad is None or _ for parameter in network.parameters())
        (3.0 * value).backward()
    for name, gradient in gradients(network).items():
        assert torch.allclose(gradient, 6 * once[name], rtol=1e-5, atol=1e-12), name


def test_frozen_parameters_are_left_alone() -> None:
    network = make("sasnet")
    assert isinstance(network, SASNet) and network.mask_generator is not None
    x, target = data(network, 100)
    wanted = by_autograd(network, x, lambda values: (values - target.double()).square().mean())[2]
    frozen = {"mask_generator.table", "hidden.0.weight", "phase", "output.bias"}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    step = step_of(network)
    assert step is not None
    step(x, target)
    for name, parameter in network.named_parameters():
        if name in frozen:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert (parameter.grad - wanted[name]).norm() < 3e-5 * wanted[name].norm(), name


def test_frozen_parameters_of_wire_are_left_alone() -> None:
    network = make("wire")
    network.get_parameter("hidden.0.weight").requires_grad_(False)
    x, target = data(network, 100)
    step = step_of(network)
    assert step is not None
    step(x, target)
    assert {name for name, p in network.named_parameters() if p.grad is None} == {"hidden.0.weight"}


@pytest.mark.parametrize("name", ["sasnet", "one hidden layer, smoothstep", "ngp"])
def test_wild_points_are_safe(name: str) -> None:
    """They touch the table's own memory alone, and leave the next step as it was."""
    network = make(name)
    x, target = data(network, 130)
    step = step_of(network)
    assert step is not None
    step(x, target)
    before = gradients(network)
    wild = x.clone()
    wild[::5] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30])[torch.arange(26) % 5, None]
    step(wild, target)
    step(x, target)
    after = gradients(network)
    assert all(torch.equal(before[each], after[each]) for each in before)


def test_which_networks() -> None:
    class Other(Siren):
        pass

    for network in (Other(width=16), Wire(width=16, sigma=0), build_network("incode", 2, 3)):
        assert step_of(network) is None
    assert step_of(Siren(width=16).double()) is None
    assert step_of(Siren(width=16, implementation="torch")) is None
    assert step_of(sasnet(implementation="torch")) is None
    assert step_of(Siren(width=16, implementation="numba")) is not None


def test_shapes_are_checked() -> None:
    network = make("siren")
    step = step_of(network)
    assert step is not None
    x, target = data(network, 10)
    for wrong in ((x[:, :2], target), (x, target[:, 0]), (x[:0], target[:0]), (x, target[:9])):
        with pytest.raises(ShapeError, match="FusedStep"):
            step(*wrong)
    with pytest.raises(ShapeError, match="weight"):
        step(x, target, weight=torch.ones(9))


def test_forms_are_checked() -> None:
    def layer(inputs: int, outputs: int, activation: Any = "sine", sizes: tuple[int, ...] = ()) -> StepLayer:
        return StepLayer(torch.zeros(outputs, inputs), torch.zeros(outputs), activation, 1.0, sizes)

    layout = HashGridLayout(3, (4,), 6)
    table = torch.zeros(layout.total_entries, 2)
    decoder = (layer(2, 5, "relu"), layer(5, 2, "sigmoid"))
    FusedStep(StepForm(3, (layer(3, 8, "sine", (2, 3)), layer(8, 1, "affine")), table, layout, decoder))
    for form in (
        StepForm(3, (layer(2, 4),)),
        StepForm(3, (layer(3, 4), layer(5, 1))),
        StepForm(3, (layer(3, 4, "sine", (2,)),)),
        StepForm(3, (layer(3, 4),), table),
        StepForm(3, (layer(3, 4),), table[1:], layout),
        StepForm(3, (layer(3, 4, "sine", (2,)),), table, layout, decoder),
        StepForm(3, (layer(3, 4, "sine", (2, 3)),), table, layout, decoder),
        StepForm(3, (layer(3, 4, "relu", (2, 1)),), table, layout, decoder),
    ):
        with pytest.raises(ShapeError):
            FusedStep(form)
