"""Training steps of K networks at once on a CPU: each thread computes whole networks, so none waits for another.

What a network gets is what ``_numba_step`` computes for it on one thread, bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels import _numba_step as kernel
from sasnet_ns.kernels._numba import array, jit, run
from sasnet_ns.kernels._numba_step_plan import _buffers, _grid, _plan, _rules
from sasnet_ns.kernels._openmp import on_team
from sasnet_ns.kernels.step_form import PointLoss, StepForm


@jit
def networks_part(part, parts, x, target, weight, rules, weights, plan, omegas, neurons, grid_rows, axes, channels, smooth, table, levels, table_mask, work, turned, places, shares, sums, tables, totals, predicted, nothing, moves, grads):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Loss and gradients of every so many-th network; arguments as in ``_numba_step``, with K in front.

    Only ``grads`` is one flat array: all networks' gradients of a tensor lie together, as optimisers take them.
    """
    own = slice(part, part + 1)
    for k in range(part, x.shape[0], parts):
        one = slice(k, k + 1)
        kernel.step_part(0, 1, x[k], target[k], weight[k], rules, weights[k], plan, omegas, neurons, grid_rows, axes, channels, smooth, table[k], levels, table_mask, work[own], turned[own], places[own], shares[own], sums[one], tables[one], totals[one], predicted[k], nothing)  # fmt: skip  # noqa: E501
        kernel.gather_part(0, 1, sums[one], moves[k], grads, tables[one], 1)


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
        self._parts = 0

    def _allocate(self, parts: int) -> None:
        """Scratch for another number of threads, and the gradients."""
        form, self._parts = self._form, parts
        trains_table = form.table is not None and form.table.requires_grad
        self._memory = _buffers(self._one, self._plan, parts, trains_table, self._networks)
        self._found = list(self._gradients)
        if form.table is not None and trains_table:
            self._found.append((form.table, torch.from_numpy(self._memory.tables)))

    def __call__(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Losses, predictions, and the gradient of every tensor that requires one, in buffers of the next call too."""
        parts = min(torch.get_num_threads(), self._networks)
        if parts != self._parts:
            self._allocate(parts)
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
            predicted.numpy(), np.empty((0, 0), np.float32), self._moves, self._grads.numpy(),
        )  # fmt: skip
        run(networks, networks_part, parts, *arguments)
        return torch.from_numpy(memory.totals[:, 0].astype(np.float32)), predicted, self._found
