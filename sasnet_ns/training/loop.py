"""The training loop of images, volumes and shapes: learning rates, and what was seen on the way."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from sasnet_ns.kernels import tune
from sasnet_ns.networks.base import Network
from sasnet_ns.training.checkpoint import Checkpoint, Keeper, on_cpu
from sasnet_ns.training.divergence import DivergedError, DivergenceGuard
from sasnet_ns.training.recipe import Recipe, build_optimizers, learning_rate_factor
from sasnet_ns.training.thread_choice import ThreadChoice, threads_kept


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
_GENERATOR = threading.RLock()


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


@torch.inference_mode(False)  # records gradients, whatever the caller does
@threads_kept()
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
    checkpoint: Checkpoint | None = None,
    generator: torch.Generator | None = None,
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
        evaluate_every: steps between evaluations, a multiple of ``report_every``; 0 for the last step alone.
        history: filled as training goes, so that an interruption (KeyboardInterrupt passes through) keeps it.
        checkpoint: where the state is kept at intervals and at the end; training goes on from what is there, with a
            warning that says so, to the same bits as if it had never ended. Ctrl-C and SIGTERM then wait for the end of
            the step and keep its state. The caller removes it.
        generator: what ``loss_at`` draws from, if it does; its state belongs to the checkpoint.
        make_steps: makes what takes the steps in the place of ``loss_at`` and this loop, perhaps several at once; None
            for these. Checkpoints are then kept at the end of a block; a GPU adds in no fixed order, so that going on
            there agrees but for rounding.

    Returns:
        The history.

    Training that runs away is taken back to where it was well and goes on more slowly, with a warning, twice at most.

    Raises:
        DivergedError: (a ValueError) it ran away once more; the checkpoint is removed.
        ValueError: the checkpoint is that of another run, or damaged.
        OSError: the checkpoint cannot be written.
    """
    tune()
    history = History() if history is None else history
    state = _State(network, recipe, history, generator)
    done = state.resume(checkpoint) if checkpoint is not None else 0
    if report is not None and done:
        report(done, history.loss[-1] if history.loss else math.nan)
    optimizers = list(state.optimizers.values())
    steps = _SingleSteps(state, loss_at) if make_steps is None else make_steps(optimizers, state.rates_at)
    keeper, clock, threads = Keeper(checkpoint), _Clock(state.seconds), ThreadChoice(state.device)
    with keeper.signals_wait():
        while done < recipe.steps:
            sentence = None
            for loss in steps.run(done, steps.block(done, recipe.steps))[:, 0].unbind():
                done += 1
                last = done == recipe.steps
                if after_step is not None:
                    after_step(done)
                value = float(loss) if done % report_every == 0 or last else None
                if sentence is None:  # what came later in a block has been taken back with it
                    sentence = _watch(state.guard, keeper, done, loss, value)
                if value is None:
                    continue
                history.step.append(done)
                history.seconds.append(clock.seconds())
                history.loss.append(value)
                history.psnr.append(math.nan)
                if evaluate is not None and (last or (evaluate_every and done % evaluate_every == 0)):
                    with clock.stopped():
                        history.psnr[-1] = evaluate()
                if report is not None:
                    report(done, value)
            threads.after_step()
            if sentence is not None:
                warnings.warn(sentence, stacklevel=3)
                steps.reset()
            if keeper.due(done == recipe.steps):
                with clock.stopped():
                    keeper.keep(state.describe(done, clock.seconds()))
    return history


def _watch(guard: DivergenceGuard, keeper: Keeper, done: int, loss: Tensor, value: float | None) -> str | None:
    """What :meth:`DivergenceGuard.after_step` returns and raises; ``value`` is the loss where it is known already."""
    try:
        sentence = guard.after_step(done, loss)
        # At once where a report looks: the guard's next look may be fifty steps away.
        if sentence is None and value is not None and not math.isfinite(value):
            sentence = guard.roll_back(done, f"the loss is {value} at step {done:,}")
    except DivergedError:  # from what is kept it would only come again
        keeper.forget()
        raise
    return sentence


class _Clock:
    """Seconds of training, those of earlier processes included and pauses left out."""

    def __init__(self, before: float) -> None:
        self._began = time.perf_counter() - before

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._began += time.perf_counter() - before


class _State:
    """Everything that changes from step to step."""

    def __init__(self, network: Network, recipe: Recipe, history: History, generator: torch.Generator | None) -> None:
        self.network, self.recipe, self.history, self.generator = network, recipe, history, generator
        self.optimizers = build_optimizers(network, recipe)
        self.peaks = {role: optimizer.param_groups[0]["lr"] for role, optimizer in self.optimizers.items()}
        self.guard = DivergenceGuard(network.state_dict, self.optimizers.values())
        self.seconds = 0.0  # spent before this process
        self.device = next(network.parameters()).device

    def rates_at(self, step: int) -> list[float]:
        """Learning rates of the optimisers, in their order."""
        factor = learning_rate_factor(step, self.recipe) * self.guard.rate
        return [peak * factor for peak in self.peaks.values()]

    def describe(self, done: int, seconds: float) -> dict[str, Any]:
        """As tensors on the CPU and plain values."""
        return {
            "step": done,
            "steps": int(self.recipe.steps),
            "seconds": seconds,
            "network": on_cpu(dict(self.network.state_dict())),
            "optimizers": {role: on_cpu(optimizer.state_dict()) for role, optimizer in self.optimizers.items()},
            "guard": self.guard.state_dict(),
            "history": asdict(self.history),
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def resume(self, checkpoint: Checkpoint) -> int:
        """Take over what a checkpoint holds, if there is one; the number of steps done."""
        kept = checkpoint.read()
        if kept is None:
            checkpoint.require_room(list(self.network.parameters()))
            return 0
        try:
            self.network.load_state_dict(kept["network"])
            for role, optimizer in self.optimizers.items():
                optimizer.load_state_dict(kept["optimizers"][role])
            self.guard.load_state_dict(kept["guard"])
            if self.generator is not None:
                self.generator.set_state(kept["generator"])
            for name, rows in kept["history"].items():
                getattr(self.history, name)[:] = rows
            step, self.seconds = kept["step"], kept["seconds"]
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(
                f"'{checkpoint.path}' does not fit this run ({str(error).splitlines()[0]}); remove it to begin anew."
            ) from None
        warnings.warn(
            f"going on after step {step:,} of {self.recipe.steps:,}, as '{checkpoint.path}' has it.", stacklevel=4
        )
        return step


class _SingleSteps:
    """Steps of losses by autograd, one at a time."""

    def __init__(self, state: _State, loss_at: Callable[[int], Tensor]) -> None:
        self._loss_at, self._rates_at, self._optimizers = loss_at, state.rates_at, list(state.optimizers.values())
        self._parameters = [p for role in state.network.parameter_roles().values() for p in role]
        self._clip_norm = state.recipe.clip_norm

    def block(self, step: int, until: int) -> int:
        return 1

    def run(self, step: int, count: int = 1) -> Tensor:
        for optimizer, rate in zip(self._optimizers, self._rates_at(step), strict=True):
            optimizer.param_groups[0]["lr"] = rate
        for parameter in self._parameters:
            parameter.grad = None
        loss = self._loss_at(step)
        loss.backward()
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        for optimizer in self._optimizers:
            optimizer.step()
        return loss.detach().reshape(1, 1)

    def reset(self) -> None:
        pass  # rates are looked up, and states read, in each step


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from a seed of our own; the caller's generators go on afterwards as if nothing was.

    One at a time: all threads share torch's generator.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _GENERATOR, torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


@contextlib.contextmanager
def progress_bar(show: bool, steps: int, title: str) -> Iterator[Report]:
    """A progress bar on the terminal, or silence: yields ``report(step, loss)``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not show) as bar:
        task = bar.add_task(title, total=steps)
        yield lambda step, loss: bar.update(task, completed=step, description=f"{title}, loss {loss:.1e}")
