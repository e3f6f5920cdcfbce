"""Updates of all of an optimiser's parameters in one compiled call.

torch hands every tensor, and for Muon every small product, to all threads and waits for them, which costs more than the
arithmetic of networks of this size, and a hundred times as much where other programs want the cores as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels._choose import choose

SIZE_PER_THREAD = 1 << 18
"""Numbers that one thread updates before a second one is worth waiting for."""


def compiled_updates(tensors: Iterable[Tensor]) -> bool:
    """Whether :func:`muon_step` and :class:`Adam` have a compiled path for these: contiguous float32 on a CPU."""
    found = list(tensors)
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in found)
    return plain and bool(found) and choose("auto", found[0].device, True, ("numba",)) == "numba"


def muon_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    ns_steps: int,
) -> None:
    """One update of weight matrices by Muon (Jordan et al. 2024; Liu et al. 2025 for the step size), in place.

    ``b += (1 - momentum) (g - b)``, then ``p -= lr 0.2 sqrt(max(rows, cols)) orthogonalised(g + momentum (b - g))``
    with ``ns_steps`` Newton-Schulz iterations. A thread takes whole matrices.

    Args:
        parameters: matrices, for which :func:`compiled_updates` holds, like everything here.
        gradients: of the same shapes.
        buffers: momentum, of the same shapes; zeros before the first step.
        lr: learning rate, on Adam's scale.
        momentum: of Nesterov's kind.
        ns_steps: number of iterations.
    """
    from sasnet_ns.kernels import _numba_update
    from sasnet_ns.kernels._numba import run

    addresses = _addresses(parameters, gradients, buffers)
    shapes = np.array([tuple(p.shape) for p in parameters], np.int64)
    rates = np.array([0.2 * max(p.shape) ** 0.5 * lr for p in parameters], np.float32)
    parts = min(torch.get_num_threads(), len(parameters))
    arguments = (addresses, shapes, rates, np.float32(momentum), ns_steps)
    run(_numba_update.muon, _numba_update.muon_part, parts, *arguments)
    _changed(parameters)


_TORCHS_OWN = ("amsgrad", "weight_decay", "maximize", "capturable", "differentiable")


class Adam(torch.optim.Adam):
    """``torch.optim.Adam(..., fused=True)`` in one compiled call where there is one.

    States and checkpoints are torch's. Where :func:`compiled_updates` does not hold, where a group has one of torch's
    other options (weight decay, maximize, ...), and under a GradScaler, torch's own step runs.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        amsgrad: take the largest second moment so far, by torch's own step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, amsgrad=amsgrad, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update from the parameters' gradients; returns the closure's loss if there is one."""
        trained = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        more = any(group.get(name) for group in self.param_groups for name in _TORCHS_OWN)
        scaled = any(getattr(self, name, None) is not None for name in ("grad_scale", "found_inf"))
        if more or scaled or not compiled_updates([*trained, *(p.grad for p in trained if p.grad is not None)]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        from sasnet_ns.kernels import _numba_update
        from sasnet_ns.kernels._numba import run, threads_for

        rate, (beta1, beta2) = float(group["lr"]), group["betas"]
        states, factors = [], []
        for p in parameters:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            step = int(state["step"])
            states.append(state)
            factors.append((rate / (1 - beta1**step), (1 - beta2**step) ** -0.5))
        gradients = [p.grad for p in parameters if p.grad is not None]
        moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
        sizes = np.array([p.numel() for p in parameters], np.int64)
        numbers = (np.float32(beta1), np.float32(beta2), np.float32(group["eps"]))
        arguments = (_addresses(parameters, gradients, *moments), sizes, np.array(factors, np.float32), *numbers)
        parts = threads_for(int(sizes.sum()), SIZE_PER_THREAD)
        run(_numba_update.adam, _numba_update.adam_part, parts, *arguments)
        _changed(parameters)


def _changed(tensors: Iterable[Tensor]) -> None:
    """Tell autograd, which refuses to go back through a graph whose tensors have changed since."""
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)


def _addresses(*columns: Sequence[Tensor]) -> np.ndarray:
    """Where the tensors' numbers are, (tensors, columns); the caller keeps them alive."""
    return np.array([[tensor.data_ptr() for tensor in row] for row in zip(*columns, strict=True)], np.int64)
