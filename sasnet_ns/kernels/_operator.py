"""Operators with derivatives of their own: whole inside torch.compile and torch.export, and cheap outside."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import torch


class Operator:
    """A function of tensors with a hand-written derivative.

    While torch traces it is an operator of torch.library, which tracing does not look into. Otherwise it is a plain
    ``torch.autograd.Function``, whose calls cost less Python: see docs/speed.md.

    Args:
        name: ``namespace::name``.
        function: the operator; its signature has types that torch.library knows.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._function = function
        # torch before 2.5 reads types, not their names, and knows typing's sequences alone.
        function.__annotations__ = {name: _known(kind) for name, kind in get_type_hints(function).items()}
        self._traced = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake = self._traced.register_fake
        self._plain: type[torch.autograd.Function]

    def register_autograd(
        self, backward: Callable[..., Any], setup_context: Callable[[Any, tuple[Any, ...], Any], None] | None = None
    ) -> None:
        """Set the derivative, as ``torch.library.register_autograd`` does; ``backward`` is differentiated in turn."""
        self._traced.register_autograd(backward, setup_context=setup_context)
        function = self._function

        class Plain(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = function(*inputs)
                if setup_context is not None:
                    setup_context(ctx, inputs, output)
                return output

            @staticmethod
            def backward(ctx: Any, *cotangents: Any) -> Any:
                return backward(ctx, *cotangents)

        self._plain = Plain

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._traced(*inputs)
        return self._plain.apply(*inputs) if torch.is_grad_enabled() else self._function(*inputs)


def _known(kind: Any) -> Any:
    sequence: Any = typing.Sequence
    return sequence[get_args(kind)] if get_origin(kind) is Sequence else kind


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator that makes a function an :class:`Operator`."""
    return lambda function: Operator(name, function)
