"""The compiled sum of Gaussians beside its definition in torch."""

from __future__ import annotations

import pytest
import torch

from sasnet_ns.kernels.gaussians import gaussian_sum
from sasnet_ns.networks.baselines.gaussian_image import GaussianImage
from sdf_tools.errors import ShapeError


def pixels(rows, columns):
    return torch.cartesian_prod(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5)


def some(count, channels, size, seed=0):
    """Gaussians in and around the image, some of them mirrored, some without an area, one without a place."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(count, 2, generator=generator) * size * 1.4 - 0.2 * size
    cholesky = torch.rand(count, 3, generator=generator) * 3 + torch.tensor([0.5, -1.0, 0.5])
    cholesky[::7, 0] *= -1
    cholesky[::11, 2] = 0
    center[3] = float("nan")
    color = torch.randn(count, channels, generator=generator)
    return [tensor.requires_grad_() for tensor in (center, cholesky, color)]


POINTS = {
    "pixels": lambda: pixels(37, 50),
    "points": lambda: torch.rand(3000, 2, generator=torch.Generator().manual_seed(1)) * 40,
    "crowded": lambda: torch.rand(700, 2, generator=torch.Generator().manual_seed(2)) * 6,
    "few and far apart": lambda: torch.tensor([[0.0, 0.0], [31.0, 2.0], [3.0, 39.5]]),
    "one": lambda: torch.tensor([[20.0, 20.0]]),
}


def both(points, tensors, probe=None, tile=8):
    """Values and gradients by either implementation."""
    found = []
    for implementation in ("torch", "numba"):
        out = gaussian_sum(points, *tensors, tile, implementation)
        probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)) if probe is None else probe
        found.append((out.detach(), *torch.autograd.grad((out * probe).sum(), tensors)))
    return found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", POINTS)
def test_it_is_the_definition(kind, channels):
    definition, compiled = both(POINTS[kind](), some(60, channels, 40))
    for expected, got in zip(definition, compiled, strict=True):
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4), kind
    assert definition[0].abs().max() > (0.05 if len(POINTS[kind]()) < 4 else 0.5)
    assert (compiled[2][::11] == 0).all(), "Gaussians without an area are left out"


def test_the_torch_definition_agrees_in_float64_to_twelve_digits_with_itself_in_other_tiles():
    tensors = [tensor.detach().double().requires_grad_() for tensor in some(60, 3, 40)]
    points = POINTS["points"]().double()
    whole, tiles = (gaussian_sum(points, *tensors, tile) for tile in (100, 8))
    assert torch.allclose(whole, tiles, atol=1e-12)
    assert gaussian_sum(points, *tensors).dtype == torch.float64, "auto leaves float64 to torch"


def test_derivatives_of_the_gradients_are_the_definitions():
    points, tensors = POINTS["pixels"](), some(30, 3, 40)
    found = []
    for implementation in ("torch", "numba"):
        out = gaussian_sum(points, *tensors, 8, implementation)
        slopes = torch.autograd.grad(out.square().sum(), tensors, create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().mean() for slope in slopes), tensors))
    for expected, got in zip(*found, strict=True):
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4 * float(expected.nan_to_num().abs().max()))


def test_gradients_by_points_are_there():
    points, tensors = POINTS["points"]()[:200].requires_grad_(), some(30, 3, 40)
    slopes = [
        torch.autograd.grad(gaussian_sum(points, *tensors, 8, implementation).sum(), points)[0]
        for implementation in ("torch", "numba")
    ]
    assert torch.equal(*slopes) and slopes[0].abs().max() > 0


def test_tensors_that_are_frozen_get_no_gradient():
    center, cholesky, color = some(30, 3, 40)
    center.requires_grad_(False)
    out = gaussian_sum(POINTS["pixels"](), center, cholesky, color, 8, "numba")
    slopes = torch.autograd.grad(out.sum(), (cholesky, color), create_graph=True)
    assert all(slope.abs().max() > 0 for slope in slopes)
    out = gaussian_sum(POINTS["pixels"](), center, cholesky, color, 8, "numba")
    out.sum().backward()
    assert center.grad is None and color.grad.abs().max() > 0


def test_any_number_of_threads_gives_the_same_bits():
    points, tensors, before = pixels(150, 150), some(400, 3, 150), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(both(points, tensors)[1])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(results[0], other, strict=True))


def test_an_image_trains_to_the_same_loss():
    losses = []
    target = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(0)).reshape(-1, 3)
    x = torch.cartesian_prod((torch.arange(20) + 0.5) / 10 - 1, (torch.arange(24) + 0.5) / 12 - 1)
    for implementation in ("torch", "numba"):
        torch.manual_seed(0)
        network = GaussianImage(gaussians=80, pixels=(20, 24), implementation=implementation)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (network(x) - target).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3) and losses[0] < 0.08


@pytest.mark.parametrize("implementation", ["torch", "numba"])
def test_what_cannot_be_computed_is_refused(implementation):
    points, (center, cholesky, color) = pixels(8, 8), some(20, 3, 8)
    for bad in (float("nan"), float("inf"), -float("inf")):
        spoilt = points.clone()
        spoilt[5, 1] = bad
        with pytest.raises(ValueError, match="points has coordinates that are NaN or infinite"):
            gaussian_sum(spoilt, center, cholesky, color, 8, implementation)
    for tile in (0, -4, float("nan")):
        with pytest.raises(ValueError, match="tile must be positive"):
            gaussian_sum(points, center, cholesky, color, tile, implementation)
    for wrong in (
        (torch.zeros(4, 3), center, cholesky, color),
        (points, center[:7], cholesky, color),
        (points, center, cholesky[:2], color),
        (points, center, cholesky, color[:2]),
        (points, center, cholesky, color[:, 0]),
    ):
        with pytest.raises(ShapeError, match="gaussian_sum takes"):
            gaussian_sum(*wrong, 8, implementation)


FAR = {
    "a point far away": torch.tensor([[4e4, 4e4]]),
    "one that no integer holds": torch.tensor([[-1e20, 3.0]]),
    "both ends of float32": torch.tensor([[3e38, 0.0], [-3e38, 0.0]]),
}


@pytest.mark.parametrize("kind", FAR)
def test_points_far_apart_cost_no_memory_and_change_nothing(kind):
    tensors, points = some(60, 3, 40), pixels(20, 20)
    alone = gaussian_sum(points, *tensors, 8, "numba")
    definition, compiled = both(torch.cat([points, FAR[kind]]), tensors)
    assert torch.allclose(compiled[0][: len(points)], alone, atol=1e-5)
    assert (compiled[0][len(points) :] == 0).all()
    for expected, got in zip(definition, compiled, strict=True):
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_gaussians_of_any_size_are_seen_alike():
    center = torch.tensor([[5.0, 5.0], [5.0, 5.0], [1e30, 5.0], [5.0, 5.0], [float("inf"), 0.0]])
    cholesky = torch.tensor([[1e15, 0, 1e15], [1e3, -2e3, 1e3], [1.0, 0, 1.0], [1e-30, 0, 1e-30], [1.0, 0, 1.0]])
    color = torch.eye(5)
    for tile in (2, 8):
        found = [gaussian_sum(pixels(10, 10), center, cholesky, color, tile, name) for name in ("torch", "numba")]
        assert torch.allclose(*found, atol=1e-5)
        assert (found[0][:, :2] > 0.9).all() and (found[0][:, 2:] == 0).all()


def test_no_gaussians_and_views_of_other_tensors():
    points = pixels(6, 6)
    empty = [torch.zeros(0, n, requires_grad=True) for n in (2, 3, 3)]
    out = gaussian_sum(points, *empty, 8, "numba")
    out.sum().backward()
    assert out.shape == (36, 3) and (out == 0).all() and empty[0].grad.shape == (0, 2)
    center, cholesky, color = some(30, 3, 6)
    plain = gaussian_sum(points, center, cholesky, color, 8, "numba")
    views = [torch.stack([t, t], dim=1)[:, 0] for t in (center, cholesky, color)]
    assert torch.equal(gaussian_sum(points.T.contiguous().T, *views, 8, "numba"), plain)


def test_torchs_transforms_take_the_definition():
    points, (center, cholesky, color) = pixels(6, 6), some(30, 3, 6)
    by_func = torch.func.grad(lambda c: gaussian_sum(points, center.detach(), cholesky.detach(), c).square().sum())
    (expected,) = torch.autograd.grad(gaussian_sum(points, center, cholesky, color, 8, "torch").square().sum(), color)
    assert torch.allclose(by_func(color.detach()), expected, atol=1e-5)


def test_what_cannot_run_says_so():
    tensors = some(5, 3, 40)
    assert gaussian_sum(torch.zeros(0, 2), *tensors).shape == (0, 3)
    with pytest.raises(ValueError, match="Unknown implementation 'triton'"):
        gaussian_sum(POINTS["pixels"](), *tensors, 8, "triton")
    with pytest.raises(ValueError, match="does not handle this dtype"):
        gaussian_sum(POINTS["pixels"]().double(), *(t.detach().double() for t in tensors), 8, "numba")
