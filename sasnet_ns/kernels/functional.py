"""The public kernels: check shapes, choose a backend, call it.

Each also computes K networks of one architecture in one call: with one more axis in front of the parameters, everything
has K in front, and network ``k`` sees ``x[k]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels import _hash_grid_ops, _masked_sine_ops, _torch
from sasnet_ns.kernels._choose import choose, transformed
from sasnet_ns.kernels.layout import HashGridLayout
from sdf_tools.errors import ShapeError

Implementation = Literal["auto", "torch", "numba", "triton", "tcnn"]


def hash_grid(
    x: Float[Tensor, "*batch in_dim"],
    table: Float[Tensor, "entries feature_dim"] | Float[Tensor, "K entries feature_dim"],
    layout: HashGridLayout,
    implementation: Implementation = "auto",
) -> Float[Tensor, "*batch features"]:
    """Features of a multiresolution hash grid (Müller et al. 2022, section 3) at points in [-1, 1]^d.

    On a level of resolution ``res`` a point has lattice position ``u = (res - 1) * clamp((x + 1) / 2, 0, 1)``, so the
    first and last lattice points lie on the box's faces and every cell is live. Outside the box the features are those
    of the nearest point of the box, and the gradient along the clamped axes is zero. On a cell border the gradient is
    that of the cell ``floor(u)`` (of the last cell on the upper face).

    Differentiable twice (table, points, and the derivative of those), as Eikonal losses need, and further by the
    definition in torch, which also takes what ``torch.func`` and forward mode transform. The arithmetic is float32, or
    float64 if ``x`` or ``table`` is. A half-precision table is accumulated in float32, and its gradient is rounded to
    half at the end.

    Args:
        x: points, (..., in_dim).
        table: entries of all levels, (total_entries, feature_dim), as ``layout`` describes. With (K, total_entries,
            feature_dim), of K networks: x is then (K, ..., in_dim). Not for ``tcnn``.
        layout: resolutions, table size and interpolation.
        implementation: ``auto``, ``torch`` (the definition), ``numba`` (CPU), ``triton`` (CUDA) or ``tcnn``
            (tiny-cuda-nn, CUDA; see ``sasnet_ns/kernels/_tcnn.py`` for what it can and cannot do).

    Returns:
        (..., levels * feature_dim), float32 or float64, level by level.

    Raises:
        ShapeError: if ``x`` or ``table`` does not fit ``layout``.
        MissingLibraryError: if a backend is asked for by name and its library is not installed.
        ValueError: if the implementation is unknown or cannot run on the tensors' device.
    """
    if x.shape[-1:] != (layout.in_dim,):
        raise ShapeError(f"The hash grid takes points (..., {layout.in_dim}); got {tuple(x.shape)}.")
    stacked = table.ndim == 3
    if table.shape[stacked:] != (layout.total_entries, layout.feature_dim):
        wanted = (layout.total_entries, layout.feature_dim)
        raise ShapeError(f"The hash grid's table must be {wanted}; got {tuple(table.shape)}.")
    _check_networks(stacked, table, x)
    dtype = torch.float64 if torch.float64 in (x.dtype, table.dtype) else torch.float32
    points = _rows(x, stacked).to(dtype)
    backend = choose(_seen(implementation, points, table), x.device, True, ("numba", "triton", "tcnn"))
    if backend == "torch":
        features = _torch.hash_grid(points, table.to(dtype), layout)
    elif backend == "tcnn":
        if stacked:
            raise ValueError("implementation='tcnn' computes one network at a time; use 'triton' for several.")
        from sasnet_ns.kernels import _tcnn

        features = _tcnn.hash_grid(points, table, layout).to(dtype)
    else:
        # Triton reads half entries as they are: no cast of the whole table in every call
        points, entries = _in_front(stacked, points, table if backend == "triton" else table.to(dtype))
        features = _hash_grid_ops.hash_grid(points, entries, layout, backend)
    return features.reshape(*x.shape[:-1], layout.out_dim)


def masked_sine(
    z: Float[Tensor, "*batch width"],
    bias: Float[Tensor, " width"] | Float[Tensor, "K width"],
    omega: float,
    mask: Float[Tensor, "*batch groups"] | None = None,
    group_sizes: Sequence[int] = (),
    implementation: Implementation = "auto",
) -> Float[Tensor, "*batch width"]:
    """Sine layer with group masks, ``m * sin(omega * (z + bias))``, without a mask as wide as the layer.

    Neurons lie in contiguous groups; group ``g`` is multiplied by ``mask[..., g]``. The first
    ``width - sum(group_sizes)`` neurons belong to no group and are not masked (the low frequencies of the embedding).

    Args:
        z: result of the layer's matrix product, without bias, (..., width).
        bias: (width,); or (K, width), of K networks, with z (K, ..., width).
        omega: SIREN's frequency factor; 1 for the frequency embedding.
        mask: (..., groups), usually in [0, 1]; any strides. None: no mask.
        group_sizes: neurons of each masked group, in order; a group may be empty.
        implementation: ``auto``, ``torch``, ``numba`` or ``triton``. The fast paths are float32; Triton takes ``z`` and
            ``mask`` in half precision as well and computes in float32 (as the torch one does where the bias is).

    Returns:
        (..., width), differentiable; beyond twice by the definition in torch.

    Raises:
        ShapeError: if shapes or group sizes do not fit.
        MissingLibraryError: if a backend is asked for by name and its library is not installed.
        ValueError: if the implementation is unknown or cannot run on the tensors' device.
    """
    stacked = bias.ndim == 2
    _check_groups(z.shape[:-1], z.shape[-1], bias, mask, group_sizes)
    _check_networks(stacked, bias, z)
    flat_mask = None if mask is None else _rows(mask, stacked)
    flat = _rows(z, stacked)
    implementation = _seen(implementation, z, bias, mask)
    backend = choose(implementation, z.device, _fast_dtypes(implementation, [bias], [z, mask]), ("numba", "triton"))
    if backend == "torch":
        return _torch.masked_sine(flat, bias, omega, flat_mask, group_sizes).reshape(z.shape)
    flat, bias, flat_mask = _in_front(stacked, flat, bias, flat_mask)
    return _masked_sine_ops.masked_sine(flat, None, bias, flat_mask, omega, group_sizes, backend).reshape(z.shape)


def masked_sine_embedding(
    x: Float[Tensor, "*batch in_dim"],
    weight: Float[Tensor, "width in_dim"] | Float[Tensor, "K width in_dim"],
    bias: Float[Tensor, " width"] | Float[Tensor, "K width"],
    mask: Float[Tensor, "*batch groups"] | None = None,
    group_sizes: Sequence[int] = (),
    implementation: Implementation = "auto",
) -> Float[Tensor, "*batch width"]:
    """SASNet's frequency embedding ``m * sin(x weight^T + bias)``, the product included in the pass.

    Equal to ``masked_sine(x @ weight.T, bias, 1.0, mask, group_sizes)``; saves writing and reading the pre-activation,
    which for a few input coordinates costs more than the product itself.

    Args:
        x: points, (..., in_dim).
        weight: frequencies, (width, in_dim). Frozen in SASNet; if it requires a gradient the two-step form is used.
            (K, width, in_dim) of K networks, with x (K, ..., in_dim).
        bias: phases, (width,) or (K, width).
        mask: as in :func:`masked_sine`.
        group_sizes: as in :func:`masked_sine`.
        implementation: as in :func:`masked_sine`.

    Returns:
        (..., width), differentiable; beyond twice by the definition in torch.

    Raises:
        ShapeError: if shapes or group sizes do not fit.
        MissingLibraryError: if a backend is asked for by name and its library is not installed.
        ValueError: if the implementation is unknown or cannot run on the tensors' device.
    """
    if weight.ndim not in (2, 3) or x.shape[-1] != weight.shape[-1] or bias.ndim != weight.ndim - 1:
        raise ShapeError(f"Points {tuple(x.shape)} do not fit embedding weights {tuple(weight.shape)}.")
    stacked, width = weight.ndim == 3, weight.shape[-2]
    _check_networks(stacked, weight, x)
    _check_groups(x.shape[:-1], width, bias, mask, group_sizes)
    implementation = _seen(implementation, x, weight, bias, mask)
    fast = _fast_dtypes(implementation, [x, weight, bias], [mask])
    backend = choose(implementation, x.device, fast, ("numba", "triton"))
    by_hand = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if backend == "torch" or by_hand:
        z = (_rows(x, stacked) @ weight.mT).reshape(*x.shape[:-1], width)
        return masked_sine(z, bias, 1.0, mask, group_sizes, implementation)
    flat_mask = None if mask is None else _rows(mask, stacked)
    points, weight, bias, flat_mask = _in_front(stacked, _rows(x, stacked), weight, bias, flat_mask)
    activation = _masked_sine_ops.masked_sine(points, weight, bias, flat_mask, 1.0, group_sizes, backend)
    return activation.reshape(*x.shape[:-1], width)


def mask_decoder(
    features: Float[Tensor, "*batch inputs"],
    w1: Float[Tensor, "hidden inputs"],
    b1: Float[Tensor, " hidden"],
    w2: Float[Tensor, "masks hidden"],
    b2: Float[Tensor, " masks"],
    implementation: Implementation = "auto",
) -> Float[Tensor, "*batch masks"]:
    """SASNet's mask decoder, ``sigmoid(relu(features w1^T + b1) w2^T + b2)``, all masks of a point at once.

    Args:
        features: hash grid features, (..., inputs).
        w1: (hidden, inputs). With K networks in front of the four weights, features are (K, ..., inputs).
        b1: (hidden,).
        w2: (masks, hidden).
        b2: (masks,).
        implementation: without effect; plain torch everywhere, as the decoder is 2 to 3 % of a step.

    Returns:
        (..., masks) in (0, 1), differentiable to any order.

    Raises:
        ShapeError: if shapes do not fit.
    """
    if features.shape[-1] != w1.shape[-1] or w1.shape[-2] != w2.shape[-1]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (features, w1, w2))
        raise ShapeError(f"Mask decoder shapes do not fit; features, w1 and w2 are {shapes}.")
    if w1.ndim == 2:
        return _torch.mask_decoder(features, w1, b1, w2, b2)
    _check_networks(True, w1, features)
    masks = _torch.mask_decoder(_rows(features, True), w1, b1, w2, b2)
    return masks.reshape(*features.shape[:-1], w2.shape[-2])


def _rows(values: Tensor, stacked: bool) -> Tensor:
    """Points of any batch shape as (N, columns), of several networks as (K, N, columns)."""
    return values.reshape(*values.shape[:stacked], -1, values.shape[-1])


def _in_front(stacked: bool, *tensors: Any) -> tuple[Any, ...]:
    """Tensors with an axis of networks in front, of length 1 where there is none."""
    return tensors if stacked else tuple(None if t is None else t.unsqueeze(0) for t in tensors)


def _check_networks(stacked: bool, parameters: Tensor, points: Tensor) -> None:
    if stacked and (points.ndim < 2 or points.shape[0] != parameters.shape[0]):
        raise ShapeError(f"Parameters of {parameters.shape[0]} networks do not fit points {tuple(points.shape)}.")


def _check_groups(batch: torch.Size, width: int, bias: Tensor, mask: Tensor | None, group_sizes: Sequence[int]) -> None:
    if bias.ndim not in (1, 2) or bias.shape[-1] != width:
        raise ShapeError(f"The bias of a layer of width {width} must be ({width},); got {tuple(bias.shape)}.")
    if mask is None:
        if group_sizes:
            raise ShapeError("masked_sine got group sizes but no mask.")
        return
    if mask.shape != (*batch, len(group_sizes)):
        raise ShapeError(f"The mask must be {(*batch, len(group_sizes))}; got {tuple(mask.shape)}.")
    if min(group_sizes, default=0) < 0 or sum(group_sizes) > width:
        raise ShapeError(f"Group sizes {tuple(group_sizes)} must not be negative, and fit in width {width}.")


def _seen(implementation: Implementation, *tensors: Tensor | None) -> Implementation:
    """``auto`` is the definition in torch where a transform has to look into it."""
    return "torch" if implementation == "auto" and transformed(*tensors) else implementation


def _fast_dtypes(implementation: str, exact: Sequence[Tensor], any_precision: Sequence[Tensor | None]) -> bool:
    """Whether the fast path takes these: float32, and on Triton half precision in what autocast lowers."""
    on_triton = implementation == "triton" or exact[0].is_cuda
    lower = (torch.float32, torch.bfloat16, torch.float16) if on_triton else (torch.float32,)
    return all(t.dtype == torch.float32 for t in exact) and all(t is None or t.dtype in lower for t in any_precision)
