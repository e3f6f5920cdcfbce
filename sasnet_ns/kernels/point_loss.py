"""A loss of points and its gradient in one pass, for training loops that start the backward pass themselves."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels._choose import choose
from sasnet_ns.kernels.functional import Implementation
from sasnet_ns.kernels.step_form import PointLoss


def point_loss(
    predicted: Float[Tensor, "N c"],
    target: Float[Tensor, "N c"],
    loss: PointLoss,
    weight: Float[Tensor, " N"] | None = None,
    implementation: Implementation = "auto",
) -> tuple[Float[Tensor, ""], Float[Tensor, "N c"]]:
    """The value of ``loss(predicted, target, weight)`` and its gradient by ``predicted``, both without a graph.

    Args:
        predicted: values.
        target: what they should be, without a gradient.
        loss: how they are compared; ``loss.far_weight`` may be a tensor on the device, which is then not read here.
        weight: of each point; None for 1.
        implementation: ``auto``, ``torch`` (the definition, by autograd) or ``triton`` (CUDA, float32).

    Raises:
        MissingLibraryError: Triton is asked for by name and is not installed.
        ValueError: the implementation is unknown or cannot run on the tensors.
    """
    if implementation == "auto" and not predicted.is_cuda:
        implementation = "torch"
    fast = all(t is None or t.dtype == torch.float32 for t in (predicted, target, weight))
    if choose(implementation, predicted.device, fast, ("triton",)) == "triton":
        from sasnet_ns.kernels import _triton_loss

        return _triton_loss.point_loss(predicted.detach(), target, loss, weight)
    with torch.enable_grad():
        variable = predicted.detach().requires_grad_()
        value = loss(variable, target, weight)
        (gradient,) = torch.autograd.grad(value, variable)
    return value.detach(), gradient
