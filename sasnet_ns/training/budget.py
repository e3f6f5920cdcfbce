"""How many steps fit into a number of seconds, by timing some on a copy of the network."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable

import torch

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training.loop import StepMaker, train
from sasnet_ns.training.objective import SDFObjective, SDFStep
from sasnet_ns.training.recipe import Recipe
from sdf_tools.pools import SDFBatch

TRIED = 60
"""Steps that are timed, as many again before them to warm up; about half a second on a CPU."""
LEAST = 100
"""Fewer steps than this are not trained, whatever the budget."""


def steps_within(
    seconds: float,
    field: SignedDistanceField,
    objective: SDFObjective,
    recipe: Recipe,
    batch_at: Callable[[int], SDFBatch],
    overhead: float = 0.0,
    make_steps_of: Callable[[SignedDistanceField, int], StepMaker] | None = None,
) -> int:
    """The number of steps that take about ``seconds`` here and now, what this measurement takes included.

    Args:
        seconds: the budget of training.
        field: what will be trained; a copy of it is.
        objective: loss terms.
        recipe: optimisers.
        batch_at: the batch of a step.
        overhead: seconds that each step takes outside of the loss and the optimisers.
        make_steps_of: field and its number of steps to what takes them, where the ordinary loop does not.

    Raises:
        ValueError: the budget is not positive.
    """
    if seconds <= 0:
        raise ValueError(f"the budget must be a positive number of seconds, not {seconds:g}.")
    began = time.perf_counter()
    trial = copy.deepcopy(field)
    tried = dataclasses.replace(recipe, steps=2 * TRIED)
    steps = SDFStep(trial, objective, tried.steps)
    times: list[float] = []

    def loss_at(step: int) -> torch.Tensor:
        losses, _ = steps.losses(batch_at(step), step)
        return functools.reduce(torch.add, losses.values())

    train(
        trial.network,
        tried,
        loss_at,
        report=lambda done, loss: times.append(time.perf_counter()),  # the loss is there: nothing is under way
        report_every=TRIED,
        make_steps=None if make_steps_of is None else make_steps_of(trial, tried.steps),
    )
    step_time = (times[1] - times[0]) / TRIED + overhead
    left = seconds - (time.perf_counter() - began)
    return max(LEAST, int(left / step_time))
