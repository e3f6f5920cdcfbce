"""Training steps that the host does not take part in: on CUDA, graphs of one or ten of them.

A step of these networks is a hundred launches, each over before the next can be issued. Here all that changes from
step to step, the batch, the learning rates and the weights of the loss, lies in tensors on the device, in the order of
the steps; a step reads the row that a counter on the device points to. So the same launches can be recorded once and
replayed (CUDA graphs), and on any other device the very same function runs as it stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from sasnet_ns.kernels import PointLoss, point_loss
from sasnet_ns.kernels._choose import choose
from sasnet_ns.kernels._device import on_device_of
from sasnet_ns.networks import HashGridMLP, SASNet, SignedDistanceField, Siren, step_form
from sasnet_ns.training.muon import Muon
from sasnet_ns.training.objective import SDFObjective, progress_at
from sdf_tools.losses import FINE, eikonal_loss
from sdf_tools.pools import SDFPool

ROWS = 200
"""Steps whose batches and numbers are laid out at a time; 2,500 points each are 8 MB."""
MANY = 10
"""Steps of the longer graph."""
WARM_UP = 3
"""Steps that are taken before a graph is recorded, and taken back: kernels compile, optimisers make their state."""


def why_not(field: SignedDistanceField, objective: SDFObjective) -> str | None:
    """Why a field's steps cannot be taken by :class:`DeviceSteps`, a clause; None where they can.

    Args:
        field: where it will be trained.
        objective: terms and weights.
    """
    network = field.network
    if type(network) not in (SASNet, Siren, HashGridMLP):
        return "only SASNet, SIREN and ngp are known to do the same in every step"
    if step_form(network) is None:
        return "grid_variant or coordinate_scale has no step in one pass"
    if objective.band_dropout > 0:
        return "band dropout trains another part of the network in each step"
    if objective.mask_sparsity_weight > 0:
        return "the masks' sparsity has no term here"
    return None


def why_no_graph(field: SignedDistanceField, objective: SDFObjective) -> str | None:
    """Why a field's steps cannot be recorded as a CUDA graph, a clause; None where they can."""
    if not field.scale.is_cuda:
        return "it is not on a CUDA device"
    network = field.network
    implementation = network.config.implementation if isinstance(network, SASNet) else network.implementation
    if implementation not in ("auto", "triton"):
        return f"the kernels are set to {implementation!r}"
    if choose("auto", field.scale.device, True, ("triton",)) != "triton":
        return "Triton cannot be loaded"
    return why_not(field, objective)


def why_not_optimizers(optimizers: Iterable[Optimizer]) -> str | None:
    """Why an optimiser's step is not a function of tensors on the device alone, a clause; None where all are."""
    for optimizer in optimizers:
        plain = isinstance(optimizer, torch.optim.Adam) and not any(g["amsgrad"] for g in optimizer.param_groups)
        if not plain and not isinstance(optimizer, Muon):
            return f"{type(optimizer).__name__} is none of the optimisers that can (Muon, and Adam without amsgrad)"
    return None


class DeviceSteps:
    """Steps of a field's training as a function of tensors on its device alone.

    Equal to the ordinary loop (:func:`sasnet_ns.training.loop.train` with :class:`SDFStep`) but for rounding. What
    others may look at, parameters and the optimisers' moments, stays where it is and is changed in place.

    Args:
        field: in training, where it stays.
        objective: terms and weights; :func:`why_not` must have no objection.
        pool: the samples, on the field's device.
        points_per_batch: of a step.
        steps: of the whole run, for the weights' schedules.
        optimizers: whose groups' learning rates are set from outside between steps.
        rates_at: step to the learning rate of each parameter group, in the order of the optimisers and their groups.
        graph: record CUDA graphs; False takes the same steps one launch after the other.
        bfloat16: hidden products in bfloat16.

    Raises:
        ValueError: the objective, the network or an optimiser cannot be used so.
    """

    def __init__(
        self,
        field: SignedDistanceField,
        objective: SDFObjective,
        pool: SDFPool,
        points_per_batch: int,
        steps: int,
        optimizers: Iterable[Optimizer],
        rates_at: Callable[[int], Sequence[float]],
        *,
        graph: bool = True,
        bfloat16: bool = False,
    ) -> None:
        self.optimizers, self.rates_at = list(optimizers), rates_at
        reason = why_not(field, objective) or why_not_optimizers(self.optimizers)
        if reason is not None:
            raise ValueError(f"these steps cannot be taken on the device alone: {reason}.")
        self.field, self.objective, self.pool, self.count, self.steps = field, objective, pool, points_per_batch, steps
        self.graph, self.bfloat16 = graph, bfloat16
        self._groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self._parameters = [parameter for group in self._groups for parameter in group["params"]]
        device = field.scale.device
        rows = min(ROWS, max(MANY, steps))
        self._batches = torch.empty(rows, points_per_batch, 4, device=device)
        self._numbers = torch.empty(rows, len(self._groups) + 2, device=device)
        self._results = torch.empty(rows, 2, device=device)
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        counts = pool.batch_counts(points_per_batch)
        kind = torch.repeat_interleave(torch.arange(3, device=device), torch.tensor(counts, device=device))
        self._weight: Tensor | None = None
        self._loss = PointLoss(power=1, near=objective.near, absolute=objective.loss == "sign_agnostic")
        if objective.loss == "coarse_to_fine":
            self._loss, self._weight = PointLoss(power=2), torch.where(kind == FINE, 1.0, objective.coarse_weight)
        self._eikonal = max(objective.eikonal_weight, objective.eikonal_final_weight or 0.0) > 0
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._first: int | None = None
        self._next = -1

    def block(self, step: int, until: int) -> int:
        """How many steps to take at once from ``step`` on: ``MANY`` where they are recorded and aligned, else 1."""
        return MANY if self.graph and step % MANY == 0 and step + MANY <= until else 1

    def run(self, step: int, count: int = 1) -> Float[Tensor, "count 2"]:
        """Take steps.

        Args:
            step: the first, from 0.
            count: how many, at most ``MANY``.

        Returns:
            Loss and mean absolute error of the distances (box units) of each, as they were before its update. Nothing
            waits for the device.
        """
        self._look_up(step, count)
        with on_device_of(self._row):
            if self.graph and count not in self._graphs:
                self._record(count)
            if count in self._graphs:
                self._graphs[count].replay()
            else:
                for _ in range(count):
                    self._one()
        self._next = step + count
        assert self._first is not None
        return self._results[step - self._first :][:count].clone()

    def reset(self) -> None:
        """To be called after learning rates, optimisers' state or the step have changed from outside."""
        self._first = None
        self._graphs.clear()

    def _look_up(self, step: int, count: int) -> None:
        """Make sure that the rows of these steps are there, and the counter points to the first."""
        rows = self._batches.shape[0]
        if self._first is None or not self._first <= step <= self._first + rows - count:
            self._first, self._next = step, -1
            self._batches.copy_(self.pool.batches(self.count, step, rows))
            numbers = [[*self.rates_at(s), *self._weights_at(s)] for s in range(step, step + rows)]
            self._numbers.copy_(torch.tensor(numbers))
        if self._next != step:
            self._row.fill_(step - self._first)

    def _weights_at(self, step: int) -> tuple[float, float]:
        progress = progress_at(min(step, self.steps - 1), self.steps)
        return self.objective.far_weight_at(progress), self.objective.eikonal_weight_at(progress)

    def _one(self) -> None:
        """One step, from tensors on the device alone; what a graph records."""
        numbers = self._numbers.index_select(0, self._row)[0]
        batch = self._batches.index_select(0, self._row)[0]
        points, target = batch[:, :3].contiguous(), batch[:, 3:].contiguous()
        *rates, far_weight, eikonal_weight = numbers.unbind()
        for parameter in self._parameters:
            parameter.grad = None
        with torch.autocast(points.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
            predicted = self.field(points)[:, None]
            loss = dataclasses.replace(self._loss, far_weight=far_weight) if self._loss.near else self._loss
            value, gradient = point_loss(predicted, target, loss, self._weight)
            ends: list[Tensor] = [predicted]
            gradients: list[Tensor | None] = [gradient]
            if self._eikonal:
                stride = -(-self.count // self.objective.eikonal_points)
                term = eikonal_weight * eikonal_loss(self.field.value_and_gradient(points[::stride])[1])
                ends.append(term)
                gradients.append(None)
                value = value + term.detach()
        torch.autograd.backward(ends, gradients)
        with _rates_from_device(self._groups, rates):
            for optimizer in self.optimizers:
                optimizer.step()
        error = (predicted.detach() - target).abs().mean()
        self._results.index_copy_(0, self._row, torch.stack([value, error])[None])
        self._row += 1

    def _record(self, count: int) -> None:
        """Record ``count`` steps, and see whether two replays do what the steps themselves do; else go on without."""
        before = self._state()
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._take_back(before)
                    self._one()
            torch.cuda.current_stream().wait_stream(stream)
            self._take_back(before)
            for parameter in self._parameters:
                parameter.grad = None
            graph = torch.cuda.CUDAGraph()
            # Other threads, a viewer's say, may go on with what a recording forbids. The stream is this device's: torch
            # has one for all recordings, of the device that recorded first.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                for _ in range(count):
                    self._one()
            self._check(graph, count, before)
            self._graphs[count] = graph
        except (RuntimeError, AssertionError) as error:  # the latter from optimisers that cannot be recorded
            self._graphs.clear()
            self.graph = False
            reason = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(".")
            warnings.warn(f"Training goes on without CUDA graphs, more slowly: {reason}.", stacklevel=4)
        self._take_back(before)

    def _check(self, graph: torch.cuda.CUDAGraph, count: int, before: dict[Any, Tensor]) -> None:
        """Raise RuntimeError unless two replays and as many steps end in the same losses, but for rounding."""
        if int(before["row"]) + 2 * count > self._batches.shape[0]:
            return
        found = []
        for take, times in ((graph.replay, 2), (self._one, 2 * count)):
            self._take_back(before)
            for _ in range(times):
                take()
            found.append(self._results[int(before["row"]) :][: 2 * count, 0].clone())
        replayed, taken = found
        if not torch.allclose(replayed, taken, rtol=0.01, atol=1e-7):  # atomics, and what sines make of last digits
            a, b = float(replayed[-1]), float(taken[-1])
            raise RuntimeError(f"a recorded step ends in a loss of {a:.6g}, the step itself in {b:.6g}")

    def _tensors(self) -> Iterator[tuple[Any, Tensor]]:
        """Everything that a step changes and the next one reads, by a name."""
        yield "row", self._row
        for index, parameter in enumerate(self._parameters):
            yield index, parameter
        for index, optimizer in enumerate(self.optimizers):
            for parameter, moments in optimizer.state.items():
                for name, value in moments.items():
                    if isinstance(value, Tensor):
                        yield (index, parameter, name), value

    def _state(self) -> dict[Any, Tensor]:
        return {name: value.detach().clone() for name, value in self._tensors()}

    @torch.no_grad()
    def _take_back(self, before: dict[Any, Tensor]) -> None:
        """Undo steps in place; moments that were not there before start from zero, as they do in a first step."""
        for name, value in self._tensors():
            if name in before:
                value.copy_(before[name])
            else:
                value.zero_()


@contextlib.contextmanager
def _rates_from_device(groups: list[dict[str, Any]], rates: Sequence[Tensor]) -> Iterator[None]:
    """Let optimisers read learning rates from tensors; their groups are as before afterwards, for checkpoints."""
    kept = [(group["lr"], group.get("capturable")) for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
        if "capturable" in group:
            group["capturable"] = rate.is_cuda and torch.cuda.is_current_stream_capturing()
    try:
        yield
    finally:
        for group, (rate, capturable) in zip(groups, kept, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = capturable
