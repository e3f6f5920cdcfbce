"""Training that runs away is noticed within a hundred steps, taken back to where it was well, and slowed down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

CHECK_EVERY = 50
"""Steps between two looks at the loss; each waits for the device."""
KEEP_EVERY = 200
"""Steps between two copies of a state that is well."""
SLOWER = 0.1
"""Factor of the learning rates after each rollback."""
ROLLBACKS = 2
"""How often training is taken back before it is given up."""
_LOOK_AT = 5  # losses of a look: their median does not mind a single bad batch


class DivergedError(ValueError):
    """Training ran away, also with lower learning rates. ``str(error)`` is one sentence."""


class DivergenceGuard:
    """Watches the loss of a training loop.

    A loss has run away if it is no finite number, if it is ten times that of the first step, or if it has come back to
    half of that after it had been thirty times lower than now.

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
            self._first = self._lowest = float(loss.detach())
        rest = done % CHECK_EVERY
        if rest and rest <= CHECK_EVERY - _LOOK_AT:
            return None
        self._recent.append(loss.detach())
        if rest:
            return None
        value = float(torch.stack(self._recent).median())
        self._recent.clear()
        if self._has_run_away(value):
            return self.roll_back(done, f"the loss is {value:.3g} at step {done:,}, after {self._lowest:.3g}")
        self._lowest = min(self._lowest, value)
        if done % KEEP_EVERY == 0:
            self._keep(done)
        return None

    def _has_run_away(self, value: float) -> bool:
        first = self._first
        if not math.isfinite(value) or first is None or not math.isfinite(first):
            return True
        return value > 10 * first or (value > 0.5 * first and value > 30 * self._lowest)

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


def _copy(value: Any) -> Any:
    """A copy where the value is: on a GPU nothing waits for it."""
    return value.detach().clone() if isinstance(value, Tensor) else value
