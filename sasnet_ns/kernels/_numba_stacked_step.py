"""Training steps of K networks at once on a CPU: each thread computes whole networks, so none waits for another.

What a network gets is what ``_numba_step`` computes for it, bit for bit: the same shares of the points, summed apart.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels import _numba_step as kernel
from sasnet_ns.kernels._numba import array, jit, run
from sasnet_ns.kernels._numba_step_plan import _buffers, _grid, _plan, _rules, shares, shares_of
from sasnet_ns.kernels._openmp import on_team
from sasnet_ns.kernels.step_form import PointLoss, StepForm


@jit
def networks_part(part, parts, x, target, weight, rules, weights, plan, omegas, neurons, grid_rows, axes, channels, smooth, table, levels, table_mask, work, turned, places, shares, sums, tables, totals, predicted, nothing, moves, grads, shared):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Loss and gradients of every so many-th network; arguments as in ``_numba_step``, with K in front.

    Only ``grads`` is one flat array: all networks' gradients of a tensor lie together, as optimisers take them.
    ``shared`` is the number of shares of a network's points.
    """
    own = slice(part * shared, (part + 1) * shared)
    for k in range(part, x.shape[0], parts):
        its = slice(k * shared, (k + 1) * shared)
        for share in range(shared):
            kernel.step_part(share, shared, x[k], target[k], weight[k], rules, weights[k], plan, omegas, neurons, grid_rows, axes, channels, smooth, table[k], levels, table_mask, work[own], turned[own], places[own], shares[own], sums[its], tables[its], totals[its], predicted[k], nothing)  # fmt: skip  # noqa: E501
        kernel.gather_part(0, 1, sums[its], moves[k], grads, tables[its], shared)


@jit
def networks(team, parts, *arguments):  # type: ignore[no-untyped-def]
    on_team(networks_part, team, parts, arguments)


class CompiledStackedStep:
    """A step of K networks whose tensors are float32 on the CPU; see :class:`sasnet_ns.kernels.StackedStep`."""

    def __init__(self, form: StepForm) -> None:
        self._form = form
        self._one = form.with_tensors([tensor[0] for tensor in form.tensors()])
        self._networks = form.layers[0].weight.shape[0]
        self._plan = _plan(self._one)
        self._values = torch.zeros(self._networks, self._plan.values)
        self._grads = torch.zeros(self._networks * self._plan.values)
        self._copies, self._gradients, sizes = [], [], {}
        for tensor, start in zip(form.parameters(), self._plan.starts, strict=True):
            size, first = tensor[0].numel(), self._networks * start
            sizes[start] = size
            self._copies.append((tensor, self._values[:, start : start + size].unflatten(1, tensor.shape[1:])))
            if tensor.requires_grad:
                self._gradients.append((tensor, self._grads[first : first + tensor.numel()].view(tensor.shape)))
        self._moves = np.repeat(self._plan.moves[None], self._networks, 0)
        for index, start in enumerate(self._plan.moves[:, 1]):
            self._moves[:, index, 1] = self._networks * start + sizes[start] * np.arange(self._networks)
        self._grid = _grid(form)
        features = 2 if form.layout is None else form.layout.feature_dim
        self._table = np.empty((self._networks, 0, features), np.float32)
        self._shares = shares()
        self._sizes = (0, 0)

    def _allocate(self, parts: int, shared: int) -> None:
        """Scratch and sums for other numbers of threads and of shares."""
        self._sizes = (parts, shared)
        trains_table = self._form.table is not None and self._form.table.requires_grad
        self._memory = _buffers(self._one, self._plan, parts * shared, trains_table, self._networks * shared)

    def __call__(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Losses, predictions, and the gradient of every tensor that requires one, in buffers of the next call too."""
        parts = min(torch.get_num_threads(), self._networks)
        shared = shares_of(self._shares, x.shape[1])
        if (parts, shared) != self._sizes:
            self._allocate(parts, shared)
        form, plan, memory = self._form, self._plan, self._memory
        with torch.no_grad():
            for tensor, view in self._copies:
                view.copy_(tensor)
        predicted = torch.empty(target.shape)
        weights = torch.empty(self._networks, 0) if weight is None else weight.float()
        arguments = (
            array(x.float()), array(target.float()), array(weights), _rules(loss, scale),
            self._values.numpy(), plan.layers, plan.omegas, plan.neurons, plan.grid_rows,
            *self._grid[:3], self._table if form.table is None else array(form.table), *self._grid[3:],
            memory.work, memory.turned, memory.places, memory.shares, memory.sums, memory.tables, memory.totals,
            predicted.numpy(), np.empty((0, 0), np.float32), self._moves, self._grads.numpy(), shared,
        )  # fmt: skip
        run(networks, networks_part, parts, *arguments)
        found = list(self._gradients)
        if form.table is not None and memory.tables.size:
            found.append((form.table, torch.from_numpy(memory.tables)[::shared].contiguous()))
        losses = memory.totals[:, 0].reshape(self._networks, shared).sum(1)
        return torch.from_numpy(losses.astype(np.float32)), predicted, found
