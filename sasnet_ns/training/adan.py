"""The Adan optimiser, which GaussianImage's authors train with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Adan(torch.optim.Optimizer):
    """Adaptive Nesterov momentum (Xie et al., TPAMI 2024, Algorithm 1), without weight decay and restarts.

    With gradients g and their changes d since the step before, of which the first is zero: moving averages m of g,
    v of d and n of (g + beta2 d)^2, each divided by 1 minus its decay rate to the power of the step as Adam's are, and
    ``p -= lr (m + beta2 v) / (sqrt(n) + eps)``. Decay rates are the authors' programs', 1 minus the paper's.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of m, v and n.
        eps: added to the root of n.

    Raises:
        ValueError: a rate or ``eps`` is negative, or a decay rate not in [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
    ) -> None:
        if lr < 0 or eps < 0 or len(betas) != 3 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Adan takes lr >= 0, eps >= 0 and three decay rates in [0, 1); got {lr}, {eps}, {betas}.")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update from the parameters' gradients; returns the closure's loss if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2, beta3 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros(())
                    state["gradient"] = p.grad.clone()
                    state["mean"], state["change"], state["square"] = (torch.zeros_like(p) for _ in range(3))
                state["step"] += 1
                step = int(state["step"])
                change = p.grad - state["gradient"]
                state["gradient"].copy_(p.grad)
                state["mean"].lerp_(p.grad, 1 - beta1)
                state["change"].lerp_(change, 1 - beta2)
                ahead = torch.add(p.grad, change, alpha=beta2)
                state["square"].mul_(beta3).addcmul_(ahead, ahead, value=1 - beta3)
                divisor = (state["square"] / (1 - beta3**step)).sqrt_().add_(group["eps"])
                p.addcdiv_(state["mean"], divisor, value=-group["lr"] / (1 - beta1**step))
                p.addcdiv_(state["change"], divisor, value=-group["lr"] * beta2 / (1 - beta2**step))
        return loss
