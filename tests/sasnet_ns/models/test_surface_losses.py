"""Losses on maps that have places without a measurement."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("nerfstudio")

from sasnet_ns.models.surface_losses import metric_depth_loss, normal_prior_loss


@pytest.mark.parametrize("nothing", [float("nan"), float("inf")])
def test_what_was_not_measured_does_not_count(nothing: float) -> None:
    valid = torch.tensor([True, True, False])
    depth = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    loss = metric_depth_loss(depth, torch.tensor([1.5, 2.0, nothing]), valid)
    loss.backward()
    assert loss.item() == 0.25 and depth.grad is not None and depth.grad.tolist() == [-0.5, 0.0, 0.0]
    normals = torch.eye(3, requires_grad=True)
    prior = torch.eye(3)
    prior[2] = nothing
    loss = normal_prior_loss(normals, prior, valid)
    loss.backward()
    assert loss.item() == 0 and normals.grad is not None and normals.grad.isfinite().all()
    assert metric_depth_loss(depth, torch.full((3,), nothing), torch.zeros(3, dtype=torch.bool)).item() == 0
