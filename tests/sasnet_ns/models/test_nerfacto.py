"""sasnet-nerfacto on a tiny rendered sphere: wiring, schedule, losses, resumption, evaluation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")
pytest.importorskip("embreex")

from sasnet_ns.methods import sasnet_nerfacto  # isort: skip

from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from sasnet_ns.data.photos import PhotoDataManagerConfig
from sasnet_ns.models.nerfacto import SASNetNerfactoModelConfig, default_sasnet
from sasnet_ns.models.photo_trainer import PhotoTrainerConfig
from sasnet_ns.models.surface_model import surface_field_config
from sasnet_ns.networks import SASNetConfig

SASNET = SASNetConfig(
    embedding_width=32, hidden_widths=(24, 24), groups=(4, 4), bands=2, band_limit=12, low_range=4, grid_levels=3,
    grid_log2_entries=8, decoder_width=8,
)  # fmt: skip
PROPOSAL = {"network": "ngp", "levels": 3, "log2_entries": 8, "grid_max": 32, "width": 8, "hidden_layers": 1}
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, sphere_file: Path) -> Path:
    """Eight small views of a sphere of radius 1 around the origin."""
    from sdf_tools.io.loading import load
    from sdf_tools.pictures.scene_files import SceneSettings, write_scene

    folder = tmp_path_factory.mktemp("scenes") / "ball"
    settings = SceneSettings(
        views=6, val_views=2, test_views=2, size=(20, 20), supersampling=1, occlusion_rays=0, sparse_points=0
    )
    write_scene(load(sphere_file), folder, settings)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def make(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Builds a ready trainer: a small network, few rays, no viewer, downloads refused."""
    from nerfstudio.utils import writer

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)

    def build(parser: Any = None, **changes: Any) -> Any:
        config = copy.deepcopy(sasnet_nerfacto.config)
        config.output_dir, config.timestamp, config.vis = tmp_path / "outputs", "run", "tensorboard"
        config.max_num_iterations, config.steps_per_report = 6, 3
        config.machine.device_type = "cpu"
        config.viewer.quit_on_train_completion = True
        data, model = config.pipeline.datamanager, config.pipeline.model
        data.data, data.dataparser = scene, parser or BlenderDataParserConfig()
        data.train_num_rays_per_batch = data.eval_num_rays_per_batch = 48
        model.sasnet, model.proposal_net_args_list = copy.copy(SASNET), [PROPOSAL, PROPOSAL]
        model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (12, 8), 6
        for name, value in changes.items():
            target: Any = config
            *path, last = name.split("__")
            for part in path:
                target = target[part] if isinstance(target, dict) else getattr(target, part)
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


def test_a_random_background_needs_transparency(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"paints it white.*--alpha-color None"):
        make(pipeline__model__background_color="random")
    assert not (tmp_path / "outputs").exists()
    trainer = make(BlenderDataParserConfig(alpha_color=None), pipeline__model__background_color="random")
    _, batch = trainer.pipeline.datamanager.next_train(0)
    assert batch["image"].shape[-1] == 4 and float(batch["image"][:, 3].min()) == 0.0


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    state = trainer.pipeline.model.state_dict()
    return {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}


def test_the_entry_point_and_its_options() -> None:
    from importlib.metadata import entry_points

    from tyro._docstrings import get_field_docstring

    (point,) = (p for p in entry_points(group="nerfstudio.method_configs") if p.name == "sasnet-nerfacto")
    assert point.load() is sasnet_nerfacto and sasnet_nerfacto.config.method_name == "sasnet-nerfacto"
    silent = [
        f"{cls.__name__}.{item.name}"
        for cls in (SASNetNerfactoModelConfig, PhotoDataManagerConfig, PhotoTrainerConfig)
        for item in dataclasses.fields(cls)
        if not get_field_docstring(cls, item.name, ())
    ]
    # nerfstudio leaves two of its own without.
    assert [name for name in silent if name.split(".")[1] in vars(eval(name.split(".")[0]))["__annotations__"]] == []


def test_training_resumes_exactly(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Six steps equal three, a checkpoint, and three more: network, proposals, optimisers, schedules, pixels."""
    options = {
        "pipeline__model__proposal_warmup": 1,
        "pipeline__model__bands_open": (0.0, 0.8),
        "pipeline__model__average_init_density": 2.0,  # so that proposals have something to learn from the start
    }
    whole = make(timestamp="whole", **options)
    before = weights(whole)
    whole.train()
    expected = weights(whole)
    assert all(torch.isfinite(value).all() for value in expected.values())
    moved = {name.split(".")[0] for name, value in expected.items() if not torch.equal(value, before[name])}
    assert {"field", "proposal_networks"} <= moved
    assert "PSNR" in capsys.readouterr().out

    first = make(timestamp="first", **options)
    original = first.train_iteration

    def iteration(step: int) -> Any:
        first.stop_training = first._interrupted = step == 2  # what Ctrl-C sets
        return original(step)

    first.train_iteration = iteration
    first.train()
    (path,) = first.checkpoint_dir.iterdir()
    assert path.name == "step-000000002.ckpt"
    assert torch.load(path, weights_only=True)["step"] == 2
    rest = make(timestamp="rest", load_dir=first.checkpoint_dir, **options)
    rest.train()
    assert rest.completed_steps == 6
    for name, value in weights(rest).items():
        assert torch.equal(value, expected[name]), name


def test_a_report_tells_the_metrics_of_its_own_step(make: Make) -> None:
    """Also that of the first step of a process: the first of all, and the first of a run that goes on."""
    trainer, psnr = make(timestamp="first", max_num_iterations=1, steps_per_report=1), []
    original = trainer.pipeline.get_train_loss_dict

    def noted(step: int) -> Any:
        result = original(step)
        psnr.append(float(result[2]["psnr"]))
        return result

    trainer.pipeline.get_train_loss_dict = noted
    trainer.train()
    assert trainer._last_report["train_psnr"] == pytest.approx(psnr[0])
    rest = make(timestamp="rest", max_num_iterations=3, steps_per_report=2, load_dir=trainer.checkpoint_dir)
    rest.train()
    assert [row["step"] for row in rest.history if "train_psnr" in row] == [1, 2, 3]


def test_the_loss_falls(make: Make) -> None:
    rates = {f"optimizers__{group}__optimizer__lr": 2e-2 for group in ("backbone", "hidden", "masks", "fields")}
    warmups = {f"optimizers__{group}__scheduler__warmup_steps": 5 for group in sasnet_nerfacto.config.optimizers}
    trainer = make(
        max_num_iterations=60, steps_per_report=0, pipeline__model__average_init_density=1.0, **rates, **warmups
    )
    first = float(trainer.pipeline.get_train_loss_dict(999)[1]["rgb_loss"].detach())
    trainer.train()
    last = float(trainer.pipeline.get_train_loss_dict(999)[1]["rgb_loss"].detach())
    # Sixty steps of 48 rays find out what colour the background has, no more; the photographs are in the slow test.
    assert last < 0.9 * first


def test_bands_open_during_training(make: Make) -> None:
    trainer = make(max_num_iterations=10)
    model = trainer.pipeline.model
    opened = []
    for step in (0, 2, 3, 9):
        model.update_to_step(step)
        opened.append(model.field.trunk.bands)
    assert opened == [1, 1, 2, 2]


def test_losses(make: Make) -> None:
    trainer = make(pipeline__model__predict_normals=True, pipeline__model__mask_sparsity_loss_mult=0.5)
    pipeline = trainer.pipeline
    pipeline.train()
    _, losses, _ = pipeline.get_train_loss_dict(0)
    assert {"rgb_loss", "interlevel_loss", "distortion_loss", "orientation_loss", "pred_normal_loss"} <= set(losses)
    # Masks start at a half: one band and two layers of four groups.
    assert float(losses["mask_sparsity"]) == pytest.approx(0.5 * 0.5 * 9, rel=0.2)
    sum(losses.values()).backward()
    decoder = pipeline.model.field.trunk.network.mask_generator.decoder_out.weight
    assert decoder.grad is not None and decoder.grad.abs().sum() > 0
    pipeline.model.config.mask_sparsity_loss_mult = 0.0
    assert "mask_sparsity" not in pipeline.get_train_loss_dict(1)[1]


def test_pictures_and_metrics(make: Make) -> None:
    trainer = make(pipeline__model__predict_normals=True)
    pipeline = trainer.pipeline
    metrics = pipeline.get_average_eval_image_metrics()
    assert {"psnr", "ssim"} <= set(metrics) and metrics["psnr"] > 3
    camera, _ = next(iter(pipeline.datamanager.fixed_indices_eval_dataloader))
    outputs = pipeline.model.get_outputs_for_camera(camera)
    assert {name: value.shape[-1] for name, value in outputs.items() if name in ("rgb", "depth", "normals")} == {
        "rgb": 3, "depth": 1, "normals": 3,
    }  # fmt: skip
    rgba = pipeline.model.get_rgba_image(outputs)
    assert torch.equal(rgba[..., 3:], outputs["accumulation"])
    state = pipeline.model.state_dict()
    assert not [name for name in state if "lpips" in name]


def test_a_bounded_scene_is_empty_outside_its_box(make: Make) -> None:
    trainer = make(
        parser=NerfstudioDataParserConfig(auto_scale_poses=False, center_method="none"),
        pipeline__model__disable_scene_contraction=True,
        pipeline__model__background_color="random",
    )
    model = trainer.pipeline.model
    assert float(model.field.density_fn(torch.tensor([[1.2, 0.0, 0.0]]))) == 0
    _, batch = trainer.pipeline.datamanager.next_train(0)
    assert batch["image"].shape[-1] == 4
    bundle, _ = trainer.pipeline.datamanager.next_train(0)
    samples = model(bundle)["ray_samples_list"][-1].frustums.get_positions()
    hit = bundle.fars[:, 0] > bundle.nears[:, 0] + 1e-3
    assert samples[hit].abs().max() < 1.01
    trainer.train()


def test_a_step_draws_its_own_pixels(make: Make) -> None:
    """In training a step's pixels depend on its number alone; exporters, who ask for step 0 again, get new ones."""
    manager = make().pipeline.datamanager
    first, again, other = (manager.next_train(step)[1]["indices"] for step in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    manager.test_mode = "test"
    first, again = (manager.next_train(0)[1]["indices"] for _ in range(2))
    assert not torch.equal(first, again)


def test_a_finished_run_is_a_density_in_world_coordinates(make: Make) -> None:
    from sasnet_ns.models.density_surface import density_surface
    from sasnet_ns.models.loading import load_surface

    trainer = make(max_num_iterations=2)
    trainer.train()
    model = trainer.pipeline.model.eval()
    world_to_scene = torch.tensor([[0.0, -2, 0, 1], [2, 0, 0, 0], [0, 0, 2, -1]], dtype=torch.float64)
    surface = density_surface(model.config, model.state_dict(), world_to_scene)
    world = torch.rand(30, 3, dtype=torch.float64) - 0.5
    scene = (world @ world_to_scene[:, :3].T + world_to_scene[:, 3]).float()
    box = ((world - surface.center) * surface.scale).float()
    assert torch.allclose(surface.field(box), model.field.density_fn(scene)[:, 0], rtol=1e-3)
    # The scene box [-1.5, 1.5]^3 of blender-data.
    assert torch.allclose(surface.bounds, torch.tensor([[-1.5] * 3, [1.5] * 3]))
    assert surface.inside == "above" and surface.color is not None
    colors = surface.color(box)
    assert colors.shape == (30, 3) and (colors > 0).all() and (colors < 1).all()
    # The same from the run's folder, where blender-data has not moved the scene.
    loaded = load_surface(trainer.base_dir / "config.yml")
    box = ((world - loaded.center) * loaded.scale).float()
    assert torch.allclose(loaded.field(box), model.field.density_fn(world.float())[:, 0], rtol=1e-3)
    assert loaded.inside == "above" and loaded.level > 0 and loaded.color is not None


@pytest.mark.parametrize("network", ["siren", "ngp"])
def test_other_networks_take_the_fields_place(make: Make, network: str) -> None:
    options = {"siren": {"width": 16}, "ngp": {"levels": 3, "log2_entries": 8}}[network]
    trainer = make(max_num_iterations=2, pipeline__model__network=network, pipeline__model__network_options=options)
    trainer.train()
    assert trainer.completed_steps == 2


def test_missing_data_is_one_sentence(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no data at"):
        make(pipeline__datamanager__data=tmp_path / "nowhere")


@pytest.mark.parametrize("options", [default_sasnet(), surface_field_config().sasnet])
def test_default_fields_are_sasnets(options: SASNetConfig) -> None:
    """Half of the parameters in the sine layers, two of those masked, and no band without a neuron."""
    network = dataclasses.replace(options, out_dim=16).setup()
    masks = sum(tensor.numel() for name, tensor in network.named_parameters() if name.startswith("mask_generator."))
    assert masks <= network.parameter_count() / 2
    assert len(network.mask_counts) == 3 and all(network.mask_counts)
    assert len(network.band_sizes) == 5 and all(network.band_sizes)
