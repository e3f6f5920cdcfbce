"""The Muon optimiser for hidden weight matrices, in a precision that the processor is fast at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels import compiled_updates, muon_step

# Coefficients of the quintic Newton-Schulz iteration (Jordan et al., "Muon", 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrix: Float[Tensor, "*K rows cols"], steps: int = 5) -> Float[Tensor, "*K rows cols"]:
    """Replace a matrix's singular values by about 1 with Newton-Schulz iterations (Jordan et al. 2024).

    Args:
        matrix: a matrix, or K of them.
        steps: iterations.
    """
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    add_product = torch.addmm if matrix.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + add_product(gram, gram, gram, beta=_B, alpha=_C) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), scaled to Adam's step size (Liu et al. 2025, "match RMS").

    ``torch.optim.Muon`` does the same but always iterates in bfloat16. On a processor without bfloat16 units a bfloat16
    matrix product was measured some fifty times slower than a float32 one; this one computes in the parameters' dtype.

    Args:
        params: matrices, or stacks of them (K, rows, cols), of which each matrix is updated by itself.
        lr: learning rate, on Adam's scale.
        momentum: Nesterov momentum.
        ns_steps: Newton-Schulz iterations.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.95, ns_steps: int = 5) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "ns_steps": ns_steps})
        if any(p.ndim not in (2, 3) for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon is for weight matrices; give other parameters to Adam.")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update from the parameters' gradients; returns the closure's loss if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            momentum = group["momentum"]
            trained = [p for p in group["params"] if p.grad is not None]
            for p in trained:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            gradients, buffers = [p.grad for p in trained], [self.state[p]["momentum_buffer"] for p in trained]
            if compiled_updates([*trained, *gradients, *buffers]):
                matrices = [[m for t in tensors for m in _matrices(t)] for tensors in (trained, gradients, buffers)]
                muon_step(*matrices, lr=group["lr"], momentum=momentum, ns_steps=group["ns_steps"])
                continue
            for p, buffer in zip(trained, buffers, strict=True):
                buffer.lerp_(p.grad, 1 - momentum)
                update = orthogonalize(p.grad.lerp(buffer, momentum), group["ns_steps"])
                p.add_(update, alpha=-0.2 * max(p.shape[-2:]) ** 0.5 * group["lr"])
        return loss


def _matrices(tensor: Tensor | None) -> Sequence[Tensor]:
    assert tensor is not None
    return (tensor,) if tensor.ndim == 2 else tensor.unbind()
