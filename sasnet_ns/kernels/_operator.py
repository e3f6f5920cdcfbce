"""Operators with derivatives of their own: whole inside torch.compile and torch.export, and cheap outside."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor


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
                if any(c is not None and torch._C._functorch.is_legacy_batchedtensor(c) for c in cotangents):
                    raise RuntimeError(
                        "compiled kernels take one gradient at a time, not is_grads_batched=True or vectorize=True; "
                        "use torch.func (jacrev, hessian, vmap), or a network with implementation='torch'."
                    )
                return backward(ctx, *cotangents)

        self._plain = Plain

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._traced(*inputs)
        return self._plain.apply(*inputs) if torch.is_grad_enabled() else self._function(*inputs)


def gradients_of_twin(
    twin: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """The derivative of an operator by autograd through its definition, where none is written by hand.

    Args:
        twin: gives the operator's outputs from tensors that all require a gradient, differentiable to any order.
        inputs: of the operator, among them None.
        cotangents: of the outputs.

    Returns:
        One for each input; None where it is None or requires no gradient.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: one tensor may be two of the inputs, and each has a gradient of its own.
        seen = [None if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in inputs]
        # Outputs that are constants have nothing to pass on.
        pairs = [(y, c) for y, c in zip(twin(*seen), cotangents, strict=True) if y.requires_grad]
    wanted = [a for a, t in zip(seen, inputs, strict=True) if a is not None and t is not None and t.requires_grad]
    outputs, given = ([pair[side] for pair in pairs] for side in (0, 1))
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=create_graph, allow_unused=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


def _known(kind: Any) -> Any:
    sequence: Any = typing.Sequence
    return sequence[get_args(kind)] if get_origin(kind) is Sequence else kind


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator that makes a function an :class:`Operator`."""
    return lambda function: Operator(name, function)
