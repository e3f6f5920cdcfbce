"""The training loop of images, volumes and shapes: learning rates, and what was seen on the way."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sasnet_ns.kernels import tune
from sasnet_ns.networks.base import Network
from sasnet_ns.training.divergence import DivergenceGuard
from sasnet_ns.training.recipe import Recipe, build_optimizers, learning_rate_factor


@dataclass
class History:
    """What training went through; all lists have one entry per report.

    Attributes:
        step: steps done.
        seconds: since training began, evaluations left out.
        loss: at that step.
        psnr: over the signal where it was evaluated, dB; NaN elsewhere.
    """

    step: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)


Report = Callable[[int, float], None]


class TakesSteps(Protocol):
    """Takes whole steps itself, see :class:`sasnet_ns.training.device_steps.DeviceSteps`."""

    def block(self, step: int, until: int) -> int:
        """Steps to take at once."""

    def run(self, step: int, count: int = 1) -> Tensor:
        """Take them; the losses are in the first column."""

    def reset(self) -> None:
        """Learning rates or state have changed from outside."""


StepMaker = Callable[[list[torch.optim.Optimizer], Callable[[int], list[float]]], TakesSteps]
"""Optimisers, and step to their learning rates, to what takes the steps."""


def train(
    network: Network,
    recipe: Recipe,
    loss_at: Callable[[int], Tensor],
    *,
    after_step: Callable[[int], None] | None = None,
    report: Report | None = None,
    report_every: int = 10,
    evaluate: Callable[[], float] | None = None,
    evaluate_every: int = 0,
    history: History | None = None,
    make_steps: StepMaker | None = None,
) -> History:
    """Optimise a network in place.

    Args:
        network: its parameters' roles choose optimisers and learning rates.
        recipe: optimiser, rates, schedule and number of steps.
        loss_at: step (from 0) to the loss, a scalar.
        after_step: called with the steps done after each update.
        report: called with the steps done and the loss every ``report_every`` steps and at the end.
        report_every: steps between reports; reading a loss waits for the device.
        evaluate: PSNR over the signal, dB.
        evaluate_every: steps between evaluations, a multiple of ``report_every``; 0 for none.
        history: filled as training goes, so that an interruption (KeyboardInterrupt passes through) keeps it.
        make_steps: makes what takes the steps in the place of ``loss_at`` and this loop; None for these.

    Returns:
        The history.

    Training that runs away is taken back to where it was well and goes on more slowly, with a warning, twice at most.

    Raises:
        DivergedError: (a ValueError) it ran away once more.
    """
    tune()
    history = History() if history is None else history
    optimizers = build_optimizers(network, recipe)
    peaks = {role: optimizer.param_groups[0]["lr"] for role, optimizer in optimizers.items()}
    parameters = [parameter for role in network.parameter_roles().values() for parameter in role]
    guard = DivergenceGuard(network.state_dict, optimizers.values())

    def rates_at(step: int) -> list[float]:
        factor = learning_rate_factor(step, recipe) * guard.rate
        return [peaks[role] * factor for role in optimizers]

    def take(step: int) -> Tensor:
        for optimizer, rate in zip(optimizers.values(), rates_at(step), strict=True):
            optimizer.param_groups[0]["lr"] = rate
        for parameter in parameters:
            parameter.grad = None
        loss = loss_at(step)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return loss.detach()

    steps = None if make_steps is None else make_steps(list(optimizers.values()), rates_at)
    started, paused, done = time.perf_counter(), 0.0, 0
    while done < recipe.steps:
        losses = [take(done)] if steps is None else steps.run(done, steps.block(done, recipe.steps))[:, 0].unbind()
        for loss in losses:
            done += 1
            if after_step is not None:
                after_step(done)
            went_back = guard.after_step(done, loss)
            value = math.nan
            if done % report_every == 0 or done == recipe.steps:
                value = float(loss)
                if went_back is None and not math.isfinite(value):  # at once: the next look may be fifty steps away
                    went_back = guard.roll_back(done, f"the loss is {value} at step {done:,}")
            if went_back is not None:
                warnings.warn(went_back, stacklevel=2)
                if steps is not None:
                    steps.reset()
            if done % report_every and done != recipe.steps:
                continue
            history.step.append(done)
            history.seconds.append(time.perf_counter() - started - paused)
            history.loss.append(value)
            history.psnr.append(float("nan"))
            if evaluate is not None and evaluate_every and (done % evaluate_every == 0 or done == recipe.steps):
                before = time.perf_counter()
                history.psnr[-1] = evaluate()
                paused += time.perf_counter() - before
            if report is not None:
                report(done, value)
    return history


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from a seed of our own; the caller's generator goes on afterwards as if nothing was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def progress_bar(show: bool, steps: int, title: str) -> Iterator[Report]:
    """A progress bar on the terminal, or silence: yields ``report(step, loss)``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not show) as bar:
        task = bar.add_task(title, total=steps)
        yield lambda step, loss: bar.update(task, completed=step, description=f"{title}, loss {loss:.1e}")
