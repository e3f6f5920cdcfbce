"""K networks in one call: each as if it were alone, by every backend that runs here, and two derivatives of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sasnet_ns.kernels import HashGridLayout, hash_grid, mask_decoder, masked_sine, masked_sine_embedding
from sdf_tools.errors import ShapeError

NETWORKS = 3
SIZES = (7, 5, 0, 3, 13)  # one group is empty
LAYOUT = HashGridLayout(3, (4, 9, 30), 8, 2, "smoothstep")  # dense and hashed levels


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


POINTS, FREQUENCIES = draw(NETWORKS, 150, 3, seed=1), 4 * draw(NETWORKS, 31, 3, seed=2)
CALLS: dict[str, tuple[Callable[..., Tensor], list[Tensor], list[Tensor]]] = {
    # a call, what it is differentiated by, and its constants
    "hash grid": (
        lambda backend, x, table: hash_grid(x, table, LAYOUT, backend),
        [POINTS.clamp(-1.1, 1.1), draw(NETWORKS, LAYOUT.total_entries, 2)],
        [],
    ),
    "masked sine": (
        lambda backend, z, bias, mask: masked_sine(z, bias, 3.0, mask, SIZES, backend),
        [draw(NETWORKS, 150, 31), draw(NETWORKS, 31), draw(NETWORKS, 150, 5).sigmoid()],
        [],
    ),
    "sine": (
        lambda backend, z, bias: masked_sine(z, bias, 3.0, None, (), backend),
        [draw(NETWORKS, 150, 31), draw(NETWORKS, 31)],
        [],
    ),
    "embedding": (
        lambda backend, bias, mask, x, weight: masked_sine_embedding(x, weight, bias, mask, SIZES, backend),
        [draw(NETWORKS, 31), draw(NETWORKS, 150, 5).sigmoid()],
        [POINTS, FREQUENCIES],
    ),
    "embedding by points": (
        lambda backend, x, bias, weight: masked_sine_embedding(x, weight, bias, None, (), backend),
        [POINTS, draw(NETWORKS, 31)],
        [FREQUENCIES],
    ),
    "mask decoder": (
        lambda backend, *tensors: mask_decoder(*tensors, backend),
        [draw(NETWORKS, 150, 6), *(draw(NETWORKS, *s) for s in ((4, 6), (4,), (3, 4), (3,)))],
        [],
    ),
}


def derivatives(function: Callable[..., Tensor], variables: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Value, gradients, and the gradients of a function of those."""
    variables = [v.clone().requires_grad_() for v in variables]
    value = function(*variables)
    first = torch.autograd.grad(value, variables, weights[0].to(value), create_graph=True)
    mixed = sum((part * weight.to(part)).sum() for part, weight in zip(first, weights[1:], strict=True))
    return [value, *first, *torch.autograd.grad(mixed, variables)]


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("name", CALLS)
def test_each_network_is_as_if_it_were_alone(name: str, backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    function, inputs, constants = CALLS[name]
    weights = [torch.sin(draw(*t.shape, seed=3)) for t in (function("torch", *inputs, *constants), *inputs)]
    dtype = torch.float32 if backend == "numba" else torch.float64
    fixed = [tensor.to(dtype) for tensor in constants]
    found = derivatives(lambda *t: function(backend, *t, *fixed), [tensor.to(dtype) for tensor in inputs], weights)
    for k in range(NETWORKS):
        # alone: without the axis of networks, by the definition in float64
        own = [tensor[k] for tensor in constants]
        alone = derivatives(lambda *t, own=own: function("torch", *t, *own), [t[k] for t in inputs], [w[k] for w in weights])  # fmt: skip  # noqa: E501
        for index, (a, b) in enumerate(zip(found, alone, strict=True)):
            assert (a[k] - b).abs().max() <= 3e-5 * b.abs().max().clamp(min=1e-9), (k, index)


def test_batches_of_any_shape_and_points_of_other_networks() -> None:
    table = torch.randn(NETWORKS, LAYOUT.total_entries, 2)
    x = torch.rand(NETWORKS, 5, 7, 3)
    features = hash_grid(x, table, LAYOUT)
    assert features.shape == (NETWORKS, 5, 7, 6)
    assert torch.equal(features.flatten(1, 2), hash_grid(x.flatten(1, 2), table, LAYOUT))
    assert hash_grid(x[:, :0], table, LAYOUT).shape == (NETWORKS, 0, 7, 6)
    with pytest.raises(ShapeError, match="3 networks"):
        hash_grid(x[:2], table, LAYOUT)
    with pytest.raises(ShapeError, match="3 networks"):
        masked_sine(torch.rand(2, 4, 8), torch.rand(3, 8), 1.0)
    with pytest.raises(ShapeError, match="do not fit embedding"):
        masked_sine_embedding(x, torch.rand(NETWORKS, 8, 3), torch.rand(8))
