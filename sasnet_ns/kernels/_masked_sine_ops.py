"""Masked sine layer as torch operators with derivatives, whatever the backend.

Three operators: the layer, its backward pass, and the backward pass of that, whose derivatives are torch's. With
``weight`` (K, width, in_dim) the first two take points in place of pre-activations and form the product on the fly;
``weight`` and points are then constants. All tensors have K networks in front, each with weights of its own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sasnet_ns.kernels import _torch
from sasnet_ns.kernels._operator import gradients_of_twin, operator

BACKENDS = {"numba": "sasnet_ns.kernels._numba_sine", "triton": "sasnet_ns.kernels._triton_sine"}


def masked_sine(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    mask: Tensor | None,
    omega: float,
    group_sizes: Sequence[int],
    backend: str,
) -> Tensor:
    """Activations (K, N, width) by ``backend``, differentiable; from the third derivative on by torch."""
    return _forward(z, weight, bias, mask, float(omega), list(group_sizes), backend)


@functools.cache
def _module(backend: str) -> ModuleType:
    return importlib.import_module(BACKENDS[backend])


@operator("sasnet_ns::masked_sine")
def _forward(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    mask: Tensor | None,
    omega: float,
    group_sizes: Sequence[int],
    backend: str,
) -> Tensor:
    return _module(backend).forward(z, weight, bias, mask, omega, group_sizes)


@operator("sasnet_ns::masked_sine_backward")
def _backward(
    g: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    mask: Tensor | None,
    omega: float,
    group_sizes: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _module(backend).backward(g, z, weight, bias, mask, omega, group_sizes)


@operator("sasnet_ns::masked_sine_backward2")
def _backward2(
    g: Tensor,
    vz: Tensor,
    vb: Tensor,
    vm: Tensor,
    z: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    omega: float,
    group_sizes: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _module(backend).backward2(g, vz, vb, vm, z, bias, mask, omega, group_sizes)


@_forward.register_fake
def _(z, weight, bias, mask, omega, group_sizes, backend):  # type: ignore[no-untyped-def]
    return bias.new_empty(*z.shape[:2], bias.shape[1])


@_backward.register_fake
def _(g, z, weight, bias, mask, omega, group_sizes, backend):  # type: ignore[no-untyped-def]
    (networks, rows), width = z.shape[:2], bias.shape[1]
    grad_z = z.new_empty(networks, rows if weight is None else 0, width)
    grad_mask = (z if mask is None else mask).new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    return grad_z, bias.new_empty(networks, width), grad_mask


@_backward2.register_fake
def _(g, vz, vb, vm, z, bias, mask, omega, group_sizes, backend):  # type: ignore[no-untyped-def]
    networks, rows, width = z.shape
    grad_mask = (z if mask is None else mask).new_empty(networks, rows if mask is not None else 0, len(group_sizes))
    return g.new_empty(z.shape), z.new_empty(z.shape), bias.new_empty(networks, width), grad_mask


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    z, weight, bias, mask, *ctx.config = inputs
    ctx.save_for_backward(z, weight, bias, mask)


def _forward_autograd(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    z, weight, bias, mask = ctx.saved_tensors
    if weight is not None and torch.is_grad_enabled():
        # differentiated once more: the two-step form, which the second derivative is written for
        _, grad_bias, grad_mask = _backward(g, z @ weight.mT, None, bias, mask, *ctx.config)
        grad_z = None
    else:
        grad_z, grad_bias, grad_mask = _backward(g, z, weight, bias, mask, *ctx.config)
    return (
        grad_z if weight is None else None,
        None,
        grad_bias,
        grad_mask if mask is not None else None,
        *([None] * len(ctx.config)),
    )


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    g, z, weight, bias, mask, *ctx.config = inputs
    ctx.save_for_backward(g, z, weight, bias, mask)


def _backward_autograd(ctx: Any, vz: Tensor, vb: Tensor, vm: Tensor) -> tuple[Any, ...]:
    g, z, weight, bias, mask = ctx.saved_tensors
    assert weight is None  # what is differentiated again came by the two-step form, see _forward_autograd
    grad_g, grad_z, grad_bias, grad_mask = _backward2(g, vz, vb, vm, z, bias, mask, *ctx.config)
    return (
        grad_g,
        grad_z,
        None,
        grad_bias,
        grad_mask if mask is not None else None,
        *([None] * len(ctx.config)),
    )


def _save_backward2(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.omega, ctx.group_sizes, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward2_autograd(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    def twin(
        g: Tensor, vz: Tensor, vb: Tensor, vm: Tensor, z: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Sequence[Tensor]:
        given, along = ([z, bias], [vz, vb]) if mask is None else ([z, bias, mask], [vz, vb, vm])
        activation = _torch.masked_sine(z, bias, ctx.omega, mask, ctx.group_sizes)
        first = torch.autograd.grad(activation, given, g, create_graph=True)
        return torch.autograd.grad(first, [g, *given], along, create_graph=True, materialize_grads=True)

    found = gradients_of_twin(twin, ctx.saved_tensors, cotangents[: 3 if ctx.saved_tensors[-1] is None else 4])
    return (*found, None, None, None)


_forward.register_autograd(_forward_autograd, setup_context=_save_forward)
_backward.register_autograd(_backward_autograd, setup_context=_save_backward)
_backward2.register_autograd(_backward2_autograd, setup_context=_save_backward2)
