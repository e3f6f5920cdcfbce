"""A budget in seconds becomes a number of steps, measured on a copy."""

import pytest
import torch

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training import Recipe, SDFObjective
from sasnet_ns.training.budget import LEAST, steps_within
from sdf_tools.pools import SDFBatch


def batch_at(step: int) -> SDFBatch:
    points = torch.rand(64, 3, generator=torch.Generator().manual_seed(step)) - 0.5
    return SDFBatch(points, points.norm(dim=1) - 0.3, torch.zeros(64, dtype=torch.uint8), (64, 0, 0))


def test_a_longer_budget_has_more_steps_and_the_field_is_left_alone():
    field = SignedDistanceField("siren", {"width": 16})
    before = {name: value.clone() for name, value in field.state_dict().items()}
    few = steps_within(1e-3, field, SDFObjective(), Recipe(), batch_at)
    many = steps_within(1000.0, field, SDFObjective(), Recipe(), batch_at)
    assert few == LEAST < 1000 < many
    for name, value in field.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_a_budget_must_be_positive(seconds):
    with pytest.raises(ValueError, match="positive number of seconds"):
        steps_within(seconds, SignedDistanceField("siren", {"width": 8}), SDFObjective(), Recipe(), batch_at)
