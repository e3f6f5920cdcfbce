"""Seeds that photographs are drawn with."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nerfstudio")

from sasnet_ns.data.photos import mix_seed


def test_mixed_seeds_fill_32_bits_and_differ() -> None:
    seeds = {mix_seed(seed, step) for seed in range(10) for step in range(2000)}
    assert len(seeds) > 19_990
    assert 0.45 < np.mean([value / 2**32 for value in seeds]) < 0.55
    assert max(seeds) < 2**32
