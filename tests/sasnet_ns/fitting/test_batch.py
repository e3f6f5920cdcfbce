"""K shapes fitted together: what each gets alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from sasnet_ns.datasets import synthetic_mesh
from sasnet_ns.fitting import Recipe, SDFObjective, ShapeFit, fit_batch, fit_shape
from sdf_tools.errors import ShapeError

SMALL = {
    "preset": "sdf_compact",
    "embedding_width": 32,
    "hidden_widths": (32,),
    "groups": (2,),
    "grid_levels": 2,
    "grid_log2_entries": 8,
}


def small(steps: int = 60, network: str = "sasnet", **changes: object) -> ShapeFit:
    options = SMALL if network == "sasnet" else {"width": 32} if network == "siren" else {"grid_levels": 2}
    recipe = Recipe(steps=steps, warmup_steps=5)
    return ShapeFit(
        network=network, network_config=dict(options), pool_size=8_000, points_per_batch=500, recipe=recipe, **changes
    )  # type: ignore[arg-type]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same_weights(a, b) -> bool:  # type: ignore[no-untyped-def]
    states = a.field.state_dict(), b.field.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("network", ["sasnet", "siren", "ngp"])
def test_eight_together_are_eight_alone(network: str, one_thread: None) -> None:
    pytest.importorskip("numba")
    shapes = [synthetic_mesh(seed, resolution=24) for seed in range(8)]
    config = small(network=network)
    together = fit_batch(shapes, config, seeds=range(8), progress=False)
    torch.set_num_threads(2)
    on_two = fit_batch(shapes, config, seeds=range(8), progress=False)
    torch.set_num_threads(1)
    for k, shape in enumerate(shapes):
        alone = fit_shape(shape, dataclasses.replace(config, seed=k), progress=False)
        assert same_weights(together[k], alone) and same_weights(on_two[k], alone)
        assert together[k].losses == alone.losses and together[k].iou == alone.iou
        assert torch.equal(together[k].field.center, alone.field.center)


@pytest.mark.parametrize(
    "objective",
    [
        SDFObjective(eikonal_weight=0.05, eikonal_points=100),
        SDFObjective(loss="coarse_to_fine"),
        SDFObjective(loss="sign_agnostic"),
    ],
)
def test_other_losses_agree_too(objective: SDFObjective, one_thread: None) -> None:
    shapes = [synthetic_mesh(seed, resolution=24) for seed in range(2)]
    config = small(30, objective=objective)
    for shape, found in zip(shapes, fit_batch(shapes, config, progress=False), strict=True):
        alone = fit_shape(shape, config, progress=False)
        assert found.losses == pytest.approx(alone.losses, rel=1e-3)
        assert found.losses[-1] < found.losses[0]


def test_a_network_that_runs_away_is_trained_alone_and_harms_no_other(
    one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [synthetic_mesh(seed, resolution=24) for seed in range(3)]
    config = small(120)
    well = fit_batch(shapes, config, progress=False)
    from sasnet_ns.fitting import batch

    first = batch.first_field
    poisoned = iter([False, True, False])

    def first_field(prepared, own):  # type: ignore[no-untyped-def]
        field = first(prepared, own)
        if next(poisoned):
            with torch.no_grad():
                field.network.output.bias.fill_(float("nan"))
        return field

    monkeypatch.setattr(batch, "first_field", first_field)
    with pytest.warns(UserWarning, match="'synthetic_1' is fitted again by itself: the loss is nan at step 10"):
        found = fit_batch(shapes, config, progress=False)
    assert all(same_weights(a, b) for a, b in zip(found, well, strict=True))


def test_what_cannot_be_trained_together_is_refused() -> None:
    shape = synthetic_mesh(0, resolution=24)
    for config, words in (
        (small(seconds=3.0), "a number of steps"),
        (small(cuda_graph=True), "leave cuda_graph off"),
        (small(objective=SDFObjective(band_dropout=0.1)), "band_dropout"),
        (small(objective=SDFObjective(mask_sparsity_weight=0.1)), "mask_sparsity_weight"),
        (ShapeFit(network="finer"), "finer cannot be trained together"),
        (dataclasses.replace(small(), recipe=Recipe(clip_norm=1.0)), "not clipped; leave recipe.clip_norm out"),
        (ShapeFit(network="siren", network_config={"coordinate_scale": 0.5}), "a coordinate_scale other than 1"),
        (ShapeFit(network_config={"preset": "sdf", "grid_variant": "wisp"}), "sasnet with grid_variant wisp"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_batch([shape], config, progress=False)
    with pytest.raises(ValueError, match="1 shapes and 2 seeds"):
        fit_batch([shape], small(), seeds=[1, 2], progress=False)
    with pytest.raises(ShapeError):
        fit_batch([shape, "nowhere.ply"], small(), progress=False)
    assert fit_batch([], small()) == []


def test_ctrl_c_keeps_what_is_there() -> None:
    def stop(done: int, loss: float) -> None:
        if done == 30:
            raise KeyboardInterrupt

    shapes = [synthetic_mesh(seed, resolution=24) for seed in range(2)]
    found = fit_batch(shapes, small(), progress=stop)
    assert all(one.interrupted for one in found)
    whole = fit_batch(shapes, small(30), progress=False)
    assert not any(one.interrupted for one in whole) and not same_weights(found[0], whole[0])


def test_histories_have_steps_and_seconds_and_survive_ctrl_c() -> None:
    def stop(done: int, loss: float) -> None:
        if done == 20:
            raise KeyboardInterrupt

    shapes = [synthetic_mesh(seed, resolution=24) for seed in range(2)]
    for progress, steps in ((False, [10, 20, 30]), (stop, [10, 20])):
        for one in fit_batch(shapes, small(30), progress=progress):
            history = one.history
            assert history.step == steps and len(history.loss) == len(history.psnr) == len(steps)
            assert history.seconds == sorted(history.seconds) and history.seconds[0] > 0
