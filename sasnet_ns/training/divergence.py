"""Training that runs away is noticed within a hundred steps, taken back to where it was well, and slowed down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sasnet_ns.training.checkpoint import on_cpu

CHECK_EVERY = 50
"""Steps between two looks at the loss; each waits for the device."""
KEEP_EVERY = 200
"""Steps between two copies of a state that is well."""
SLOWER = 0.1
"""Factor of the learning rates after each rollback."""
ROLLBACKS = 2
"""How often training is taken back before it is given up."""
_FIRST = 10  # steps whose largest loss is what training begins from
_SPREAD = 10.0  # most by which batches of one signal are taken to differ
_NOTHING = 1e-8
_LOOK_AT = 5  # losses of a look: their median does not mind a single bad batch


class DivergedError(ValueError):
    """Training ran away, also with lower learning rates. ``str(error)`` is one sentence."""


class DivergenceGuard:
    """Watches the loss of a training loop.

    A loss has run away if it is no finite number, if it is ten times the largest of the first steps (one batch may have
    next to nothing in it, a tenth of another), or if it has come back to half of that after it had been thirty
    times lower than now. Below 1e-8 none has.

    Args:
        state: gives every tensor that training changes, by name; the same ones each time; they are written in place.
        optimizers: those of the loop.
        done: steps done already.
        rollbacks: how often to go back before giving up.
    """

    def __init__(
        self,
        state: Callable[[], Mapping[str, Any]],
        optimizers: Iterable[Optimizer],
        done: int = 0,
        rollbacks: int = ROLLBACKS,
    ) -> None:
        self._state, self._optimizers, self._left = state, list(optimizers), rollbacks
        self._first: float | None = None
        self._early: list[Tensor] = []
        self._lowest = math.inf
        self._recent: list[Tensor] = []
        self.rate = 1.0
        """Product of the factors that learning rates have been multiplied with."""
        self._keep(done)

    def after_step(self, done: int, loss: Tensor) -> str | None:
        """To be called after each step, with the steps done and the loss that led to it.

        Returns:
            None, or a sentence if the state was taken back: learning rates then have to be multiplied by ``SLOWER``.

        Raises:
            DivergedError: there were enough rollbacks.
        """
        if self._first is None:
            self._early.append(loss.detach())
            if len(self._early) == _FIRST:
                self._begin()
        rest = done % CHECK_EVERY
        if rest and rest <= CHECK_EVERY - _LOOK_AT:
            return None
        self._recent.append(loss.detach())
        if rest:
            return None
        if self._first is None:
            self._begin()
        value = float(torch.stack([seen.to(loss.device) for seen in self._recent]).median())
        self._recent.clear()
        if self._has_run_away(value):
            return self.roll_back(done, f"the loss is {value:.3g} at step {done:,}, after {self._lowest:.3g}")
        self._lowest = min(self._lowest, value)
        if done % KEEP_EVERY == 0:
            self._keep(done)
        return None

    def _begin(self) -> None:
        """Settle what training begins from; of losses that are no numbers nothing is."""
        losses = [float(loss) for loss in self._early]
        # Where the first steps themselves run away, the very first is the measure.
        self._first = self._lowest = min(max(losses), _SPREAD * losses[0])
        if not all(map(math.isfinite, losses)):
            self._first = math.nan
        self._early.clear()

    def state_dict(self) -> dict[str, Any]:
        """All that the guard knows, tensors on the CPU; optimisers' states in the order of their parameters."""
        return {
            "first": self._first,
            "lowest": self._lowest,
            "early": on_cpu(self._early),
            "recent": on_cpu(self._recent),
            "rate": self.rate,
            "left": self._left,
            "kept_at": self._kept_at,
            "kept": on_cpu(self._kept),
            "kept_moments": [
                [on_cpu(moments.get(parameter, {})) for parameter in _parameters(optimizer)]
                for optimizer, moments in zip(self._optimizers, self._kept_moments, strict=True)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Know what another guard of the same loop knew; optimisers' states must have been loaded before."""
        self._first, self._lowest, self._recent = state["first"], state["lowest"], list(state["recent"])
        self._early = list(state.get("early", ()))
        self.rate, self._left = state["rate"], state["left"]
        self._kept_at, self._kept = state["kept_at"], dict(state["kept"])
        self._kept_moments = [
            {
                parameter: _beside(kept, optimizer.state.get(parameter, {}))
                for parameter, kept in zip(_parameters(optimizer), moments, strict=True)
                if kept
            }
            for optimizer, moments in zip(self._optimizers, state["kept_moments"], strict=True)
        ]

    def _has_run_away(self, value: float) -> bool:
        first = self._first
        if not math.isfinite(value) or first is None or not math.isfinite(first):
            return True
        return value > _NOTHING and (value > 10 * first or (value > 0.5 * first and value > 30 * self._lowest))

    def _keep(self, done: int) -> None:
        self._kept_at = done
        self._kept = {name: _copy(value) for name, value in self._state().items() if isinstance(value, Tensor)}
        self._kept_moments = [
            {
                parameter: {name: _copy(value) for name, value in moments.items()}
                for parameter, moments in o.state.items()
            }
            for o in self._optimizers
        ]

    @torch.no_grad()
    def roll_back(self, done: int, reason: str) -> str:
        """Go back to the last state that was well.

        Args:
            done: steps done.
            reason: what was seen, the beginning of a sentence.

        Returns:
            A sentence for the user.

        Raises:
            DivergedError: there were enough rollbacks.
        """
        now = {name: value for name, value in self._state().items() if isinstance(value, Tensor)}
        if any(name not in self._kept or value.shape != self._kept[name].shape for name, value in now.items()):
            self._left = 0  # the network has grown or shrunk since, and there is no way back
        if not self._left:
            tried = "" if self.rate == 1 else f" (also with {self.rate:g} of the learning rates)"
            raise DivergedError(f"training has diverged{tried}: {reason}; lower the learning rates.")
        self._left -= 1
        self.rate *= SLOWER
        self._recent.clear()
        for name, value in now.items():
            value.copy_(self._kept[name])
        for optimizer, moments in zip(self._optimizers, self._kept_moments, strict=True):
            optimizer.state.clear()
            for parameter, kept in moments.items():
                optimizer.state[parameter] = {name: _copy(value) for name, value in kept.items()}
        return (
            f"{reason[:1].upper()}{reason[1:]}: back to the state of step {self._kept_at:,}, with "
            f"{self.rate:g} of the learning rates."
        )


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _beside(kept: Mapping[str, Any], moments: Mapping[str, Any]) -> dict[str, Any]:
    """Kept values on the devices of the present ones: a fused Adam counts its steps where the parameter is."""
    return {
        name: value.to(moments[name].device) if isinstance(value, Tensor) else value for name, value in kept.items()
    }


def _copy(value: Any) -> Any:
    """A copy where the value is: on a GPU nothing waits for it."""
    return value.detach().clone() if isinstance(value, Tensor) else value
