"""The losses of a step: by the fused pass and by autograd, with all bands and with some."""

import math

import pytest
import torch

from sasnet_ns.networks import SignedDistanceField, fused_step
from sasnet_ns.training.objective import SDFObjective, SDFStep, sdf_losses
from sdf_tools.pools import SDFBatch

NETWORK = {
    "preset": "sdf_compact",
    "embedding_width": 40,
    "hidden_widths": (24, 16),
    "groups": (4, 4),
    "grid_levels": 3,
    "grid_log2_entries": 8,
}


def small_field() -> SignedDistanceField:
    torch.manual_seed(3)
    field = SignedDistanceField("sasnet", NETWORK)
    with torch.no_grad():  # masks that differ from place to place
        field.network.mask_generator.table.normal_()
    return field


def some_batch() -> SDFBatch:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(300, 3, generator=generator) - 0.5
    kind = torch.tensor([0] * 150 + [1] * 100 + [2] * 50, dtype=torch.uint8)
    return SDFBatch(points, points.norm(dim=1) - 0.3, kind, (150, 100, 50))


@pytest.mark.parametrize("bands", [None, 0, 2, 4])
@pytest.mark.parametrize("loss", ["distance_weighted", "coarse_to_fine", "sign_agnostic"])
def test_the_fused_step_has_autograds_loss_and_gradients(loss, bands):
    batch, objective, gradients, values = some_batch(), SDFObjective(loss=loss), [], []
    for fuse in (False, True):
        field = small_field()
        fused = fused_step(field.network, bands) if fuse else None
        assert fuse == (fused is not None)
        for _ in "ab":  # twice: the views of the first step are used again
            field.zero_grad()
            losses, predicted = sdf_losses(field, batch, objective, 0.3, fused, bands)
            sum(losses.values()).backward()
        values.append((float(losses["sdf"].detach()), predicted.detach()))
        gradients.append({name: p.grad for name, p in field.named_parameters()})
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-5)
    torch.testing.assert_close(values[0][1], values[1][1], atol=2e-6, rtol=1e-4)
    for name, expected in gradients[0].items():
        found = gradients[1][name]
        scale = float(expected.abs().max()) if expected is not None else 0.0
        expected = torch.zeros_like(found) if expected is None else expected
        assert float((expected - found).abs().max()) <= 2e-4 * scale + 1e-9, name


def test_band_dropout_takes_its_share_of_the_steps_and_every_number_of_bands_alike():
    objective = SDFObjective(band_dropout=0.2)
    drawn = [objective.bands_at(step, 4) for step in range(4000)]
    counts = {bands: drawn.count(bands) / len(drawn) for bands in (None, 0, 1, 2, 3)}
    assert counts[None] == pytest.approx(0.8, abs=0.01)
    for bands in range(4):
        assert counts[bands] == pytest.approx(0.05, abs=0.005)
    assert SDFObjective().bands_at(7, 4) is None


def test_bands_left_out_get_no_gradient_in_their_step():
    field, batch = small_field(), some_batch()
    steps = SDFStep(field, SDFObjective(band_dropout=0.999), 100)
    losses, _ = steps.losses(batch, 0)  # step 0 has no high band
    sum(losses.values()).backward()
    low = field.network.band_sizes[0]
    assert float(field.network.phase.grad[low:].abs().max()) == 0 < float(field.network.phase.grad[:low].abs().max())
    assert math.isfinite(float(losses["sdf"].detach()))
