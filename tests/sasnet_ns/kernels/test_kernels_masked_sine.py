"""Fused masked sine layers against the float64 torch reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sasnet_ns.kernels import mask_decoder, masked_sine, masked_sine_embedding
from sdf_tools.errors import ShapeError

SIZES = (7, 5, 0, 3, 13)  # one group is empty


def inputs(rows: int = 90, width: int = 31, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    # masks are columns of a wider array, as the decoder gives them
    return draw(rows, width), draw(width), torch.rand(rows, 20, generator=generator)[:, 3:8], draw(rows, width)


def derivatives(
    z: Tensor, bias: Tensor, mask: Tensor | None, g: Tensor, sizes: tuple[int, ...], backend: str
) -> list[Tensor]:
    variables = [tensor.clone().requires_grad_() for tensor in (z, bias, mask) if tensor is not None]
    g = g.clone().requires_grad_()
    value = masked_sine(variables[0], variables[1], 3.0, variables[2] if mask is not None else None, sizes, backend)
    first = torch.autograd.grad(value, variables, g, create_graph=True)
    waves = [torch.sin(torch.arange(part.numel(), dtype=part.dtype)).view_as(part) for part in first]
    mixed = sum((part * wave).sum() for part, wave in zip(first, waves, strict=True))
    return [value, *first, *torch.autograd.grad(mixed, [*variables, g])]


def test_value_by_hand() -> None:
    z = torch.tensor([[0.1, 0.2, 0.3]])
    out = masked_sine(z, torch.tensor([0.0, 0.1, 0.2]), 2.0, torch.tensor([[0.25]]), (2,), "numba")
    expected = torch.tensor([[math.sin(0.2), 0.25 * math.sin(0.6), 0.25 * math.sin(1.0)]])
    assert torch.allclose(out, expected, atol=1e-6)


def test_reference_passes_gradgradcheck() -> None:
    z, bias, mask, _ = (tensor.double().requires_grad_() for tensor in inputs(rows=2))
    assert torch.autograd.gradgradcheck(lambda z, b, m: masked_sine(z, b, 3.0, m, SIZES, "torch"), (z, bias, mask))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("rows", [1, 90, 1500])
def test_numba_matches_float64_reference(rows: int, masked: bool) -> None:
    z, bias, mask, g = inputs(rows)
    sizes = SIZES if masked else ()
    chosen = mask if masked else None
    found = derivatives(z, bias, chosen, g, sizes, "numba")
    double = [tensor.double() for tensor in (z, bias, mask, g)]
    wanted = derivatives(double[0], double[1], double[2] if masked else None, double[3], sizes, "torch")
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert (a - b).abs().max() < 1e-5 * b.abs().max(), index


def test_several_threads_agree() -> None:
    z, bias, mask, g = inputs(3000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = derivatives(z, bias, mask, g, SIZES, "numba")
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(found, derivatives(z, bias, mask, g, SIZES, "torch"), strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_sine_keeps_its_digits_over_large_arguments() -> None:
    arguments = torch.linspace(-1e4, 1e4, 400_001)[:, None]
    out = masked_sine(arguments, torch.zeros(1), 1.0, implementation="numba")
    assert (out.double() - arguments.double().sin()).abs().max() < 2.5e-7
    # absurd and infinite arguments stay bounded or become nan, as in torch
    wild = masked_sine(torch.tensor([[1e9], [-1e30], [math.inf]]), torch.zeros(1), 1.0, implementation="numba")
    assert wild[:2].abs().max() < 1.01


def test_embedding_matches_two_steps() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(50, 3, generator=generator) * 2 - 1
    weight = math.pi * torch.randint(-20, 21, (30, 3), generator=generator)
    bias = torch.randn(30, generator=generator)
    mask = torch.rand(50, 2, generator=generator)
    results = []
    for backend, dtype in (("numba", torch.float32), ("torch", torch.float64)):
        b, m = bias.to(dtype).requires_grad_(), mask.to(dtype).requires_grad_()
        out = masked_sine_embedding(x.to(dtype), weight.to(dtype), b, m, (10, 8), backend)
        first = torch.autograd.grad((out**2).sum(), (b, m), create_graph=True)
        results.append([out, *first, *torch.autograd.grad(first[0].square().sum() + first[1].sum(), (b, m))])
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < 3e-5 * b.abs().max()


def test_embedding_differentiates_by_points() -> None:
    x = (torch.rand(20, 2) * 2 - 1).requires_grad_()
    weight, bias = torch.randn(9, 2) * 5, torch.randn(9)
    (found,) = torch.autograd.grad(masked_sine_embedding(x, weight, bias).sum(), x)
    assert torch.allclose(found, torch.cos(x @ weight.t() + bias) @ weight, atol=1e-4)


def test_other_dtypes_and_shapes() -> None:
    z, bias, mask, _ = inputs(12)
    assert masked_sine(z.double(), bias.double(), 3.0, mask.double(), SIZES).dtype == torch.float64
    batched = masked_sine(z.view(3, 4, -1), bias, 3.0, mask.reshape(3, 4, -1), SIZES)
    assert torch.equal(batched.view(12, -1), masked_sine(z, bias, 3.0, mask, SIZES))
    assert masked_sine(z[:0], bias, 3.0, mask[:0], SIZES).shape == (0, 31)
    with pytest.raises(ValueError, match="dtype"):
        masked_sine(z.double(), bias.double(), 3.0, implementation="numba")


def test_wrong_shapes_are_refused() -> None:
    z, bias, mask, _ = inputs()
    with pytest.raises(ShapeError, match="bias"):
        masked_sine(z, bias[1:], 3.0)
    with pytest.raises(ShapeError, match="mask must be"):
        masked_sine(z, bias, 3.0, mask, (7, 5))
    with pytest.raises(ShapeError, match="Group sizes"):
        masked_sine(z, bias, 3.0, mask, (20, 20, 1, 1, 1))


def test_mask_decoder_is_its_formula() -> None:
    features, w1, b1, w2, b2 = (torch.randn(*shape) for shape in ((5, 6), (4, 6), (4,), (3, 4), (3,)))
    expected = torch.sigmoid(torch.relu(features @ w1.t() + b1) @ w2.t() + b2)
    assert torch.allclose(mask_decoder(features, w1, b1, w2, b2), expected, atol=1e-6)
    with pytest.raises(ShapeError):
        mask_decoder(features, w1.t(), b1, w2, b2)
