"""Rates, optimisers and the length of gradients."""

from __future__ import annotations

import pytest
import torch

from sasnet_ns.networks import build_network, fused_step
from sasnet_ns.training.adan import Adan
from sasnet_ns.training.loop import train
from sasnet_ns.training.recipe import Recipe, build_optimizers, learning_rate_factor


def test_a_rate_that_is_halved_again_and_again():
    recipe = Recipe(steps=50_000, schedule="constant", warmup_steps=1, halve_every=20_000)
    assert [learning_rate_factor(step, recipe) for step in (1, 19_999, 20_000, 45_000)] == [1, 1, 0.5, 0.25]


def test_an_exponential_rate_falls_by_the_same_factor_in_equal_times():
    recipe = Recipe(steps=101, schedule="exponential", warmup_steps=1, final_factor=0.2)
    assert learning_rate_factor(51, recipe) == pytest.approx(0.2**0.5) and learning_rate_factor(101, recipe) == 0.2
    with pytest.raises(ValueError, match="positive ends"):
        learning_rate_factor(50, Recipe(steps=101, schedule="exponential"))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adams_options_are_torchs(amsgrad):
    torch.manual_seed(0)
    network = build_network("siren", 2, 1, width=8)
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": amsgrad}
    wanted = [p.detach().clone().requires_grad_() for p in network.parameters()]
    theirs = torch.optim.Adam(wanted, **options)
    recipe = Recipe(optimizer="adam", learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, amsgrad=amsgrad)
    ours = build_optimizers(network, recipe).values()
    for scale in (1.0, 0.01, 0.1):  # a falling gradient is where amsgrad differs
        for p, q in zip(network.parameters(), wanted, strict=True):
            p.grad = scale * torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in (*ours, theirs):
            optimizer.step()
    for p, q in zip(network.parameters(), wanted, strict=True):
        assert torch.allclose(p, q, atol=1e-7)


def test_adan_is_its_algorithm():
    """The recurrences of Xie et al., number by number: the paper's beta is 1 minus the decay rate."""
    b1, b2, b3, rate, eps = 0.02, 0.08, 0.01, 1e-2, 1e-8
    gradients = [0.5, -0.2, 0.9, 0.9, 0.0, -1.5]
    theta, m, v, n, before = 2.0, 0.0, 0.0, 0.0, gradients[0]
    p = torch.tensor([theta, 7.0], dtype=torch.float64, requires_grad=True)
    optimizer = Adan([p], lr=rate, eps=eps)
    for k, g in enumerate(gradients, 1):
        m, v = (1 - b1) * m + b1 * g, (1 - b2) * v + b2 * (g - before)
        n = (1 - b3) * n + b3 * (g + (1 - b2) * (g - before)) ** 2
        sizes = [1 - (1 - b) ** k for b in (b1, b2, b3)]
        theta -= rate * (m / sizes[0] + (1 - b2) * v / sizes[1]) / ((n / sizes[2]) ** 0.5 + eps)
        before = g
        p.grad = torch.tensor([g, 0.0], dtype=torch.float64)
        optimizer.step()
        assert p[0].item() == pytest.approx(theta, rel=1e-12) and p[1].item() == 7.0
    assert abs(theta - 2.0) > rate


def test_adan_is_for_all_parameters_and_goes_on_from_its_state():
    torch.manual_seed(0)
    network = build_network("sasnet", 2, 1, preset="image", hidden_widths=(16, 16), groups=(2, 2), embedding_width=16)
    optimizers = build_optimizers(network, Recipe(optimizer="adan", learning_rate=1e-2, mask_learning_rate=2e-2))
    assert {type(optimizer) for optimizer in optimizers.values()} == {Adan}
    assert optimizers["masks"].param_groups[0]["lr"] == 2e-2 and optimizers["hidden"].param_groups[0]["lr"] == 1e-2
    with pytest.raises(ValueError, match="amsgrad is Adam's"):
        build_optimizers(network, Recipe(optimizer="adan", amsgrad=True))
    for wrong in ({"lr": -1.0}, {"betas": (0.9, 0.99)}, {"betas": (0.98, 0.92, 1.0)}, {"eps": -1e-8}):
        with pytest.raises(ValueError, match="Adan takes lr >= 0"):
            Adan(network.parameters(), **wrong)
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    whole, second = Adan([p]), Adan([q])
    for step in range(6):
        if step == 3:
            state = second.state_dict()
            second = Adan([q])
            second.load_state_dict(state)
        for optimizer, tensor in ((whole, p), (second, q)):
            tensor.grad = torch.tensor([1.0, -2.0, 0.1]) * (step - 2)
            optimizer.step()
    assert torch.equal(p, q)


def test_long_gradients_are_shortened_together():
    network = build_network("siren", 2, 1, width=8)
    lengths = []

    def loss_at(step: int) -> torch.Tensor:
        return 100 * network(torch.ones(4, 2)).sum()

    def look(step: int) -> None:
        lengths.append(float(torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()))

    recipe = Recipe(steps=2, optimizer="adam", learning_rate=1e-6)
    train(network, recipe, loss_at, after_step=look)
    train(network, Recipe(steps=2, optimizer="adam", learning_rate=1e-6, clip_norm=0.5), loss_at, after_step=look)
    assert min(lengths[:2]) > 1 and lengths[2:] == pytest.approx([0.5, 0.5], rel=1e-3)


def test_networks_in_one_pass_refuse_a_limit_for_each():
    from sasnet_ns.networks.stacked import StackedNetworks
    from sasnet_ns.training.objective import SDFObjective
    from sasnet_ns.training.together import train_together

    networks = StackedNetworks([build_network("siren", 3, 1, width=8) for _ in range(2)])
    with pytest.raises(ValueError, match="clip_norm"):
        train_together(networks, None, Recipe(steps=1, clip_norm=1.0), SDFObjective(), 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["siren", "finer", "wire", "gauss", "pemlp"])
def test_scaled_coordinates_are_what_the_network_sees(name):
    torch.manual_seed(0)
    plain = build_network(name, 3, 1, width=8)
    torch.manual_seed(0)
    scaled = build_network(name, 3, 1, width=8, coordinate_scale=0.5)
    x = torch.rand(20, 3) * 2 - 1
    assert torch.allclose(scaled(x), plain(0.5 * x), atol=1e-6)
    assert build_network(name, 3, 1, preset="sdf").coordinate_scale == 0.5


def test_a_siren_on_scaled_coordinates_has_the_fused_steps_gradients():
    network = build_network("siren", 3, 1, width=16, coordinate_scale=0.5)
    x, target = torch.rand(50, 3) * 2 - 1, torch.randn(50, 1)
    step = fused_step(network)
    if step is None:
        pytest.skip("numba is not installed")
    loss, _ = step(x, target)
    found = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    wanted = torch.autograd.grad((network(x) - target).square().mean(), list(network.parameters()))
    assert float(loss) == pytest.approx(float((network(x) - target).square().mean()), rel=1e-5)
    for own, other in zip(found, wanted, strict=True):
        assert torch.allclose(own, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
