"""Recorded steps in nerfstudio's trainer: the run of the ordinary steps, and when it is not taken."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_sdf  # noqa: F401 (before anything else of nerfstudio, see conftest)
from sasnet_ns.models import sdf_trainer
from sasnet_ns.models.trainer import read_numbers
from sasnet_ns.training.device_steps import DeviceSteps

Make = Callable[..., Any]


def test_a_run_is_the_same_without_the_host(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = make_trainer(timestamp="ordinary")
    ordinary.train()
    assert ordinary._device_steps is None  # nothing is recorded unless that is asked for
    monkeypatch.setattr(sdf_trainer, "why_no_graph", lambda field, objective: None)
    monkeypatch.setattr(sdf_trainer, "DeviceSteps", functools.partial(DeviceSteps, graph=False))
    alone = make_trainer(timestamp="alone", cuda_graph=True)
    alone.train()
    assert isinstance(alone._device_steps, DeviceSteps)
    for a, b in zip(alone.pipeline.parameters(), ordinary.pipeline.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for name, optimizer in alone.optimizers.optimizers.items():
        other = ordinary.optimizers.optimizers[name].state_dict()
        assert optimizer.state_dict()["param_groups"] == other["param_groups"]
        assert alone.optimizers.schedulers[name].state_dict() == ordinary.optimizers.schedulers[name].state_dict()
    assert alone._last_report["iou"] == pytest.approx(ordinary._last_report["iou"], abs=2e-3)


def test_what_cannot_be_recorded_is_refused_if_asked_for(make_trainer: Make) -> None:
    trainer = make_trainer(cuda_graph=True)
    with pytest.raises(SystemExit, match="cannot be recorded: it is not on a CUDA device"):
        trainer.train()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"world_size": 2}, "several processes"),
        ({"mixed_precision": True}, "scaled or logged"),
        ({"max_norm": 1.0}, "clipped"),
        ({}, None),
    ],
)
def test_why_a_trainer_records_nothing(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], reason: str | None
) -> None:
    trainer = make_trainer()
    monkeypatch.setattr(sdf_trainer, "why_no_graph", lambda field, objective: None)
    if "max_norm" in change:
        trainer.config.optimizers["hidden"]["optimizer"].max_norm = change["max_norm"]
    else:
        for name, value in change.items():
            setattr(trainer, name, value)
    found = trainer._why_no_graph()
    assert found is None if reason is None else reason in found


def test_a_report_waits_for_the_device_once(make_trainer: Make) -> None:
    class Waits(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.reads += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    trainer = make_trainer()
    trainer.train()
    with Waits() as waits:
        trainer._report()
    assert waits.reads <= 1
    assert read_numbers({"a": torch.tensor(2.0), "b": 3, "c": torch.tensor(4)}) == {"a": 2.0, "b": 3.0, "c": 4.0}
