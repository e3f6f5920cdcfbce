from __future__ import annotations

import pytest
import torch

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training.recipe import Recipe
from sasnet_ns.training.sphere_start import start_as_sphere

SMOOTH = {"preset": "sdf_compact", "omega_0": 12.0, "low_range": 1, "band_limit": 8}


@pytest.mark.parametrize("bands", [None, 0, 2])
def test_a_field_or_its_lower_bands_become_a_sphere(bands: int | None) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        field = SignedDistanceField("sasnet", SMOOTH)
    start_as_sphere(field, Recipe(learning_rate=5e-3), 1000, steps=120, radius=0.3, bands=bands)
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        wrong = (field(points, bands) - (points.norm(dim=1) - 0.3)).abs()
    assert wrong.mean() < 0.02
