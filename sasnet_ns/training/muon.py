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


def orthogonalize_all(matrices: Sequence[Float[Tensor, "rows cols"]], steps: int = 5) -> list[Tensor]:
    """:func:`orthogonalize` of several matrices in one batch: 3 launches an iteration, however many they are.

    Matrices are laid wide and padded with zeros to one size; rows and columns of zeros stay zero.

    Args:
        matrices: of one dtype and device.
        steps: Newton-Schulz iterations.

    Returns:
        Tensors of the matrices' shapes, views of one block.
    """
    if not matrices:
        return []
    wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]
    rows, columns = max(m.shape[0] for m in wide), max(m.shape[1] for m in wide)
    x = matrices[0].new_zeros(len(wide), rows, columns)
    torch._foreach_copy_([block[: m.shape[0], : m.shape[1]] for block, m in zip(x, wide, strict=True)], wide)
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    found = [block[: m.shape[0], : m.shape[1]] for block, m in zip(x, wide, strict=True)]
    return [f if f.shape == m.shape else f.T for f, m in zip(found, matrices, strict=True)]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), scaled to Adam's step size (Liu et al. 2025, "match RMS").

    ``torch.optim.Muon`` does the same but always iterates in bfloat16. On a processor without bfloat16 units a bfloat16
    matrix product was measured some fifty times slower than a float32 one; this one computes in the parameters' dtype.

    Args:
        params: matrices, or stacks of them (K, rows, cols), of which each matrix is updated by itself.
        lr: learning rate, on Adam's scale; a tensor where CUDA graphs read it.
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
            if not trained:
                continue
            momenta = [self.state[p]["momentum_buffer"] for p in trained]
            fast = compiled_updates([*trained, *(p.grad for p in trained), *momenta])
            parameters, buffers = _matrices(trained), _matrices(momenta)
            gradients = _matrices([p.grad for p in trained])
            if fast:
                rate, steps = float(group["lr"]), group["ns_steps"]
                muon_step(parameters, gradients, buffers, lr=rate, momentum=momentum, ns_steps=steps)
                continue
            torch._foreach_lerp_(buffers, gradients, 1 - momentum)
            updates = orthogonalize_all(torch._foreach_lerp(gradients, buffers, momentum), group["ns_steps"])
            torch._foreach_mul_(updates, [-0.2 * max(p.shape) ** 0.5 for p in parameters])
            torch._foreach_mul_(updates, group["lr"])  # a number, or a tensor on the device
            torch._foreach_add_(parameters, updates)
        return loss


def _matrices(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Matrices, and those that stacks consist of, as views."""
    return [m for t in tensors for m in ((t,) if t.ndim == 2 else t.unbind())]
