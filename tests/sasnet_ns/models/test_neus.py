"""sasnet-neus and sasnet-neus-facto on a tiny rendered sphere: wiring, losses, schedule, resumption, running start."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")
pytest.importorskip("embreex")

from sasnet_ns.methods import sasnet_neus, sasnet_neus_facto  # isort: skip

from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from sasnet_ns.models.loading import load_surface
from sasnet_ns.models.surface_losses import (
    metric_depth_loss,
    normal_prior_loss,
    opacity_loss,
    scale_shift_depth_loss,
)
from sasnet_ns.models.surface_model import open_bands
from sasnet_ns.networks import SignedDistanceField
from sdf_tools.geometry import Mesh

SMALL = {"embedding_width": 32, "hidden_widths": (32, 32), "grid_levels": 4, "grid_interpolation": "smoothstep"}
METHODS = {"neus": sasnet_neus, "neus-facto": sasnet_neus_facto}
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, sphere_file: Path) -> Path:
    """Eight small views of a sphere of radius 1 around the origin."""
    from sdf_tools.io.loading import load
    from sdf_tools.pictures.scene_files import SceneSettings, write_scene

    folder = tmp_path_factory.mktemp("scenes") / "sphere"
    settings = SceneSettings(
        views=6, val_views=1, test_views=1, size=(24, 24), supersampling=1, occlusion_rays=0, sparse_points=200
    )
    mesh = load(sphere_file)
    assert isinstance(mesh, Mesh)
    write_scene(mesh, folder, settings)
    return folder


@pytest.fixture
def make(scene: Path, tmp_path: Path) -> Iterator[Make]:
    """Builds a ready trainer: a small network, few rays, no viewer."""
    from nerfstudio.utils import writer

    def build(method: str = "neus-facto", parser: Any = None, **changes: Any) -> Any:
        config = copy.deepcopy(METHODS[method].config)
        config.output_dir, config.timestamp, config.vis = tmp_path / "outputs", "run", "tensorboard"
        config.max_num_iterations, config.steps_per_report = 6, 0
        config.machine.device_type = "cpu"
        config.viewer.quit_on_train_completion = True
        data, model = config.pipeline.datamanager, config.pipeline.model
        data.data, data.dataparser = scene, parser or BlenderDataParserConfig()
        data.train_num_rays_per_batch = data.eval_num_rays_per_batch = 32
        for name, value in SMALL.items():
            setattr(model.sdf_field.sasnet, name, value)
        model.sdf_field.geo_feat_dim, model.sdf_field.hidden_dim_color = 8, 16
        for name, value in changes.items():
            target: Any = config
            *path, last = name.split("__")
            for part in path:
                target = getattr(target, part)
            setattr(target, last, value)
        torch.manual_seed(0)
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        return trainer

    yield build
    writer.EVENT_WRITERS.clear()
    writer.EVENT_STORAGE.clear()
    writer.GLOBAL_BUFFER.clear()


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **_: Any) -> None:
        raise AssertionError(f"a download was tried: {args}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", refuse, raising=False)


def test_every_option_is_explained() -> None:
    """Each field of our configs has help text of its own for --help."""
    from tyro._docstrings import get_field_docstring

    from sasnet_ns.data.surface_photos import SurfaceDataManagerConfig
    from sasnet_ns.fields.sdf_field import SASNetSDFFieldConfig
    from sasnet_ns.models.surface_pipeline import SurfacePipelineConfig, SurfaceTrainerConfig

    configs = [spec.config.pipeline.model.__class__ for spec in METHODS.values()]
    configs += [SASNetSDFFieldConfig, SurfaceDataManagerConfig, SurfacePipelineConfig, SurfaceTrainerConfig]
    silent = [
        f"{cls.__name__}.{name}"
        for cls in configs
        for name in cls.__annotations__
        if "Suppress" not in str(cls.__annotations__[name]) and not get_field_docstring(cls, name, ())
    ]
    assert not silent


@pytest.mark.parametrize("method", list(METHODS))
def test_every_loss_reaches_its_parameters(method: str, make: Make) -> None:
    trainer = make(
        method,
        NerfstudioDataParserConfig(load_3D_points=True, eval_mode="filename"),
        pipeline__datamanager__normals=Path("normals"),
        pipeline__model__curvature_loss_mult=1e-3,
        pipeline__model__mask_sparsity_loss_mult=1e-3,
    )
    pipeline = trainer.pipeline
    for callback in trainer.callbacks:
        callback.run_callback(0)
    _, losses, metrics = pipeline.get_train_loss_dict(0)
    expected = {"rgb_loss", "eikonal_loss", "fg_mask_loss", "normal_loss", "depth_loss", "sparse_points_loss"}
    expected |= {"curvature_loss", "mask_sparsity_loss"} | ({"interlevel_loss"} if method == "neus-facto" else set())
    assert set(losses) == expected
    assert all(torch.isfinite(value) and value.ndim == 0 for value in losses.values())
    assert set(metrics) == {"psnr", "sharpness"}
    sum(losses.values()).backward()
    for name, parameters in pipeline.get_param_groups().items():
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters), name
    owned = [id(p) for parameters in pipeline.get_param_groups().values() for p in parameters]
    trained = [id(p) for p in pipeline.model.parameters() if p.requires_grad and p.numel()]
    assert sorted(owned) == sorted(trained)  # every parameter has one optimizer


def test_pictures_suit_viewer_and_exporters(make: Make) -> None:
    pipeline = make().pipeline
    model = pipeline.model.eval()
    camera, batch = next(iter(pipeline.datamanager.fixed_indices_eval_dataloader))
    outputs = model.get_outputs_for_camera(camera)
    assert next(iter(outputs)) == "rgb" and "weights" not in outputs
    assert outputs["normals"].min() >= 0 and outputs["normals"].max() <= 1
    seen = outputs["accumulation"][..., 0] > 0.9
    # Distance along unit rays to the initial sphere of radius 0.5, where it is opaque.
    middle = camera.camera_to_worlds[0, :, 3].norm() - 0.5
    assert abs(float(outputs["depth"][seen].min() - middle)) < 0.1
    assert outputs["depth"][outputs["accumulation"] < 0.1].min() > 100  # nothing there: far away
    rgba = model.get_rgba_image(outputs)
    assert rgba.shape == (24, 24, 4) and torch.equal(rgba[..., 3:], outputs["accumulation"])
    metrics, images = model.get_image_metrics_and_images(outputs, batch)
    assert {"psnr", "ssim"} <= set(metrics) <= {"psnr", "ssim", "lpips"}
    assert all(math.isfinite(value) for value in metrics.values())
    assert images["img"].shape[-1] == 3


def test_depth_and_normal_maps_agree_with_the_sphere(make: Make) -> None:
    parser = NerfstudioDataParserConfig(orientation_method="up", eval_mode="filename")
    dataset = make(parser=parser, pipeline__datamanager__normals=Path("normals")).pipeline.datamanager.train_dataset
    outputs = dataset._dataparser_outputs
    camera, item = dataset.cameras[1:2], dataset[1]
    assert item["image"].shape == (24, 24, 4) and item["depth"].shape == (24, 24, 1)
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    seen = item["image"][..., 3] > 0.99
    along = (item["depth"] * rays.metadata["directions_norm"])[seen]
    points = rays.origins[seen] + along * rays.directions[seen]
    transform, scale = outputs.dataparser_transform, outputs.dataparser_scale
    center = scale * transform[:, 3]  # where the sphere's centre went
    radii = (points - center).norm(dim=-1) / scale
    assert (radii - 1).abs().max() < 0.03
    assert ((points - center) / scale * item["normal"][seen]).sum(-1).min() > 0.95


def test_depth_maps_make_the_rays_of_a_step_come_from_few_pictures(make: Make) -> None:
    def pictures(step: int, **changes: Any) -> set[int]:
        manager = make(pipeline__datamanager__train_num_rays_per_batch=128, **changes).pipeline.datamanager
        return set(manager.next_train(step)[1]["indices"][:, 0].tolist())

    parser = NerfstudioDataParserConfig(eval_mode="filename")
    with_depth = [pictures(step, parser=parser) for step in range(3)]
    assert [len(found) for found in with_depth] == [2, 2, 2] and len({tuple(found) for found in with_depth}) > 1
    assert len(pictures(0)) == 6
    assert len(pictures(0, pipeline__datamanager__pictures_per_batch=3)) == 3


def test_resuming_equals_never_stopping(make: Make) -> None:
    whole = make(timestamp="whole", save_only_latest_checkpoint=False, steps_per_save=2)
    whole.train()
    rest = make(timestamp="rest", load_dir=whole.checkpoint_dir, load_step=2)
    assert rest.completed_steps == 3
    rest.train()
    expected = whole.pipeline.model.state_dict()
    start = torch.load(whole.checkpoint_dir / "step-000000002.ckpt", weights_only=True)["pipeline"]
    for name, value in rest.pipeline.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    variance = "field.deviation_network.variance"
    assert not torch.equal(expected[variance], start[f"_model.{variance}"])


def test_bands_open_from_low_to_high(make: Make) -> None:
    assert [open_bands(share, 4, (0.1, 0.5)) for share in (0, 0.09, 0.1, 0.3, 0.49, 0.5, 1)] == [0, 0, 1, 2, 3, 4, 4]
    assert open_bands(0.0, 4, (0.0, 0.0)) == 4
    model = make(max_num_iterations=100).pipeline.model
    seen = []
    for step in (0, 20, 60):
        model.update_to_step(step)
        seen.append(model.field.geometry.bands)
    assert seen == [0, 1, None]


def test_a_run_is_a_surface_in_the_data_sets_units(make: Make) -> None:
    trainer = make(parser=NerfstudioDataParserConfig(eval_mode="filename"), max_num_iterations=2)
    trainer.train()
    surface = load_surface(trainer.base_dir / "config.yml")
    outputs = trainer.pipeline.datamanager.train_dataparser_outputs
    world = torch.rand(50, 3) * 2 - 1
    scene_points = outputs.dataparser_scale * (
        world @ outputs.dataparser_transform[:, :3].T + outputs.dataparser_transform[:, 3]
    )
    box = ((world - surface.center) * surface.scale).float()
    field = trainer.pipeline.model.eval().field
    assert torch.allclose(surface.field(box), field.sdf(scene_points), atol=1e-5)
    assert surface.color is not None and surface.color(box).shape == (50, 3)
    assert surface.scale == pytest.approx(outputs.dataparser_scale, rel=1e-5)


def test_what_has_no_colmap_axes_refuses_them_and_a_foreign_checkpoint_is_said(make: Make) -> None:
    trainer = make(max_num_iterations=1)
    trainer.train()
    description = trainer.base_dir / "run.json"
    with pytest.raises(ValueError, match="COLMAP has placed; leave --frame out"):  # of blender-data
        load_surface(trainer.base_dir, frame="colmap")
    whole, parsers = description.read_text(), "nerfstudio.data.dataparsers"
    blender = f"{parsers}.blender_dataparser.Blender"
    assert blender in whole
    for other, axes in (
        (f"{parsers}.colmap_dataparser.ColmapDataParser", "in COLMAP's axes"),
        (f"{parsers}.nerfstudio_dataparser.Nerfstudio", "names no applied_transform"),
    ):
        description.write_text(whole.replace(blender, other))
        assert load_surface(trainer.base_dir).axes == "" and axes in load_surface(trainer.base_dir, frame="colmap").axes
    # As another run leaves the folder that has begun over this one and saved nothing yet.
    description.write_text(whole.replace('"geo_feat_dim": 8', '"geo_feat_dim": 12'))
    assert description.read_text() != whole
    with pytest.raises(ValueError, match=r"last checkpoint .* is not of the run that its run\.json describes"):
        load_surface(trainer.base_dir)


def test_a_running_start_begins_with_the_fitted_surface(make: Make, tmp_path: Path) -> None:
    fitted = SignedDistanceField("sasnet", SMALL, torch.tensor([0.1, 0.0, -0.1]), scale=0.4)
    fitted.save(tmp_path / "field.pt")
    parser = NerfstudioDataParserConfig(eval_mode="filename")
    # Another size in the configuration: the file's network takes its place.
    trainer = make(
        parser=parser,
        pipeline__model__sdf_field__init_field=tmp_path / "field.pt",
        pipeline__model__sdf_field__sasnet__hidden_widths=(64, 64),
    )
    outputs = trainer.pipeline.datamanager.train_dataparser_outputs
    world = torch.rand(50, 3) * 2 - 1
    scene_points = outputs.dataparser_scale * (
        world @ outputs.dataparser_transform[:, :3].T + outputs.dataparser_transform[:, 3]
    )
    model = trainer.pipeline.model
    expected = fitted((world - fitted.center.float()) * 0.4) / 0.4 * outputs.dataparser_scale
    assert torch.allclose(model.field.sdf(scene_points), expected, atol=1e-4)
    model.update_to_step(0)
    assert model.field.geometry.bands is None  # nothing of the start is hidden
    assert float(model.field.deviation_network.get_variance()) == pytest.approx(math.exp(5), rel=1e-4)
    trainer.train()
    (tmp_path / "field.pt").unlink()
    surface = load_surface(trainer.base_dir)  # the run stands on its own
    box = ((world - surface.center) * surface.scale).float()
    assert torch.allclose(surface.field(box), model.eval().field.sdf(scene_points), atol=1e-5)


def test_a_missing_start_is_one_sentence(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no field at"):
        make(pipeline__model__sdf_field__init_field=tmp_path / "nothing.pt")


def test_depth_prior_is_free_in_scale_and_shift_of_each_picture() -> None:
    depth = torch.rand(120) + 1
    picture = torch.arange(120) % 3
    prior = depth * torch.tensor([2.0, 0.1, 30.0])[picture] + torch.tensor([5.0, 0.0, -2.0])[picture]
    everywhere = torch.ones(120, dtype=torch.bool)
    assert scale_shift_depth_loss(depth, prior, picture, everywhere) < 1e-8
    assert scale_shift_depth_loss(depth, prior, torch.zeros_like(picture), everywhere) > 0.01
    wrong = prior.clone()
    wrong[:6] = 100
    assert scale_shift_depth_loss(depth, wrong, picture, everywhere) > 0.01
    assert scale_shift_depth_loss(depth, wrong, picture, torch.arange(120) >= 6) < 1e-8
    few = torch.arange(120) < 45  # 15 rays of each picture: they would fit any surface
    assert scale_shift_depth_loss(depth, wrong, picture, few) == 0
    assert scale_shift_depth_loss(depth, prior, picture, ~everywhere) == 0


def test_other_picture_losses_by_hand() -> None:
    valid = torch.tensor([True, True, False])
    measured = torch.tensor([1.0, 2.0, 9.0])
    assert metric_depth_loss(torch.tensor([1.5, 2.0, 0.0]), measured, valid) == 0.25
    normals = torch.tensor([[0.0, 0, 2], [1, 0, 0], [0, 1, 0]])
    prior = torch.tensor([[0.0, 0, 1], [0, 1, 0], [0, -1, 0]])
    assert normal_prior_loss(normals, prior, valid) == pytest.approx(1.5)  # (0 + (2 + 1)) / 2
    assert opacity_loss(torch.tensor([0.5]), torch.tensor([1.0])) == pytest.approx(math.log(2))


@pytest.mark.parametrize("method", list(METHODS))
def test_depths_are_those_of_the_surface(method: str, make: Make) -> None:
    model = make(method).pipeline.model.eval()
    with torch.no_grad():
        model.field.deviation_network.variance.fill_(0.5)  # sharp
    origins = torch.tensor([[0.05 * i - 0.2, 0.1, 2.0] for i in range(9)])
    direction = torch.tensor([[0.0, 0.0, -1.0]]).expand(9, 3)
    bundle = RayBundle(
        origins, direction, torch.ones(9, 1), torch.zeros(9, 1, dtype=torch.long),
        metadata={"directions_norm": torch.ones(9, 1)},
    )  # fmt: skip
    depth = model(bundle)["depth"][:, 0]
    distance = model.field.sdf(origins + depth[:, None] * direction)
    # Half an interval, 0.0013 and 0.045, when depths were those of the middles of nerfstudio's intervals.
    assert distance.abs().mean() < {"neus": 2e-4, "neus-facto": 0.02}[method]


def test_proposals_are_compared_with_the_intervals_that_opacities_are_of(make: Make) -> None:
    """Their middles, weighted, are the depth of the surface, and one joins the next: they are a histogram's."""
    model = make("neus-facto").pipeline.model.train()
    with torch.no_grad():
        model.field.deviation_network.variance.fill_(0.5)
    origins = torch.tensor([[0.0, 0.0, 2.0]]).expand(64, 3)
    direction = torch.tensor([[0.0, 0.0, -1.0]]).expand(64, 3)
    bundle = RayBundle(
        origins, direction, torch.ones(64, 1), torch.zeros(64, 1, dtype=torch.long),
        metadata={"directions_norm": torch.ones(64, 1)},
    )  # fmt: skip
    with torch.no_grad():
        bundle = model.collider(bundle)
        found = model.sample_and_forward_field(bundle)
    samples, weights = found["ray_samples_list"][-1], found["weights_list"][-1][..., 0]
    weights = weights / weights.sum(dim=1, keepdim=True)
    starts, ends = samples.spacing_starts[..., 0], samples.spacing_ends[..., 0]
    assert torch.equal(starts[:, 1:], ends[:, :-1]) and (ends > starts).all()
    depth = bundle.nears + (starts + ends) / 2 * (bundle.fars - bundle.nears)
    depth = (weights * depth).sum(dim=1).mean()
    assert model.field.sdf(torch.stack([torch.tensor(0.0), torch.tensor(0.0), 2.0 - depth])[None]).abs() < 0.01


def test_rays_that_miss_the_box_have_no_eikonal_term(make: Make) -> None:
    model = make().pipeline.model.train()
    origins = torch.tensor([[0.0, 0.0, 2.0], [30.0, 30.0, 2.0]])
    direction = torch.tensor([[0.0, 0.0, -1.0]]).expand(2, 3)
    bundle = RayBundle(
        origins, direction, torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.long),
        metadata={"directions_norm": torch.ones(2, 1)},
    )  # fmt: skip
    with torch.no_grad():  # slopes that are not 1
        model.field.geometry.units.mul_(3)
        torch.nn.init.normal_(model.field.geometry.network.output.weight)
    lengths = model(bundle)["eik_grad"].norm(dim=-1)
    assert (lengths[1] == 1).all() and ((lengths[0] - 1).abs() > 0.1).any()
