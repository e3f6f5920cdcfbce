"""What lets finished runs be read back."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from sasnet_ns.models.loading import allow_numpy_scalars


def test_checkpoints_with_numpy_scalars_load_without_running_code() -> None:
    """nerfstudio's schedulers leave numpy numbers in checkpoints; nothing else is let in."""
    buffer = io.BytesIO()
    torch.save({"lr": np.float64(0.25), "step": np.int64(7)}, buffer)
    allow_numpy_scalars()
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert state == {"lr": 0.25, "step": 7}
    buffer = io.BytesIO()
    torch.save({"call": print}, buffer)
    buffer.seek(0)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(buffer, weights_only=True)


def test_the_metric_that_needs_a_download_is_swapped_only_for_the_block() -> None:
    pytest.importorskip("torchmetrics")
    from torchmetrics.image import lpip

    from sasnet_ns.models.lpips import OptionalLPIPS, lpips_without_download

    original = lpip.LearnedPerceptualImagePatchSimilarity
    with pytest.raises(RuntimeError), lpips_without_download():
        assert lpip.LearnedPerceptualImagePatchSimilarity is OptionalLPIPS
        raise RuntimeError
    assert lpip.LearnedPerceptualImagePatchSimilarity is original
