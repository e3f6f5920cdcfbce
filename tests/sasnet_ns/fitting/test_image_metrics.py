from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sasnet_ns.analysis.step_cost import measure_step_cost
from sasnet_ns.fitting import image_metrics as metrics
from sasnet_ns.networks.base import Network


class Plane(Network):
    """0.5 + a . x in every channel."""

    def __init__(self, slope: tuple[float, float], channels: int = 3) -> None:
        super().__init__(2, channels)
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (0.5 + x @ self.slope)[..., None].expand(*x.shape[:-1], self.out_dim)


def centers(rows: int, columns: int) -> torch.Tensor:
    axes = [(2 * torch.arange(n) + 1) / n - 1 for n in (rows, columns)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def test_psnr_of_a_known_error_after_clamping():
    reference = torch.full((8, 6, 3), 0.5)
    assert metrics.psnr(reference + 0.1, reference) == pytest.approx(20.0, abs=1e-4)
    assert metrics.psnr(torch.full((4, 4, 1), 7.0), torch.ones(4, 4, 1)) == math.inf
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(torch.zeros(4, 4, 1), torch.zeros(4, 4, 3))


def test_ssim_of_constant_images_is_the_luminance_term():
    a, b, c1 = 0.4, 0.6, 0.01**2
    value = metrics.ssim(torch.full((16, 16, 3), a), torch.full((16, 16, 3), b))
    assert value == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)
    volume = torch.rand(12, 12, 12, 1, generator=torch.Generator().manual_seed(0))
    assert metrics.ssim(volume, volume) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 11"):
        metrics.ssim(torch.zeros(8, 16, 1), torch.zeros(8, 16, 1))


def test_the_edge_region_is_a_band_of_the_disks_width_and_its_psnr_sees_nothing_else():
    image = torch.zeros(32, 40, 3)
    image[:, 20:] = 1
    edges = metrics.edge_mask(image, metrics.EdgeRegion(disk_radius=3))
    middle = edges[16].nonzero().flatten()
    # One or two columns of edge, three more on either side.
    assert len(middle) in (7, 8) and {18, 19, 20, 21} <= set(middle.tolist())
    wrong = image.clone()
    wrong[:, :10] = 0.5
    assert metrics.edge_psnr(wrong, image, edges) == math.inf
    wrong = image.clone()
    wrong[:, 20:] -= 0.1
    share = float(edges[:, 20:].sum() / edges.sum())
    assert metrics.edge_psnr(wrong, image, edges) == pytest.approx(-10 * math.log10(0.01 * share), abs=1e-4)
    assert math.isnan(metrics.edge_psnr(image, image, torch.zeros(32, 40, dtype=torch.bool)))


def test_finite_differences_are_of_second_order_up_to_the_border():
    points = centers(12, 9).double()
    y, x = points[..., 0], points[..., 1]
    gradient = metrics.finite_difference_gradient(0.3 * y**2 - 0.7 * x**2 + 0.2 * x, (2 / 12, 2 / 9))
    wanted = torch.stack([0.6 * y, 0.2 - 1.4 * x], -1).float()
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_the_interpolants_gradient_is_exact_where_differences_are_not():
    # A cosine that is even at both borders is its own mirrored interpolant.
    x = centers(16, 24)[..., 1]
    wave = torch.cos(6 * math.pi * (x + 1) / 2)
    slope = -3 * math.pi * torch.sin(6 * math.pi * (x + 1) / 2)
    found = metrics.interpolant_gradient(wave, (2 / 16, 2 / 24))
    assert torch.allclose(found[..., 1], slope, atol=1e-5) and found[..., 0].abs().max() < 1e-6
    differences = metrics.finite_difference_gradient(wave, (2 / 16, 2 / 24))
    w = 6 * math.pi / 24  # radians per pixel
    assert torch.allclose(differences[:, 2:-2, 1], slope[:, 2:-2] * math.sin(w) / w, atol=1e-5)
    none = torch.zeros(16, 24, dtype=torch.bool)
    assert metrics.noisiness(found, differences, none) > 0.5


def test_noisiness_is_the_difference_of_gradient_lengths_in_smooth_regions():
    points = centers(16, 20)
    image = Plane((0.3, 0.4))(points).detach()
    reference = metrics.finite_difference_gradient(metrics.gray(image), (2 / 16, 2 / 20))
    smooth = torch.zeros(16, 20, dtype=torch.bool)
    exact = metrics.gray_gradient(Plane((0.3, 0.4)), points.reshape(-1, 2)).reshape(16, 20, 2)
    assert metrics.noisiness(exact, reference, smooth) == pytest.approx(0, abs=1e-5)
    # Twice the length, 0.5 instead of 1; the network's output counts double when it stands for [-1, 1].
    half = metrics.gray_gradient(Plane((1.2, 1.6)), points.reshape(-1, 2), value_scale=0.5).reshape(16, 20, 2)
    assert metrics.noisiness(half, reference, smooth) == pytest.approx(0.5, abs=1e-4)
    wild = exact.clone()
    wild[:8] += 100
    edges = smooth.clone()
    edges[:8] = True
    assert metrics.noisiness(wild, reference, edges) == pytest.approx(0, abs=1e-5)


def test_step_cost_counts_the_tensors_that_live_at_once():
    def step() -> None:
        a = torch.zeros(512, 512)
        b = a + 1
        del a
        c = b * 2  # two of 1 MiB live
        del b, c

    cost = measure_step_cost(step, runs=2, steps=2, held_bytes=2**20)
    assert cost.peak_mib == pytest.approx(3.0, abs=0.05)
    assert cost.step_us > 0 and cost.runs == 2
