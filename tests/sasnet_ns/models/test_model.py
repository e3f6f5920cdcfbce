"""The model's losses and its quick geometry measures, against values known beforehand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_sdf  # noqa: F401 (before anything else of nerfstudio, see conftest)
from sasnet_ns.models.sdf_pipeline import cloud_metrics, plain_numbers, quick_metrics
from sasnet_ns.networks import SignedDistanceField

Make = Callable[..., Any]


class _Ball(SignedDistanceField):
    radius, stretch = 0.45, 1.0

    def forward(self, points: Tensor) -> Tensor:
        return self.stretch * (points.norm(dim=-1) - self.radius)


def _ball(trainer: Any, radius: float, stretch: float = 1.0) -> _Ball:
    model = trainer.pipeline.model
    ball = _Ball(model.config.network, model.config.network_config())
    ball.radius, ball.stretch = radius, stretch
    return ball


def test_quick_metrics_of_balls(make_trainer: Make) -> None:
    trainer = make_trainer()
    probe = trainer.pipeline.datamanager.probe
    right = quick_metrics(_ball(trainer, 0.445), probe)  # the mesh is inscribed, so a little smaller than 0.45
    assert right["iou"] > 0.97
    assert right["surface_error"] < 0.006
    small = quick_metrics(_ball(trainer, 0.35), probe)
    assert small["iou"] == pytest.approx((0.35 / 0.446) ** 3, abs=0.03)
    assert small["surface_error"] == pytest.approx(0.096, abs=0.005)
    # A field that is no distance (twice too steep) is measured in distance all the same.
    assert quick_metrics(_ball(trainer, 0.35, 2.0), probe)["surface_error"] == pytest.approx(0.096, abs=0.005)


def test_optional_terms_appear_when_weighted(make_trainer: Make) -> None:
    plain = make_trainer(timestamp="plain")
    assert set(plain.pipeline.get_train_loss_dict(0)[1]) == {"sdf"}
    full = make_trainer(
        timestamp="full",
        pipeline__model__objective__eikonal_weight=0.1,
        pipeline__model__objective__mask_sparsity_weight=0.01,
    )
    losses = full.pipeline.get_train_loss_dict(0)[1]
    assert set(losses) == {"sdf", "eikonal", "mask_sparsity"}
    # 4 + 8 + 8 masks start near 0.5
    assert float(losses["mask_sparsity"].detach()) == pytest.approx(0.01 * 20 * 0.5, rel=0.2)
    sum(losses.values()).backward()
    assert full.pipeline.model.field.network.mask_generator.table.grad is not None


def test_evaluation_batches_build_no_graph(make_trainer: Make) -> None:
    _, losses, metrics = make_trainer().pipeline.get_eval_loss_dict(0)
    assert not any(value.requires_grad for value in (*losses.values(), *metrics.values()))


def test_bfloat16_trains_too(make_trainer: Make) -> None:
    trainer = make_trainer(max_num_iterations=2, pipeline__model__bfloat16=True)
    trainer.train()
    assert all(torch.isfinite(value).all() for value in trainer.pipeline.model.field.state_dict().values())


def test_building_the_model_needs_no_perceptual_loss(make_trainer: Make) -> None:
    make_trainer()
    assert not any(type(module).__name__.startswith("LearnedPerceptual") for module in _modules(make_trainer))
    assert "lpips" not in sys.modules


def _modules(make_trainer: Make) -> list[Any]:
    return list(make_trainer(timestamp="other").pipeline.modules())


def test_metrics_become_plain_numbers() -> None:
    assert plain_numbers({"iou": 0.5, "watertight": True, "name": "cow", "bodies": 2}) == {
        "iou": 0.5,
        "watertight": 1.0,
        "bodies": 2.0,
    }


def test_cloud_metrics_of_a_shifted_copy(sphere_file: Any) -> None:
    from sdf_tools.geometry import Mesh
    from sdf_tools.io.loading import load
    from sdf_tools.sampling import sample_surface

    mesh = load(sphere_file)
    assert isinstance(mesh, Mesh)
    points = sample_surface(mesh, 20_000, seed=3).points
    same = cloud_metrics(mesh, points, 5_000)
    assert same["completeness_mean"] < 1e-6
    assert same["accuracy_mean"] < 0.05  # the points' own spacing
    radial = points - points.new_tensor([10.0, 0, 0])
    grown = cloud_metrics(mesh, points + 0.1 * radial / radial.norm(dim=-1, keepdim=True), 5_000)
    assert grown["completeness_mean"] == pytest.approx(0.1, abs=0.005)


def test_an_unsigned_loss_is_sent_to_the_door_that_has_it(make_trainer: Make) -> None:
    with pytest.raises(SystemExit, match="only `sasnet fit-shape` makes"):
        make_trainer(pipeline__model__objective__loss="sign_agnostic")
