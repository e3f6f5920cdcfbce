"""Training steps of K networks at once: each gets what it gets alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")
from sasnet_ns.kernels import FusedStep, PointLoss, StackedStep, StepForm, stack_forms
from sasnet_ns.networks import HashGridMLP, Network, SASNet, SASNetConfig, Siren, step_form
from sdf_tools.errors import ShapeError

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
NETWORKS: dict[str, Any] = {
    "sasnet": lambda: SASNet(SASNetConfig(**SMALL)),
    "no masks": lambda: SASNet(SASNetConfig(**SMALL, masks=False)),
    "trained frequencies": lambda: SASNet(SASNetConfig(**SMALL, embedding="siren")),
    "siren": lambda: Siren(width=40, hidden_layers=2),
    "ngp": lambda: HashGridMLP(grid_levels=3, grid_log2_entries=8),
}
LOSSES = {
    "squared": PointLoss(),
    "weighted": PointLoss(power=1, near=0.01),
    "absolute": PointLoss(power=1, absolute=True),
}


def forms_of(name: str, count: int = 3) -> list[StepForm]:
    torch.manual_seed(0)
    networks: list[Network] = [NETWORKS[name]() for _ in range(count)]
    forms = [step_form(network) for network in networks]
    return [form for form in forms if form is not None]


def data(count: int = 3, points: int = 150) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, points, 3, generator=generator) - 0.5
    return x, 0.3 * torch.randn(count, points, 1, generator=generator), torch.rand(count, points, generator=generator)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gets_the_bits_that_it_gets_alone_on_one_thread(name: str, threads: int) -> None:
    forms, (x, target, weight) = forms_of(name), data()
    stacked = stack_forms(forms)
    step = StackedStep(stacked)
    assert step.backend == "numba"
    for given in (None, weight, None):  # the last call finds buffers that were used
        losses, predicted = step(x, target, LOSSES["weighted"], given, scale=2.0)
    torch.set_num_threads(1)
    for k, form in enumerate(forms):
        loss, values = FusedStep(form)(x[k], target[k], LOSSES["weighted"], None, scale=2.0)
        assert torch.equal(loss, losses[k]) and torch.equal(values, predicted[k])
        for ours, alone in zip(stacked.tensors(), form.tensors(), strict=True):
            assert (ours.grad is None) == (alone.grad is None)
            if ours.grad is not None and alone.grad is not None:
                assert torch.equal(ours.grad[k], alone.grad)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_numba_matches_the_float64_definition(name: str, loss: str) -> None:
    forms, (x, target, weight) = forms_of(name), data()
    found, wanted = stack_forms(forms), stack_forms([f.with_tensors([t.double() for t in f.tensors()]) for f in forms])
    for form, double in zip(found.tensors(), wanted.tensors(), strict=True):
        double.requires_grad_(form.requires_grad)
    losses, predicted = StackedStep(found, "numba")(x, target, LOSSES[loss], weight, scale=2.0)
    right, values = StackedStep(wanted, "torch")(x.double(), target.double(), LOSSES[loss], weight.double(), scale=2.0)
    assert losses.shape == (3,)
    torch.testing.assert_close(losses.double(), right, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(predicted.double(), values, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found.tensors(), wanted.tensors(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None
            assert (ours.grad - theirs.grad).abs().max() <= 2e-4 * theirs.grad.abs().max().clamp(min=1e-9)


def test_a_broken_network_harms_no_other() -> None:
    forms, (x, target, _) = forms_of("sasnet"), data()
    well, hurt = stack_forms(forms), stack_forms(forms)
    with torch.no_grad():
        hurt.layers[0].bias[1] = float("nan")
    losses, _ = StackedStep(well)(x, target)
    others, _ = StackedStep(hurt)(x, target)
    assert others[1].isnan() and torch.equal(losses[[0, 2]], others[[0, 2]])
    for a, b in zip(well.tensors(), hurt.tensors(), strict=True):
        if a.grad is not None and b.grad is not None:
            assert torch.equal(a.grad[[0, 2]], b.grad[[0, 2]])


def test_what_does_not_fit_is_refused() -> None:
    forms, (x, target, _) = forms_of("sasnet"), data()
    with pytest.raises(ShapeError, match="same layers"):
        stack_forms([forms[0], *forms_of("siren")])
    with pytest.raises(ShapeError, match="no network"):
        stack_forms([])
    step = StackedStep(stack_forms(forms))
    for wrong in ((x[:2], target[:2]), (x, target[:, :5]), (x[:, :0], target[:, :0]), (x[0], target[0])):
        with pytest.raises(ShapeError, match="StackedStep takes"):
            step(*wrong)
