"""Hash grid as torch operators with derivatives, whatever the backend.

The interpolated features are linear in the table and in the incoming gradient, so three operators are closed under
differentiation. With weights ``w_c(x)`` of corner ``c`` and an optional direction ``v`` that turns each into its
derivative along ``v``:

* gather: ``sum_c w_c table_c`` per point,
* scatter: ``sum_points w_c g`` per table entry,
* contract: gradient of ``<gather, g>`` by ``x`` per point.

The derivative of a contraction that has a direction already, a third one, is torch's.

All tensors have K networks in front, each with points and a table of its own.
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
from sasnet_ns.kernels.layout import HashGridLayout

BACKENDS = {"numba": "sasnet_ns.kernels._numba_grid", "triton": "sasnet_ns.kernels._triton_grid"}


def hash_grid(x: Tensor, table: Tensor, layout: HashGridLayout, backend: str) -> Tensor:
    """Features (K, N, out_dim) of points x (K, N, d) by ``backend``, differentiable; the third time by torch."""
    return _gather(x, None, table, *_pack(layout), backend)


def _pack(layout: HashGridLayout) -> tuple[list[int], int, int, bool]:
    return list(layout.resolutions), layout.log2_table_size, layout.feature_dim, layout.interpolation == "smoothstep"


@functools.lru_cache(maxsize=256)
def _unpack_cached(
    in_dim: int, resolutions: tuple[int, ...], log2_table_size: int, feature_dim: int, smooth: bool
) -> HashGridLayout:
    return HashGridLayout(in_dim, resolutions, log2_table_size, feature_dim, "smoothstep" if smooth else "linear")


def _unpack(
    x: Tensor, resolutions: Sequence[int], log2_table_size: int, feature_dim: int, smooth: bool
) -> HashGridLayout:
    return _unpack_cached(x.shape[-1], tuple(resolutions), log2_table_size, feature_dim, smooth)


@functools.cache
def _module(backend: str) -> ModuleType:
    return importlib.import_module(BACKENDS[backend])


@operator("sasnet_ns::hash_grid_gather")
def _gather(
    x: Tensor,
    v: Tensor | None,
    table: Tensor,
    resolutions: Sequence[int],
    log2_table_size: int,
    feature_dim: int,
    smooth: bool,
    backend: str,
) -> Tensor:
    return _module(backend).gather(x, v, table, _unpack(x, resolutions, log2_table_size, feature_dim, smooth))


@operator("sasnet_ns::hash_grid_scatter")
def _scatter(
    x: Tensor,
    v: Tensor | None,
    g: Tensor,
    resolutions: Sequence[int],
    log2_table_size: int,
    feature_dim: int,
    smooth: bool,
    backend: str,
) -> Tensor:
    return _module(backend).scatter(x, v, g, _unpack(x, resolutions, log2_table_size, feature_dim, smooth))


@operator("sasnet_ns::hash_grid_contract")
def _contract(
    x: Tensor,
    v: Tensor | None,
    g: Tensor,
    table: Tensor,
    resolutions: Sequence[int],
    log2_table_size: int,
    feature_dim: int,
    smooth: bool,
    backend: str,
) -> Tensor:
    layout = _unpack(x, resolutions, log2_table_size, feature_dim, smooth)
    return _module(backend).contract(x, v, g, table, layout)


@_gather.register_fake
def _(x, v, table, resolutions, log2_table_size, feature_dim, smooth, backend):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:2], len(resolutions) * feature_dim)


@_scatter.register_fake
def _(x, v, g, resolutions, log2_table_size, feature_dim, smooth, backend):  # type: ignore[no-untyped-def]
    layout = _unpack(x, resolutions, log2_table_size, feature_dim, smooth)
    return x.new_empty(x.shape[0], layout.total_entries, feature_dim)


@_contract.register_fake
def _(x, v, g, table, resolutions, log2_table_size, feature_dim, smooth, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _will_run(ctx: Any, tensor_index: int) -> bool:
    """Whether the running backward pass needs the gradient of the operator's n-th tensor argument.

    ``ctx.needs_input_grad`` only says that the argument requires a gradient; torch.autograd.grad towards the points
    alone would pay for the table's as well.
    """
    edges = ctx.next_functions
    if torch.compiler.is_compiling() or tensor_index >= len(edges) or edges[tensor_index][0] is None:
        return True
    try:
        return torch._C._will_engine_execute_node(edges[tensor_index][0])
    except RuntimeError:  # raised for a leaf that torch.autograd.grad was asked for: needed
        return True


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [value for value in inputs if value is None or isinstance(value, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.config = inputs[len(tensors) :]


def _gather_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    (x, v, table), config = ctx.saved_tensors, ctx.config
    need_x, need_v, need_table = ctx.needs_input_grad[:3]
    last = 1 if v is None else 2
    grad_x = _contract(x, v, g, table, *config) if need_x and _will_run(ctx, 0) else None
    grad_v = _contract(x, None, g, table, *config) if v is not None and need_v and _will_run(ctx, 1) else None
    grad_table = _scatter(x, v, g, *config) if need_table and _will_run(ctx, last) else None
    return grad_x, grad_v, None if grad_table is None else grad_table.to(table.dtype), *([None] * len(config))


def _scatter_backward(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    (x, v, g), config = ctx.saved_tensors, ctx.config
    need_x, need_v, need_g = ctx.needs_input_grad[:3]
    grad_x = _contract(x, v, g, cotangent, *config) if need_x else None
    grad_v = _contract(x, None, g, cotangent, *config) if v is not None and need_v else None
    grad_g = _gather(x, v, cotangent, *config) if need_g else None
    return grad_x, grad_v, grad_g, *([None] * len(config))


def _contract_backward(ctx: Any, u: Tensor) -> tuple[Any, ...]:
    (x, v, g, table), config = ctx.saved_tensors, ctx.config
    if v is not None:
        layout = _unpack(x, *config[:-1])

        def twin(x: Tensor, v: Tensor, g: Tensor, table: Tensor) -> Sequence[Tensor]:
            (slope,) = torch.autograd.grad(_torch.hash_grid(x, table, layout), x, g, create_graph=True)
            return torch.autograd.grad(slope, x, v, create_graph=True, materialize_grads=True)

        return *gradients_of_twin(twin, (x, v, g, table), [u]), *([None] * len(config))
    need_x, _, need_g, need_table = ctx.needs_input_grad[:4]
    grad_x = _contract(x, u, g, table, *config) if need_x and _will_run(ctx, 0) else None
    grad_g = _gather(x, u, table, *config) if need_g and _will_run(ctx, 1) else None
    grad_table = _scatter(x, u, g, *config).to(table.dtype) if need_table and _will_run(ctx, 2) else None
    return grad_x, None, grad_g, grad_table, *([None] * len(config))


_gather.register_autograd(_gather_backward, setup_context=_save)
_scatter.register_autograd(_scatter_backward, setup_context=_save)
_contract.register_autograd(_contract_backward, setup_context=_save)
