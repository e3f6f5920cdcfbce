"""A training step in one call: loss and the gradient of every parameter, without autograd.

Autograd's step reads and writes each layer's activations from memory a dozen times and waits for all threads after each
of some forty operations. Here every thread takes its share of the points once through the whole network and back. What
it can express is :class:`StepForm`: a chain of layers on coordinates or on a hash grid, with SASNet's masks or without.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels import _torch
from sasnet_ns.kernels._choose import choose
from sasnet_ns.kernels.functional import Implementation
from sasnet_ns.kernels.layout import HashGridLayout
from sdf_tools.errors import ShapeError

Activation = Literal["affine", "relu", "sigmoid", "sine"]


@dataclass(frozen=True)
class StepLayer:
    """A linear layer and what follows its product; the parameters themselves, not copies."""

    weight: Float[Tensor, "outputs inputs"]
    """A gradient is computed if it requires one."""
    bias: Float[Tensor, " outputs"]
    """The same."""
    activation: Activation
    """``affine``, ``relu``, ``sigmoid``: of ``z = h weight^T + bias``; ``sine``: ``m * sin(omega * z)``."""
    omega: float = 1.0
    """SIREN's frequency factor."""
    group_sizes: tuple[int, ...] = ()
    """``sine``: neurons of each masked group, the layer's last ones; a group may be empty. None: no masks."""


@dataclass(frozen=True)
class StepForm:
    """A network as :class:`FusedStep` computes it.

    Without ``decoder`` the chain reads the grid's features if there is a grid, else the coordinates. With ``decoder``
    it reads the coordinates, and the masks of all its layers come from the decoder on the grid's features, in order.
    """

    in_dim: int
    """Number of coordinates."""
    layers: tuple[StepLayer, ...]
    """From the input to the network's values."""
    table: Float[Tensor, "entries feature_dim"] | None = None
    """The hash grid's entries."""
    layout: HashGridLayout | None = None
    """The hash grid's shape."""
    decoder: tuple[StepLayer, ...] = ()
    """From the features to the masks."""

    def parameters(self) -> Iterator[Tensor]:
        """Weight and bias of every layer, the decoder's first, without the table."""
        for layer in (*self.decoder, *self.layers):
            yield layer.weight
            yield layer.bias


@dataclass(frozen=True)
class PointLoss:
    """A loss that compares each value with its target: ``mean_n w_n mean_c |f_nc - t_nc|^power``.

    ``w_n`` is the call's weight of the point; with ``near`` it is multiplied by ``max(near / (|t| + near),
    far_weight)``, except where the error exceeds ``sign_margin |t|``: the loss of
    :func:`sdf_tools.losses.distance_weighted_loss`.

    Raises:
        ValueError: ``power`` is neither 1 nor 2.
    """

    power: int = 2
    """2 for squared errors, 1 for absolute ones."""
    near: float | None = None
    """Distance at which a sample counts half as much as one on the surface, in the target's units; None: no weight."""
    far_weight: float = 0.1
    """Smallest weight of a far sample."""
    sign_margin: float = 0.5
    """Error that endangers a sample's sign, as a share of its distance."""
    absolute: bool = False
    """Compare ``|f|`` with the target, which is an unsigned distance (SAL, Atzmon and Lipman 2020, eq. 2)."""

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise ValueError(f"PointLoss takes power 1 or 2, not {self.power}.")

    def __call__(
        self, predicted: Float[Tensor, "N c"], target: Float[Tensor, "N c"], weight: Float[Tensor, " N"] | None = None
    ) -> Float[Tensor, ""]:
        """The loss in plain torch; what :class:`FusedStep` computes."""
        error = ((predicted.abs() if self.absolute else predicted) - target).abs()
        shares = torch.ones_like(error) if weight is None else weight[:, None].expand_as(error)
        if self.near is not None:
            far = (self.near / (target.abs() + self.near)).clamp_min(self.far_weight)
            shares = shares * torch.where(error.detach() > self.sign_margin * target.abs(), 1.0, far)
        return (shares * error.pow(self.power)).mean()


@dataclass
class _Buffers:
    """What a call needs beside its data, for one number of threads."""

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
    starts: list[int] = field(default_factory=list)


class FusedStep:
    """Loss and gradients of a network whose loss is a function of its values alone.

    ``step(x, target)`` leaves the loss's gradients in ``.grad`` of the parameters that require one, in place of what was
    there. The gradients live in buffers that the next call overwrites. Results depend on the number of threads, and on
    nothing else: same inputs, same bits.

    Args:
        form: the network. Its tensors are read in every call, so an optimiser may change them in place; they must stay
            the same objects.
        implementation: ``auto``, ``torch`` (the definition, by autograd) or ``numba`` (CPU, float32).

    Raises:
        ShapeError: the layers do not fit together.
        MissingLibraryError: numba is asked for by name and is not installed.
        ValueError: the implementation is unknown or cannot run on the tensors.
    """

    def __init__(self, form: StepForm, implementation: Implementation = "auto") -> None:
        _check(form)
        self.form = form
        tensors = [*form.parameters()] + ([] if form.table is None else [form.table])
        fast = all(tensor.dtype == torch.float32 for tensor in tensors)
        self.backend = choose(implementation, tensors[0].device, fast, ("numba",))
        if self.backend == "triton":  # what ``auto`` means on CUDA; there is no such kernel
            self.backend = "torch"
        if self.backend == "numba":
            self._plan = _plan(form)
            self._values = torch.zeros(self._plan.values)
            self._grads = torch.zeros(self._plan.values)
            self._pairs = list(self._views(self._values))
            self._gradients = [(tensor, view) for tensor, view in self._views(self._grads) if tensor.requires_grad]
            self._buffers: dict[int, _Buffers] = {}

    def _views(self, flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for tensor, start in zip(self.form.parameters(), self._plan.starts, strict=True):
            yield tensor, flat[start : start + tensor.numel()].view(tensor.shape)

    def __call__(
        self,
        x: Float[Tensor, "N in_dim"],
        target: Float[Tensor, "N out_dim"],
        loss: PointLoss | None = None,
        weight: Float[Tensor, " N"] | None = None,
        scale: float = 1.0,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "N out_dim"]]:
        """One step's loss and predictions; gradients as a side effect.

        Args:
            x: points; the network sees ``scale * x``, in [-1, 1]. Points outside, infinite or not numbers are safe.
            target: what the values should be, in their units.
            loss: how they are compared; None for the mean squared error.
            weight: of each point; None for 1.
            scale: network coordinates per unit of ``x`` (2 for a :class:`~sasnet_ns.networks.SignedDistanceField`).

        Returns:
            The loss and the network's values, both without a graph.

        Raises:
            ShapeError: the tensors do not fit the network or each other; an empty batch.
        """
        loss = PointLoss() if loss is None else loss
        points, out_dim = x.shape[0], self.form.layers[-1].bias.shape[0]
        wanted = ((points, self.form.in_dim), (points, out_dim), None if weight is None else (points,))
        shapes = (tuple(x.shape), tuple(target.shape), None if weight is None else tuple(weight.shape))
        if shapes != wanted or not points:
            raise ShapeError(f"FusedStep takes x, target and weight of shapes {wanted}, N at least 1; got {shapes}.")
        if self.backend == "torch":
            return self._by_autograd(x * scale, target, loss, weight)
        return self._by_numba(x, target, loss, weight, scale)

    def _by_autograd(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            predicted = reference(self.form, x)
            value = loss(predicted, target, weight)
        tensors = [*self.form.parameters()] + ([] if self.form.table is None else [self.form.table])
        trained = [tensor for tensor in tensors if tensor.requires_grad]
        for tensor, gradient in zip(trained, torch.autograd.grad(value, trained), strict=True):
            tensor.grad = gradient
        return value.detach(), predicted.detach()

    def _by_numba(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        from sasnet_ns.kernels import _numba_step
        from sasnet_ns.kernels._numba import array, run

        plan, form = self._plan, self.form
        blocks = -(-x.shape[0] // _numba_step.BLOCK)
        parts = max(1, min(torch.get_num_threads(), blocks))
        buffers = self._buffers.get(parts)
        if buffers is None:
            self._buffers = {parts: (buffers := _buffers(form, plan, parts))}
        with torch.no_grad():
            for tensor, view in self._pairs:
                view.copy_(tensor)
        predicted = torch.empty(target.shape)
        near = 0.0 if loss.near is None else loss.near
        rules = (loss.power, float(loss.absolute), near, loss.far_weight, loss.sign_margin, scale)
        data = (array(x.float()), array(target.float()), _EMPTY if weight is None else array(weight.float()))
        network = (self._values.numpy(), plan.layers, plan.omegas, plan.neurons, plan.grid_rows)
        memory = (buffers.work, buffers.turned, buffers.places, buffers.shares, buffers.sums, buffers.tables)
        arguments = (*data, np.array(rules, np.float32), *network, *self._grid(), *memory, buffers.totals)
        run(_numba_step.step, _numba_step.step_part, parts, *arguments, predicted.numpy())
        gathered = (buffers.sums, plan.moves, self._grads.numpy(), buffers.tables, parts)
        run(_numba_step.gather, _numba_step.gather_part, parts, *gathered)
        for tensor, view in self._gradients:
            tensor.grad = view
        if form.table is not None and form.table.requires_grad:
            form.table.grad = torch.from_numpy(buffers.tables[0])
        return torch.tensor(buffers.totals[:, 0].sum(), dtype=torch.float32), predicted

    def _grid(self) -> tuple[Any, ...]:
        from sasnet_ns.kernels._numba import array
        from sasnet_ns.kernels._numba_grid import _constants

        layout = self.form.layout or _no_grid(self.form.in_dim)
        axes, channels, smooth, levels = _constants(layout)
        table = _NO_TABLE if self.form.table is None else array(self.form.table)
        return axes, channels, smooth, table, levels if self.form.layout else levels[:0], layout.table_size - 1


_EMPTY = np.empty(0, np.float32)
_NO_TABLE = np.empty((0, 2), np.float32)


def _no_grid(in_dim: int) -> HashGridLayout:
    return HashGridLayout(in_dim, (2,), 1)


def reference(form: StepForm, x: Float[Tensor, "N in_dim"]) -> Float[Tensor, "N out_dim"]:
    """The network's values in plain torch: the definition of what :class:`FusedStep` computes.

    Args:
        form: the network.
        x: points in [-1, 1]^in_dim.
    """
    h = x
    masks: Tensor | None = None
    if form.table is not None and form.layout is not None:
        h = _torch.hash_grid(x, form.table, form.layout)
        if form.decoder:
            for layer in form.decoder:
                h = _apply(layer, h, None)
            masks, h = h, x
    used = 0
    for layer in form.layers:
        count = len(layer.group_sizes)
        h = _apply(layer, h, None if masks is None or not count else masks[:, used : used + count])
        used += count
    return h


def _apply(layer: StepLayer, h: Tensor, mask: Tensor | None) -> Tensor:
    if layer.activation == "sine":
        return _torch.masked_sine(h @ layer.weight.t(), layer.bias, layer.omega, mask, layer.group_sizes)
    z = torch.nn.functional.linear(h, layer.weight, layer.bias)
    return {"affine": lambda: z, "relu": z.relu, "sigmoid": z.sigmoid}[layer.activation]()


def _check(form: StepForm) -> None:
    if (form.table is None) != (form.layout is None) or (form.decoder and form.layout is None):
        raise ShapeError("A hash grid has both a table and a layout, and a mask decoder reads one.")
    if form.layout is not None and form.table is not None:
        wanted = (form.layout.total_entries, form.layout.feature_dim)
        if tuple(form.table.shape) != wanted or form.layout.in_dim != form.in_dim:
            raise ShapeError(f"The grid's table must be {wanted} on {form.in_dim} axes; got {tuple(form.table.shape)}.")
    features = 0 if form.layout is None else form.layout.out_dim
    for chain, inputs in ((form.decoder, features), (form.layers, features if _reads_grid(form) else form.in_dim)):
        for layer in chain:
            if layer.weight.shape[1:] != (inputs,) or layer.bias.shape != layer.weight.shape[:1]:
                raise ShapeError(
                    f"A layer on {inputs} inputs cannot have weights {tuple(layer.weight.shape)} and a bias "
                    f"{tuple(layer.bias.shape)}."
                )
            inputs = layer.weight.shape[0]
            masked = layer.group_sizes and (layer.activation != "sine" or not form.decoder)
            if masked or min(layer.group_sizes, default=0) < 0 or sum(layer.group_sizes) > inputs:
                raise ShapeError(f"Groups of {layer.group_sizes} neurons do not fit a {layer.activation} layer here.")
    masks = sum(len(layer.group_sizes) for layer in form.layers)
    if form.decoder and form.decoder[-1].weight.shape[0] != masks:
        raise ShapeError(f"The decoder gives {form.decoder[-1].weight.shape[0]} masks; the layers use {masks}.")


def _reads_grid(form: StepForm) -> bool:
    return form.layout is not None and not form.decoder


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _plan(form: StepForm) -> _Plan:
    """Give every number of a step its place."""
    from sasnet_ns.kernels import _numba_step as kernel
    from sasnet_ns.kernels._vector import COLUMNS, LANES

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
    plan, neurons, moves, starts = [], [], [], []
    value, total, mask_row = 0, 0, -1
    source, source_slope = (feature, feature_slope) if features else (coordinates, -1)
    mask = 0
    for index, layer in enumerate(every):
        outputs, inputs = layer.weight.shape
        first_of_chain, last_of_decoder = index == len(form.decoder), index == len(form.decoder) - 1
        if first_of_chain and form.decoder:
            source, source_slope = coordinates, -1
        sine = layer.activation == "sine"
        wave = take(outputs)
        cosine = take(outputs) if sine else -1
        target = take(outputs) if layer.group_sizes else wave
        slope = mask_slope if last_of_decoder else slopes[index % 2]
        if last_of_decoder:
            mask_row = target
        row = dict.fromkeys(range(kernel.FIELDS), -1)
        row |= {kernel.SOURCE: source, kernel.INPUTS: inputs, kernel.OUTPUTS: outputs, kernel.ADDS: 0}
        row |= {kernel.TARGET: target, kernel.WAVE: wave, kernel.COSINE: cosine, kernel.NEURON: len(neurons)}
        row |= {kernel.SLOPE: slope, kernel.SOURCE_SLOPE: source_slope}
        row[kernel.KIND] = {
            "affine": kernel.AFFINE,
            "relu": kernel.RELU,
            "sigmoid": kernel.SIGMOID,
            "sine": kernel.SINE,
        }[layer.activation]
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


def _buffers(form: StepForm, plan: _Plan, parts: int) -> _Buffers:
    from sasnet_ns.kernels import _numba_step as kernel
    from sasnet_ns.kernels._numba import APART

    levels, corners = (0, 0) if form.layout is None else (form.layout.levels, 1 << form.layout.in_dim)
    entries = (0, 2) if form.table is None else tuple(form.table.shape)
    places = torch.zeros(parts, levels, corners * kernel.BLOCK, dtype=torch.int32).numpy().view(np.uint32)
    return _Buffers(
        work=torch.zeros(parts, plan.rows, kernel.PITCH).numpy(),
        turned=torch.zeros(parts, kernel.BLOCK, plan.widest).numpy(),
        places=places,
        shares=torch.zeros(parts, levels, corners * kernel.BLOCK).numpy(),
        sums=torch.zeros(parts, _rounded(plan.sums, APART) + APART).numpy(),
        tables=torch.zeros(parts, *entries).numpy(),
        totals=torch.zeros(parts, APART, dtype=torch.float64).numpy(),
    )
