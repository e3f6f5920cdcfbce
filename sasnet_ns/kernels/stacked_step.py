"""A training step of K networks of one architecture at once: on a GPU one launch where K would wait for K."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels._choose import choose
from sasnet_ns.kernels.functional import Implementation
from sasnet_ns.kernels.step_form import PointLoss, StepForm, evaluate
from sdf_tools.errors import ShapeError


class StackedStep:
    """Losses and gradients of K networks, each with points and targets of its own.

    ``step(x, target)`` leaves the gradient of each network's loss by its own parameters in ``.grad`` of the form's
    tensors, in place of what was there. On a CPU a thread computes whole networks, and each gets the bits that
    :class:`~sasnet_ns.kernels.FusedStep` gives it by itself, whatever the others are; on CUDA the hash grids, the
    sines and the products of all K are one launch each.

    Args:
        form: K networks, see :func:`~sasnet_ns.kernels.stack_forms`. Its tensors are read in every call; they must stay
            the same objects.
        implementation: ``auto``, ``torch`` (the definition, by autograd), ``numba`` (CPU, float32) or ``triton`` (CUDA,
            float32, by autograd).

    Attributes:
        backend: which of them runs.

    Raises:
        MissingLibraryError: a backend is asked for by name and is not installed.
        ValueError: the implementation is unknown or cannot run on the tensors.
    """

    def __init__(self, form: StepForm, implementation: Implementation = "auto") -> None:
        self.form = form
        self._tensors = form.tensors()
        fast = all(tensor.dtype == torch.float32 for tensor in self._tensors)
        self.backend: Implementation = choose(implementation, self._tensors[0].device, fast, ("numba", "triton"))  # type: ignore[assignment]
        self._run = self._by_autograd
        self._trained: tuple[bool, ...] = ()
        if self.backend == "numba":
            self._compile()

    def _compile(self) -> None:
        from sasnet_ns.kernels._numba_stacked_step import CompiledStackedStep

        self._trained = tuple(tensor.requires_grad for tensor in self._tensors)
        self._run = CompiledStackedStep(self.form)  # type: ignore[assignment]

    def __call__(
        self,
        x: Float[Tensor, "K N in_dim"],
        target: Float[Tensor, "K N out_dim"],
        loss: PointLoss | None = None,
        weight: Float[Tensor, "K N"] | None = None,
        scale: float = 1.0,
    ) -> tuple[Float[Tensor, " K"], Float[Tensor, "K N out_dim"]]:
        """One step's losses and predictions; gradients as a side effect.

        Args:
            x: points of each network; it sees ``scale * x``, in [-1, 1].
            target: what the values should be, in their units.
            loss: how they are compared, see :class:`~sasnet_ns.kernels.PointLoss`; None for the mean squared error.
            weight: of each point; None for 1.
            scale: network coordinates per unit of ``x``.

        Returns:
            The losses and the networks' values, both without a graph.

        Raises:
            ShapeError: the tensors do not fit the networks or each other, or there is no point.
        """
        last = self.form.layers[-1].bias.shape
        networks, points = last[0], x.shape[1] if x.ndim == 3 else 0
        wanted = ((networks, points, self.form.in_dim), (networks, points, last[1]), (networks, points))
        shapes = (tuple(x.shape), tuple(target.shape), (networks, points) if weight is None else tuple(weight.shape))
        if shapes != wanted or not points:
            raise ShapeError(f"StackedStep takes x, target and weight of shapes {wanted}, N at least 1; got {shapes}.")
        if self.backend == "numba" and self._trained != tuple(tensor.requires_grad for tensor in self._tensors):
            self._compile()  # some have been frozen since, or trained again
        values, predicted, gradients = self._run(x, target, PointLoss() if loss is None else loss, weight, scale)
        for tensor, gradient in gradients:
            tensor.grad = gradient
        return values, predicted

    def _by_autograd(
        self, x: Tensor, target: Tensor, loss: PointLoss, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        with torch.enable_grad():
            predicted = evaluate(self.form, scale * x, self.backend)
            values = loss(predicted, target, weight)
        trained = [tensor for tensor in self._tensors if tensor.requires_grad]
        # No network is in the loss of another, so the gradient of the sum is that of each.
        gradients = zip(trained, torch.autograd.grad(values.sum(), trained) if trained else (), strict=True)
        return values.detach(), predicted.detach(), list(gradients)
