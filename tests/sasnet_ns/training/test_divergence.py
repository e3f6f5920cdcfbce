"""The guard of training loops, on numbers, and the loop that it guards."""

from __future__ import annotations

import pytest
import torch

from sasnet_ns.networks import build_network
from sasnet_ns.training.divergence import CHECK_EVERY, DivergedError, DivergenceGuard
from sasnet_ns.training.loop import train
from sasnet_ns.training.recipe import Recipe


def looks(losses: list[float], rollbacks: int = 2) -> list[int]:
    """Steps at which a guard goes back, for one loss per look."""
    weight = torch.zeros(1)
    guard = DivergenceGuard(lambda: {"weight": weight}, [], rollbacks=rollbacks)
    found = []
    for look, loss in enumerate(losses):
        for step in range(look * CHECK_EVERY + 1, (look + 1) * CHECK_EVERY + 1):
            weight.fill_(step)
            if guard.after_step(step, torch.tensor(loss)) is not None:
                found.append(step)
    return found


def test_what_counts_as_running_away() -> None:
    assert looks([1.0, 0.5, 0.1, 0.01, 0.4]) == []  # worse than before, but not all that was learned is lost
    assert looks([1.0, 0.5, 0.1, 0.01, 0.6]) == [250]
    assert looks([1.0, 3.0, 9.0, 1.0]) == []  # a slow start
    assert looks([1.0, 11.0]) == [100]
    assert looks([1.0, float("nan")]) == [100] and looks([1.0, float("inf")]) == [100]
    with pytest.raises(DivergedError, match=r"0\.01 of the learning rates.*lower the learning rates"):
        looks([1.0, float("nan"), float("nan"), float("nan")])
    with pytest.raises(DivergedError):
        looks([1.0, 20.0], rollbacks=0)


def test_a_single_bad_batch_is_nothing() -> None:
    guard = DivergenceGuard(lambda: {}, [])
    for step in range(1, 301):
        loss = 1e9 if step % 100 == 0 else 1.0
        assert guard.after_step(step, torch.tensor(loss)) is None


def test_state_and_moments_go_back_in_place() -> None:
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())

    def step() -> None:
        optimizer.zero_grad()
        layer(torch.ones(3, 2)).square().sum().backward()
        optimizer.step()

    step()
    guard = DivergenceGuard(layer.state_dict, [optimizer], done=1)
    place, kept = layer.weight.data_ptr(), layer.weight.detach().clone()
    moments = optimizer.state[layer.weight]["exp_avg"].clone()
    step()
    after_two = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.fill_(float("nan"))
    step()
    sentence = guard.roll_back(3, "the loss is nan")
    assert "back to the state of step 1, with 0.1 of the learning rates" in sentence
    assert layer.weight.data_ptr() == place and torch.equal(layer.weight, kept)
    assert torch.equal(optimizer.state[layer.weight]["exp_avg"], moments)
    step()
    assert torch.equal(layer.weight, after_two)


def test_the_loop_slows_down_and_ends_well_or_with_a_sentence() -> None:
    torch.manual_seed(0)
    network = build_network("siren", in_dim=2, out_dim=1, width=16, hidden_layers=1)
    x = torch.rand(200, 2) * 2 - 1

    def loss_at(step: int, poisoned: frozenset[int] = frozenset({60})) -> torch.Tensor:
        loss = (network(x)[:, 0] - x.norm(dim=1)).square().mean()
        return loss * float("nan") if step in poisoned else loss

    first = float(loss_at(0).detach())
    recipe = Recipe(steps=200, warmup_steps=5, learning_rate=1e-2, schedule="constant")
    with pytest.warns(UserWarning, match=r"back to the state of step 0, with 0\.1"):
        history = train(network, recipe, loss_at)
    assert history.loss[-1] < 0.5 * first and all(bool(p.isfinite().all()) for p in network.parameters())
    with pytest.raises(DivergedError), pytest.warns(UserWarning):
        train(network, Recipe(steps=100), lambda step: loss_at(step, frozenset(range(100))))


def test_a_first_batch_with_next_to_nothing_in_it_is_no_measure() -> None:
    guard = DivergenceGuard(lambda: {}, [], rollbacks=0)
    for step in range(1, 401):  # stars on black: a batch in three has one
        loss = 0.03 if step % 3 == 2 else 5e-4
        assert guard.after_step(step, torch.tensor(loss)) is None
    resumed = DivergenceGuard(lambda: {}, [], rollbacks=0)
    early = DivergenceGuard(lambda: {}, [], rollbacks=0)
    for step in range(1, 5):
        early.after_step(step, torch.tensor(0.01 * step))
    resumed.load_state_dict(early.state_dict())
    for step in range(5, 51):
        for one in (early, resumed):
            assert one.after_step(step, torch.tensor(0.02)) is None
    assert early.state_dict()["first"] == resumed.state_dict()["first"] == pytest.approx(0.04)


def test_losses_of_next_to_nothing_have_not_run_away() -> None:
    assert looks([3e-14, 2e-9, 5e-12]) == []
