"""Pauses by nerfstudio's buttons: no time that steps took."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nerfstudio")
import sasnet_ns.methods  # noqa: F401  # isort: skip  (nerfstudio's writer cannot be imported first)
from nerfstudio.viewer.viewer import Viewer

from sasnet_ns.models.trainer import ResumableTrainer


@pytest.mark.parametrize("first", ["training", "paused"])
def test_a_pause_is_no_time_of_training(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 90.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    trainer: Any = object.__new__(ResumableTrainer)
    viewer: Any = SimpleNamespace(trainer=trainer)

    def press() -> None:
        Viewer._toggle_training_state(viewer, None)

    trainer.training_state = first  # --start-paused: before training begins
    now = 100.0
    trainer._started = now
    now += 8
    if first == "training":
        press()
        now += 20
    press()
    now += 3
    assert trainer.training_state == "training"
    assert now - trainer._started == (11 if first == "training" else 3)
    press()
    now += 50
    trainer.training_state = "completed"  # by Ctrl-C in a pause
    assert now - trainer._started == (11 if first == "training" else 3)
