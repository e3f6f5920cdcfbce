"""ns-train and fit_shape train the same thing: batches, weights and losses agree step by step."""

import pytest
import torch

from sasnet_ns.fitting import ShapeFit, fit_shape
from sasnet_ns.training import Recipe

STEPS = 12
SMALL = {"embedding_width": 32, "hidden_widths": (16, 16), "groups": (4, 4), "grid_levels": 3, "grid_log2_entries": 8}


@pytest.fixture
def shape_file(tmp_path):
    import trimesh

    path = tmp_path / "ball.ply"
    trimesh.creation.icosphere(subdivisions=2, radius=3.0).export(path)
    return path


def test_batches_and_losses_agree_step_by_step(shape_file, tmp_path):
    pytest.importorskip("nerfstudio")
    import copy

    from sasnet_ns.methods import sasnet_sdf
    from sasnet_ns.networks import SASNetConfig

    network = SASNetConfig.sdf_compact(**SMALL)
    config = copy.deepcopy(sasnet_sdf.config)
    config.max_num_iterations = STEPS
    config.output_dir = tmp_path / "outputs"
    config.vis = "tensorboard"
    config.pipeline.datamanager.data = shape_file
    config.pipeline.datamanager.pool_size = 5_000
    config.pipeline.datamanager.points_per_batch = 500
    config.pipeline.model.sasnet = network
    config.set_timestamp()
    config.set_experiment_name()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    model, ns_losses, ns_points = trainer.pipeline.model, [], []
    inner = model.get_outputs

    def watched(batch):
        outputs = inner(batch)
        if not isinstance(batch, torch.Tensor) and model.training:
            ns_losses.append(float(sum(outputs["losses"].values()).detach()))
            ns_points.append(batch.points.clone())
        return outputs

    model.get_outputs = watched
    trainer.train()

    fit = ShapeFit(
        network_config=config.pipeline.model.network_config(),
        recipe=Recipe(steps=STEPS),
        pool_size=5_000,
        points_per_batch=500,
    )
    fitted = fit_shape(str(shape_file), fit, progress=lambda step, loss: None)
    assert len(ns_losses) == STEPS
    assert ns_losses[9] == pytest.approx(fitted.losses[0], rel=1e-6)
    assert ns_losses[-1] == pytest.approx(fitted.losses[-1], rel=1e-6)
    for ours, theirs in zip(fitted.field.network.parameters(), model.field.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.cpu())


def test_defaults_of_both_doors_are_equal():
    pytest.importorskip("nerfstudio")
    import dataclasses

    from sasnet_ns.data.shape_datamanager import ShapeDataManagerConfig
    from sasnet_ns.fitting.shape import default_network_config
    from sasnet_ns.methods import sasnet_sdf
    from sasnet_ns.networks import build_network
    from sdf_tools.pools import PoolConfig

    fit, data, model = ShapeFit(), ShapeDataManagerConfig(), sasnet_sdf.config.pipeline.model
    for entry in dataclasses.fields(PoolConfig):
        assert getattr(fit, entry.name) == getattr(data, entry.name)
    assert fit.objective == model.objective
    assert fit.recipe.steps == sasnet_sdf.config.max_num_iterations
    ours = build_network("sasnet", 3, 1, **default_network_config("sasnet"))
    assert ours.config == model.sasnet


def test_the_callers_generator_goes_on_as_if_nothing_was(shape_file):
    fit = ShapeFit(network="siren", network_config={"width": 8}, recipe=Recipe(steps=2), pool_size=500)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_shape(str(shape_file), fit, progress=False)
    assert torch.equal(torch.rand(3), expected)


OPTIONS = {
    "siren": {"width": 16}, "finer": {"width": 16}, "wire": {"width": 8}, "gauss": {"width": 16},
    "pemlp": {"width": 16}, "ffn": {"width": 16, "frequencies": 8}, "sape": {"width": 16, "frequencies": 8},
    "incode": {"width": 16}, "msiren": {"width": 16}, "neurbf": {"kernels": 32, "width": 8},
    "sasnet": SMALL, "sasnet-paper": SMALL, "sasnet-grid": {"grid_log2_entries": 6},
    "ngp": {"grid_log2_entries": 6}, "grid": {"grid_log2_entries": 6}, "metric_grids": {"grid_log2_entries": 6},
    "flair": {"width": 8}, "cafe": {"width": 16, "frequencies": 8, "polynomials": 6},
}  # fmt: skip


def test_every_network_of_the_registry_is_fitted_with_its_hooks_or_refused(shape_file):
    from sasnet_ns.networks import network_names

    for name in network_names():
        fit = ShapeFit(
            network=name, network_config=OPTIONS.get(name), recipe=Recipe(steps=6), pool_size=800, points_per_batch=100
        )
        if name not in OPTIONS:
            with pytest.raises(ValueError, match="GaussianImage is for images, with 2 coordinates"):
                fit_shape(str(shape_file), fit, progress=False)
            continue
        calls = []
        fitted = fit_shape(str(shape_file), fit, progress=lambda step, loss, calls=calls: calls.append(loss))
        assert len(fitted.losses) == 1 and torch.isfinite(torch.tensor(fitted.losses)).all(), name
        if name == "sape":
            assert float(fitted.field.network.open_blocks.max()) > 0  # without its hook none would be open
