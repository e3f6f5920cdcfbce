"""A training step in one call: loss and the gradient of every parameter, without autograd.

Autograd's step reads and writes each layer's activations from memory a dozen times and waits for all threads after each
of some forty operations. Here every thread takes its share of the points once through the whole network and back. What
it can express is :class:`StepForm`: a chain of layers on coordinates or on a hash grid, with SASNet's masks or without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels._choose import choose
from sasnet_ns.kernels.functional import Implementation
from sasnet_ns.kernels.step_form import PointLoss, StepForm, check, evaluate
from sdf_tools.errors import ShapeError


class FusedStep:
    """Loss and gradients of a network whose loss is a function of its values alone.

    ``step(x, target)`` leaves the loss's gradients in ``.grad`` of the parameters that require one, in place of what
    was there. The gradients live in buffers that the next call overwrites. Same inputs, same bits: on one, two or four
    threads, and on any number up to those that torch had when this was built.

    Args:
        form: the network. Its tensors are read in every call, so an optimiser may change them in place; they must stay
            the same objects.
        implementation: ``auto``, ``torch`` (the definition, by autograd) or ``numba`` (CPU, float32).
        coordinate_scale: the network's own factor on its coordinates.
        encode: what the form reads in the place of coordinates in [-1, 1], (N, d) to (N, in_dim) without a
            graph; points must then be finite. It may be given the caller's own tensor and keep what it made of it, so
            points that are shown again may change by torch's operations alone, not through numpy or ``.data``.

    Raises:
        ShapeError: the layers do not fit together.
        MissingLibraryError: numba is asked for by name and is not installed.
        ValueError: the implementation is unknown or cannot run on the tensors.
    """

    def __init__(
        self,
        form: StepForm,
        implementation: Implementation = "auto",
        coordinate_scale: float = 1.0,
        encode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check(form)
        self.form, self.coordinate_scale, self._encode = form, coordinate_scale, encode
        self._tensors = form.tensors()
        device = self._tensors[0].device
        fast = all(tensor.dtype == torch.float32 for tensor in self._tensors)
        if implementation == "auto" and device.type != "cpu":
            implementation = "torch"
        self.backend = choose(implementation, device, fast, ("numba",))
        self._run = self._by_autograd
        self._trained: tuple[bool, ...] = ()
        if self.backend == "numba":
            self._compile()

    def _compile(self) -> None:
        from sasnet_ns.kernels._numba_step_plan import CompiledStep

        self._trained = tuple(tensor.requires_grad for tensor in self._tensors)
        self._run = CompiledStep(self.form)  # type: ignore[assignment]

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
        return _Known.apply(value, [gradient.clone() for _, gradient in gradients], *tensors), predicted

    def _compute(
        self, x: Tensor, target: Tensor, loss: PointLoss | None, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Loss, predictions, and the gradient of every tensor that requires one."""
        scale *= self.coordinate_scale
        if self._encode is not None:
            x, scale = self._encode(x if scale == 1 and x.is_floating_point() else scale * x), 1.0
        points, out_dim = x.shape[0], self.form.layers[-1].bias.shape[0]
        wanted = ((points, self.form.in_dim), (points, out_dim), None if weight is None else (points,))
        shapes = (tuple(x.shape), tuple(target.shape), None if weight is None else tuple(weight.shape))
        if shapes != wanted or not points:
            raise ShapeError(f"FusedStep takes x, target and weight of shapes {wanted}, N at least 1; got {shapes}.")
        if self.backend == "numba" and self._trained != tuple(tensor.requires_grad for tensor in self._tensors):
            self._compile()  # some have been frozen since, or trained again
        return self._run(x, target, PointLoss() if loss is None else loss, weight, scale)

    def _by_autograd(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        with torch.enable_grad():
            predicted = evaluate(self.form, scale * x)
            value = loss(predicted, target, weight)
        trained = [tensor for tensor in self._tensors if tensor.requires_grad]
        gradients = zip(trained, torch.autograd.grad(value, trained) if trained else (), strict=True)
        return value.detach(), predicted.detach(), list(gradients)


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
