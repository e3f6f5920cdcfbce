"""The fused step's tensors and scratch, as the compiled kernels in ``_numba_step`` take them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels import _numba_grid
from sasnet_ns.kernels import _numba_step as kernel
from sasnet_ns.kernels._numba import APART, array, run, threads_for
from sasnet_ns.kernels._numba_values import values, values_part
from sasnet_ns.kernels._vector import COLUMNS, LANES
from sasnet_ns.kernels.layout import HashGridLayout
from sasnet_ns.kernels.step_form import PointLoss, StepForm

PARTS = 4
"""Shares of a step's points whose gradients are summed apart, on one, two or four threads alike: the same bits."""
LARGE_TABLE = 1 << 20
"""Numbers of a hash grid from which on threads share one gradient of it: each takes levels instead of points."""
LARGE_SUMS = 1 << 18
"""Numbers of all threads' gradients from which on it pays to add them up on all threads."""
_NOTHING = np.empty(0, np.float32)
_KINDS = {
    "affine": kernel.AFFINE,
    "relu": kernel.RELU,
    "sigmoid": kernel.SIGMOID,
    "sine": kernel.SINE,
    "finer": kernel.FINER,
    "finer_detached": kernel.FINER_DETACHED,
    "gauss": kernel.GAUSS,
    "gabor": kernel.GABOR,
}


@dataclass
class _Buffers:
    """What a call needs beside its data, for one number of threads; see ``_numba_step.step_part``."""

    work: np.ndarray
    turned: np.ndarray
    places: np.ndarray
    shares: np.ndarray
    sums: np.ndarray
    tables: np.ndarray
    totals: np.ndarray


@dataclass
class _Plan:
    """A network in numbers that the kernel reads; see ``_numba_step``."""

    layers: np.ndarray
    omegas: np.ndarray
    neurons: np.ndarray
    grid_rows: tuple[int, int, int, int]
    moves: np.ndarray
    rows: int
    widest: int
    sums: int
    values: int
    starts: list[int]


class CompiledStep:
    """A step of a network whose tensors are float32 on the CPU; see :class:`sasnet_ns.kernels.FusedStep`."""

    def __init__(self, form: StepForm) -> None:
        self._form = form
        self._plan = _plan(form)
        self._values, self._grads = torch.zeros(self._plan.values), torch.zeros(self._plan.values)
        self._copies = list(self._views(self._values))
        self._gradients = [(tensor, view) for tensor, view in self._views(self._grads) if tensor.requires_grad]
        self._trains_table = form.table is not None and form.table.requires_grad
        self._grid = _grid(form)
        self._table = np.empty((0, 2 if form.layout is None else form.layout.feature_dim), np.float32)
        self._shares = shares()
        self._parts = 0

    def _views(self, flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for tensor, start in zip(self._form.parameters(), self._plan.starts, strict=True):
            yield tensor, flat[start : start + tensor.numel()].view(tensor.shape)

    def _allocate(self, parts: int) -> None:
        """Scratch and gradients for another number of threads."""
        table = self._form.table
        self._parts = parts
        self._by_level = self._trains_table and parts > 1 and table is not None and table.numel() > LARGE_TABLE
        self._memory = _buffers(self._form, self._plan, parts, self._trains_table and not self._by_level)
        total = self._memory.sums.size + self._memory.tables.size
        self._shared_gather = total > LARGE_SUMS
        self._table_grad = torch.from_numpy(self._memory.tables[0]) if self._memory.tables.shape[0] else None

    def __call__(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Loss, predictions, and the gradient of every tensor that requires one, in buffers of the next call too."""
        parts = shares_of(self._shares, x.shape[0])
        if parts != self._parts:
            self._allocate(parts)
        form, plan, memory = self._form, self._plan, self._memory
        with torch.no_grad():
            for tensor, view in self._copies:
                view.copy_(tensor)
        predicted = torch.empty(target.shape)
        slopes = torch.empty(x.shape[0] if self._by_level else 0, form.layout.out_dim if form.layout is not None else 0)
        table = self._table if form.table is None else array(form.table)
        weights = _NOTHING if weight is None else array(weight.float())
        data = (array(x.float()), array(target.float()), weights, _rules(loss, scale))
        network = (self._values.numpy(), plan.layers, plan.omegas, plan.neurons, plan.grid_rows)
        scratch = (memory.work, memory.turned, memory.places, memory.shares)
        results = (memory.sums, memory.tables, memory.totals, predicted.numpy(), slopes.numpy())
        arguments = (*data, *network, *self._grid[:3], table, *self._grid[3:], *scratch, *results)
        run(kernel.step, kernel.step_part, parts, *arguments)
        sums = (memory.sums, plan.moves, self._grads.numpy(), memory.tables, parts)
        gatherers = torch.get_num_threads() if self._shared_gather else 1
        run(kernel.gather, kernel.gather_part, gatherers, *sums)
        gradients = list(self._gradients)
        if form.table is not None and self._table_grad is not None:
            gradients.append((form.table, self._table_grad))
        elif form.table is not None and form.layout is not None and self._by_level:
            scattered = _numba_grid.scatter(x.float()[None] * scale, None, slopes[None], form.layout)
            gradients.append((form.table, scattered[0]))
        return torch.tensor(memory.totals[:, 0].sum(), dtype=torch.float32), predicted, gradients


class CompiledValues:
    """The values of a network whose tensors are float32 on the CPU; may be called by several threads at once."""

    def __init__(self, form: StepForm) -> None:
        self._form = form
        self._plan = _plan(form)
        self._grid = _grid(form)
        self._corners = 0 if form.layout is None else kernel.CORNER << form.layout.in_dim

    def __call__(self, x: Tensor, scale: float) -> Tensor:
        """(N, out_dim) at (N, in_dim) points, of which the network sees ``scale * x``."""
        form, plan = self._form, self._plan
        weights = np.empty(plan.values, np.float32)
        for tensor, start in zip(form.parameters(), plan.starts, strict=True):
            weights[start : start + tensor.numel()] = tensor.detach().numpy().reshape(-1)
        parts = threads_for(x.shape[0], kernel.BLOCK)
        table = np.empty((0, 2), np.float32) if form.table is None else array(form.table)
        places = np.empty((parts, len(self._grid[3]), self._corners), np.uint32)
        work = np.empty((parts, plan.rows, kernel.PITCH), np.float32)
        predicted = torch.empty(x.shape[0], form.layers[-1].bias.shape[0])
        network = (weights, plan.layers, plan.omegas, plan.neurons, plan.grid_rows[0])
        scratch = (work, places, np.empty(places.shape, np.float32), predicted.numpy())
        points = (np.zeros(1, np.int64), array(x.float()), np.float32(scale))
        run(values, values_part, parts, *points, *network, *self._grid[:3], table, *self._grid[3:], *scratch)
        return predicted


def shares() -> int:
    """Shares of the points for a step to be; settled when it is built, so that fewer threads later on keep its bits."""
    threads = torch.get_num_threads()
    return threads if PARTS % threads else PARTS


def shares_of(most: int, points: int) -> int:
    """The same for a number of points: no share is empty."""
    return max(1, min(most, -(-points // kernel.BLOCK)))


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _rules(loss: PointLoss, scale: float) -> np.ndarray:
    near = 0.0 if loss.near is None else loss.near
    return np.array((loss.power, loss.absolute, near, loss.far_weight, loss.sign_margin, scale), np.float32)


def _grid(form: StepForm) -> tuple[tuple[int, ...], tuple[int, ...], bool, np.ndarray, int]:
    """The grid's constants as the kernel takes them; no levels where there is no grid."""
    layout = HashGridLayout(1, (2,), 1) if form.layout is None else form.layout
    axes, channels, smooth, levels = _numba_grid._constants(layout)
    return axes, channels, smooth, levels[:0] if form.layout is None else levels, layout.table_size - 1


def _plan(form: StepForm) -> _Plan:
    """Give every number of a step its place."""
    features = 0 if form.layout is None else form.layout.out_dim
    rows = itertools.count()

    def take(count: int) -> int:
        first = next(rows)
        for _ in range(count - 1):
            next(rows)
        return first if count else -1

    coordinates = take(form.in_dim)
    feature, feature_slope = take(features), take(features)
    masks = sum(len(layer.group_sizes) for layer in form.layers)
    every = (*form.decoder, *form.layers)
    widest = max(max(layer.weight.shape) for layer in every)
    # gradients by the hidden layers' outputs are needed two at a time; those by the masks until the decoder's turn
    slopes = (take(widest), take(widest))
    mask_slope = take(masks)
    plan: list[list[int]] = []
    neurons: list[tuple[int, int]] = []
    moves: list[tuple[int, int, int, int, int]] = []
    starts: list[int] = []
    value, total, mask_row = 0, 0, -1
    source, source_slope = (feature, feature_slope) if features else (coordinates, -1)
    mask = 0
    for index, layer in enumerate(every):
        outputs, inputs = layer.weight.shape
        first_of_chain, last_of_decoder = index == len(form.decoder), index == len(form.decoder) - 1
        if first_of_chain and form.decoder:
            source, source_slope = coordinates, -1
        kind = _KINDS[layer.activation]
        wave = take(outputs)
        cosine = take(outputs) if kind >= kernel.SINE else -1
        target = take(outputs) if layer.group_sizes else wave
        slope = mask_slope if last_of_decoder else slopes[index % 2]
        if last_of_decoder:
            mask_row = target
        row = dict.fromkeys(range(kernel.FIELDS), -1)
        row |= {kernel.SOURCE: source, kernel.INPUTS: inputs, kernel.OUTPUTS: outputs, kernel.ADDS: 0}
        row |= {kernel.TARGET: target, kernel.WAVE: wave, kernel.COSINE: cosine, kernel.NEURON: len(neurons)}
        row |= {kernel.SLOPE: slope, kernel.SOURCE_SLOPE: source_slope}
        row[kernel.KIND] = kind
        pitch = _rounded(inputs, COLUMNS) if inputs > kernel.FEW_INPUTS else inputs
        for tensor, begins, sums, height, width, apart in (
            (layer.weight, kernel.WEIGHT, kernel.GRAD, outputs, inputs, pitch),
            (layer.bias, kernel.BIAS, kernel.BIAS_GRAD, 1, outputs, outputs),
        ):
            row[begins] = value
            starts.append(value)
            if tensor.requires_grad:
                row[sums] = total
                moves.append((total, value, height, width, apart))
                total += _rounded(height * apart, LANES)
            value += _rounded(tensor.numel(), LANES)
        row[kernel.GRAD_PITCH] = pitch
        free = outputs - sum(layer.group_sizes)
        neurons += [(-1, -1)] * free
        for size in layer.group_sizes:
            neurons += [(mask_row + mask, mask_slope + mask)] * size
            mask += 1
        plan.append([row[i] for i in range(kernel.FIELDS)])
        source, source_slope = target, slope
    return _Plan(
        layers=np.array(plan, np.int64),
        omegas=np.array([layer.omega for layer in every], np.float32),
        neurons=np.array(neurons, np.int64).reshape(-1, 2),
        grid_rows=(feature, feature_slope, mask_slope, masks),
        moves=np.array(moves, np.int64).reshape(-1, 5),
        rows=next(rows) + COLUMNS,
        widest=_rounded(widest, COLUMNS),
        sums=total + COLUMNS,
        values=value,
        starts=starts,
    )


def _buffers(form: StepForm, plan: _Plan, parts: int, tables: bool, results: int | None = None) -> _Buffers:
    """Scratch of all threads, and sums for each, with a gradient of the hash grid's table if ``tables``.

    ``results``: how many sums, where that is not one a thread.
    """
    levels, corners = (0, 0) if form.layout is None else (form.layout.levels, 1 << form.layout.in_dim)
    entries = (0, 2) if form.table is None else tuple(form.table.shape)
    places = torch.zeros(parts, levels, corners * kernel.CORNER, dtype=torch.int32).numpy().view(np.uint32)
    results = parts if results is None else results
    return _Buffers(
        work=torch.zeros(parts, plan.rows, kernel.PITCH).numpy(),
        turned=torch.zeros(parts, kernel.BLOCK, plan.widest).numpy(),
        places=places,
        shares=torch.zeros(parts, levels, corners * kernel.CORNER).numpy(),
        sums=torch.zeros(results, _rounded(plan.sums, APART) + APART).numpy(),
        tables=torch.zeros(results if tables else 0, *entries).numpy(),
        totals=torch.zeros(results, APART, dtype=torch.float64).numpy(),
    )
