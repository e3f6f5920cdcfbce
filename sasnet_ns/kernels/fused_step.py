"""A training step in one call: loss and the gradient of every parameter, without autograd.

Autograd's step reads and writes each layer's activations from memory a dozen times and waits for all threads after each
of some forty operations. Here every thread takes its share of the points once through the whole network and back. What
it can express is :class:`StepForm`: a chain of layers on coordinates or on a hash grid, with SASNet's masks or without.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
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


LARGE_TABLE = 1 << 20
"""Numbers of a hash grid from which on threads share one gradient of it: each takes levels instead of points."""


class FusedStep:
    """Loss and gradients of a network whose loss is a function of its values alone.

    ``step(x, target)`` leaves the loss's gradients in ``.grad`` of the parameters that require one, in place of what
    was there. The gradients live in buffers that the next call overwrites. Results depend on the number of threads, and
    on nothing else: same inputs, same bits.

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
        self._tensors = [*form.parameters()] + ([] if form.table is None else [form.table])
        device = self._tensors[0].device
        fast = all(tensor.dtype == torch.float32 for tensor in self._tensors)
        if implementation == "auto" and device.type != "cpu":
            implementation = "torch"
        self.backend = choose(implementation, device, fast, ("numba",))
        if self.backend == "numba":
            self._plan = _plan(form)
            self._values = torch.zeros(self._plan.values)
            self._grads = torch.zeros(self._plan.values)
            self._copies = list(self._views(self._values))
            self._gradients = [(tensor, view) for tensor, view in self._views(self._grads) if tensor.requires_grad]
            self._buffers: tuple[int, _Buffers] | None = None

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
            ShapeError: the tensors do not fit the network or each other, or there is no point.
        """
        value, predicted, gradients = self._compute(x, target, loss, weight, scale)
        for tensor, gradient in gradients:
            tensor.grad = gradient
        return value, predicted

    def with_graph(
        self,
        x: Float[Tensor, "N in_dim"],
        target: Float[Tensor, "N out_dim"],
        loss: PointLoss | None = None,
        weight: Float[Tensor, " N"] | None = None,
        scale: float = 1.0,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "N out_dim"]]:
        """The same, for loops that call ``backward()`` themselves, add other terms or scale the loss.

        The gradients are computed here and handed over by ``backward()``, added to what is in ``.grad`` as always.
        Differentiable once, by the parameters alone; the predictions have no graph. Costs a copy of the gradients.

        Args and errors are those of :meth:`__call__`.
        """
        value, predicted, gradients = self._compute(x, target, loss, weight, scale)
        tensors = [tensor for tensor, _ in gradients]
        found = (
            [gradient.clone() for _, gradient in gradients] if self.backend == "numba" else [g for _, g in gradients]
        )
        return _Known.apply(value, found, *tensors), predicted

    def _compute(
        self, x: Tensor, target: Tensor, loss: PointLoss | None, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Loss, predictions, and the gradient of every tensor that requires one."""
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
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        with torch.enable_grad():
            predicted = reference(self.form, x)
            value = loss(predicted, target, weight)
        trained = [tensor for tensor in self._tensors if tensor.requires_grad]
        gradients = zip(trained, torch.autograd.grad(value, trained), strict=True)
        return value.detach(), predicted.detach(), list(gradients)

    def _by_numba(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        from sasnet_ns.kernels import _numba_grid, _numba_step
        from sasnet_ns.kernels._numba import array, run

        plan, layout, table = self._plan, self.form.layout, self.form.table
        parts = max(1, min(torch.get_num_threads(), -(-x.shape[0] // _numba_step.BLOCK)))
        trains_table = layout is not None and table is not None and table.requires_grad
        by_level = trains_table and parts > 1 and table is not None and table.numel() > LARGE_TABLE
        if self._buffers is None or self._buffers[0] != parts:
            self._buffers = parts, _buffers(self.form, plan, parts, trains_table and not by_level)
        memory = self._buffers[1]
        with torch.no_grad():
            for tensor, view in self._copies:
                view.copy_(tensor)
        predicted = torch.empty(target.shape)
        slopes = torch.empty(x.shape[0] if by_level else 0, layout.out_dim if layout is not None else 0)
        near = 0.0 if loss.near is None else loss.near
        rules = np.array((loss.power, loss.absolute, near, loss.far_weight, loss.sign_margin, scale), dtype=np.float32)
        data = (array(x.float()), array(target.float()), _NOTHING if weight is None else array(weight.float()), rules)
        network = (self._values.numpy(), plan.layers, plan.omegas, plan.neurons, plan.grid_rows, *self._grid())
        scratch = (memory.work, memory.turned, memory.places, memory.shares)
        results = (memory.sums, memory.tables, memory.totals, predicted.numpy(), slopes.numpy())
        run(_numba_step.step, _numba_step.step_part, parts, *data, *network, *scratch, *results)
        sums = (memory.sums, plan.moves, self._grads.numpy(), memory.tables, parts)
        run(_numba_step.gather, _numba_step.gather_part, parts, *sums)
        gradients = list(self._gradients)
        if trains_table and layout is not None and table is not None:
            found = (
                _numba_grid.scatter(x.float() * scale, None, slopes, layout)
                if by_level
                else torch.from_numpy(memory.tables[0])
            )
            gradients.append((table, found))
        return torch.tensor(memory.totals[:, 0].sum(), dtype=torch.float32), predicted, gradients

    def _grid(self) -> tuple[Any, ...]:
        from sasnet_ns.kernels._numba import array
        from sasnet_ns.kernels._numba_grid import _constants

        layout = self.form.layout or _no_grid(self.form.in_dim)
        axes, channels, smooth, levels = _constants(layout)
        table = _NO_TABLE if self.form.table is None else array(self.form.table)
        return axes, channels, smooth, table, levels if self.form.layout else levels[:0], layout.table_size - 1


_NOTHING = np.empty(0, np.float32)
_NO_TABLE = np.empty((0, 2), np.float32)


class _Known(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *(gradient * factor for gradient in ctx.gradients)


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


def _buffers(form: StepForm, plan: _Plan, parts: int, tables: bool) -> _Buffers:
    """Scratch of all threads, and a gradient of the hash grid's table for each if ``tables``."""
    from sasnet_ns.kernels import _numba_step as kernel
    from sasnet_ns.kernels._numba import APART

    levels, corners = (0, 0) if form.layout is None else (form.layout.levels, 1 << form.layout.in_dim)
    entries = (0, 2) if form.table is None else tuple(form.table.shape)
    places = torch.zeros(parts, levels, corners * kernel.CORNER, dtype=torch.int32).numpy().view(np.uint32)
    return _Buffers(
        work=torch.zeros(parts, plan.rows, kernel.PITCH).numpy(),
        turned=torch.zeros(parts, kernel.BLOCK, plan.widest).numpy(),
        places=places,
        shares=torch.zeros(parts, levels, corners * kernel.CORNER).numpy(),
        sums=torch.zeros(parts, _rounded(plan.sums, APART) + APART).numpy(),
        tables=torch.zeros(parts if tables else 0, *entries).numpy(),
        totals=torch.zeros(parts, APART, dtype=torch.float64).numpy(),
    )
