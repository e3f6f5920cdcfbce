"""The method as nerfstudio sees it: registration, training, checkpoints, resumption, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")

from sasnet_ns.methods import sasnet_sdf
from sasnet_ns.models.optimization import ROLES, RecipeSchedulerConfig, RoleOptimizerConfig
from sasnet_ns.networks import SignedDistanceField

Make = Callable[..., Any]


def test_the_entry_point_names_this_method() -> None:
    from importlib.metadata import entry_points

    (point,) = (p for p in entry_points(group="nerfstudio.method_configs") if p.name == "sasnet-sdf")
    assert point.load() is sasnet_sdf
    assert sasnet_sdf.config.method_name == "sasnet-sdf"


def test_defaults_suit_a_laptop() -> None:
    config = sasnet_sdf.config
    assert config.viewer.websocket_host == "127.0.0.1"
    assert config.is_viewer_enabled() and config.is_tensorboard_enabled()
    assert config.machine.device_type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert set(config.optimizers) == set(ROLES)


def test_every_option_is_explained() -> None:
    """Each field of our configs, however deep, has help text of its own for --help."""
    import dataclasses

    from tyro._docstrings import get_field_docstring

    from sasnet_ns.data.shape_datamanager import ShapeDataManagerConfig
    from sasnet_ns.models.sdf_model import SASNetSDFModelConfig
    from sasnet_ns.models.sdf_pipeline import SASNetSDFPipelineConfig
    from sasnet_ns.models.sdf_trainer import SASNetTrainerConfig
    from sasnet_ns.networks import SASNetConfig

    silent = []
    for cls in (
        ShapeDataManagerConfig,
        SASNetSDFModelConfig,
        SASNetSDFPipelineConfig,
        SASNetTrainerConfig,
        SASNetConfig,
        RoleOptimizerConfig,
        RecipeSchedulerConfig,
    ):
        for field in dataclasses.fields(cls):
            if not get_field_docstring(cls, field.name, ()):
                silent.append(f"{cls.__name__}.{field.name}")
    assert not silent


@pytest.mark.parametrize("optimizer", ["muon", "adam", "adan"])
def test_nerfstudio_has_the_recipes_optimizers_and_rates(optimizer) -> None:
    from sasnet_ns.models.optimization import optimizer_configs
    from sasnet_ns.networks import build_network
    from sasnet_ns.training.recipe import Recipe, build_optimizers

    recipe = Recipe(optimizer=optimizer, learning_rate=1e-3, hidden_learning_rate=2e-4, mask_learning_rate=3e-3)
    network, configs = build_network("sasnet", 3, 1), optimizer_configs(recipe)
    for role, wanted in build_optimizers(network, recipe).items():
        built = configs[role]["optimizer"].setup(network.parameter_roles()[role])
        assert type(built) is type(wanted), role
        for name in ("lr", "eps"):
            assert built.param_groups[0].get(name) == wanted.param_groups[0].get(name), (role, name)


def test_runs_are_named_after_the_shape(tmp_path: Path) -> None:
    import copy

    for data, name in ((Path("armadillo"), "armadillo"), (Path("Thai-Statue"), "thai_statue")):
        config = copy.deepcopy(sasnet_sdf.config)
        config.pipeline.datamanager.data = data
        config.set_experiment_name()
        assert config.experiment_name == name
    (tmp_path / "cow.obj").write_text("")
    config = copy.deepcopy(sasnet_sdf.config)
    config.pipeline.datamanager.data = tmp_path / "cow.obj"
    config.set_experiment_name()
    assert config.experiment_name == "cow"


def test_training_lowers_the_loss_and_leaves_a_safe_checkpoint(make_trainer: Make) -> None:
    # 150 steps: the first 50 are the warm-up, and sines start slower than the grid that this was written for.
    trainer = make_trainer(max_num_iterations=150, steps_per_geometry_eval=150)
    first = float(trainer.pipeline.get_train_loss_dict(0)[1]["sdf"].detach())
    trainer.train()
    last = float(trainer.pipeline.get_train_loss_dict(0)[1]["sdf"].detach())
    assert last < first / 5**0.5  # a fifth in the square, as before the loss became an absolute error
    (path,) = trainer.checkpoint_dir.iterdir()
    assert path.name == "step-000000149.ckpt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert state["step"] == 149
    assert float(state["pipeline"]["_model.field.scale"]) == pytest.approx(0.9 / 4)
    assert state["pipeline"]["_model.field.center"][0] == pytest.approx(10.0, abs=1e-5)
    field = SignedDistanceField.load(trainer.base_dir / "field.pt")
    points = torch.rand(100, 3) - 0.5
    assert torch.equal(field(points), trainer.pipeline.model.field(points))
    assert 0 < trainer._last_report["iou"] <= 1
    assert not list(trainer.base_dir.glob(".partial-*"))


def test_event_file_has_the_geometry(make_trainer: Make) -> None:
    from nerfstudio.utils import writer
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer()
    trainer.train()
    for event_writer in writer.EVENT_WRITERS:
        event_writer.tb_writer.flush()
    events = EventAccumulator(str(trainer.base_dir)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"Geometry/iou", "Geometry/surface_error", "Geometry/loss", "Train Loss"} <= tags
    assert [event.step for event in events.Scalars("Geometry/iou")] == [10, 20]


def _weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.pipeline.model.field.state_dict().items()}


def test_resuming_equals_never_stopping(make_trainer: Make) -> None:
    whole = make_trainer(timestamp="whole", max_num_iterations=12)
    whole.train()
    expected = _weights(whole)

    first = make_trainer(timestamp="half", max_num_iterations=12)
    first.train_iteration = _stopping_after(first, 5)
    first.train()
    assert first.completed_steps == 5
    second = make_trainer(timestamp="rest", max_num_iterations=12, load_dir=first.checkpoint_dir)
    second.train()
    assert second.completed_steps == 12
    for name, value in _weights(second).items():
        assert torch.equal(value, expected[name]), name


def _stopping_after(trainer: Any, steps: int) -> Callable[[int], Any]:
    original = trainer.train_iteration

    def iteration(step: int) -> Any:
        result = original(step)
        if step + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)  # what Ctrl-C sends
        return result

    return iteration


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(
    make_trainer: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer()
    trainer.train_iteration = _stopping_after(trainer, 5)
    previous = signal.getsignal(signal.SIGINT)
    trainer.train()
    assert signal.getsignal(signal.SIGINT) is previous
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000004.ckpt"]
    printed = capsys.readouterr().out
    assert "--load-dir" in printed and "checkpoint kept" in printed


def test_resuming_a_finished_run_says_so(make_trainer: Make) -> None:
    done = make_trainer(timestamp="done", max_num_iterations=3)
    done.train()
    again = make_trainer(timestamp="again", max_num_iterations=3, load_dir=done.checkpoint_dir)
    with pytest.raises(SystemExit, match="--max-num-iterations"):
        again.train()
    assert [path.name for path in done.checkpoint_dir.iterdir()] == ["step-000000002.ckpt"]


def test_an_empty_load_dir_is_one_sentence(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(load_dir=tmp_path, setup=False)
    with pytest.raises(SystemExit, match="no checkpoint"):
        trainer.setup()


def test_bad_data_ends_the_program_and_leaves_no_run(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(setup=False, pipeline__datamanager__data=Path("nope"))
    with pytest.raises(SystemExit, match=r"^sasnet-sdf: 'nope' is neither"):
        trainer.setup()
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("config.yml"))


@pytest.mark.parametrize("network", ["siren", "finer", "ngp"])
def test_the_networks_to_compare_with_train_too(make_trainer: Make, network: str) -> None:
    trainer = make_trainer(pipeline__model__network=network, max_num_iterations=3)
    trainer.train()
    assert set(trainer.optimizers.parameters) <= set(ROLES)
    assert trainer.completed_steps == 3


def test_learning_rate_schedules_span_the_run(make_trainer: Make) -> None:
    trainer = make_trainer(max_num_iterations=200)
    rates = []
    for _ in range(200):
        rates.append(trainer.optimizers.schedulers["masks"].get_last_lr()[0])
        trainer.optimizers.optimizers["masks"].step()
        trainer.optimizers.schedulers["masks"].step()
    peak = sasnet_sdf.config.optimizers["masks"]["optimizer"].lr
    assert rates[0] == pytest.approx(peak / 50)
    assert max(rates) == pytest.approx(peak)
    assert rates[-1] < 0.01 * peak
    state = trainer.optimizers.schedulers["masks"].state_dict()
    assert all(type(value) is float for value in state["_last_lr"])


@pytest.mark.slow
def test_importing_the_method_stays_light() -> None:
    """Everyone who has the package installed pays for this import at every ns-train."""
    code = (
        "import sys, nerfstudio.engine.trainer, nerfstudio.plugins.types; before = set(sys.modules); "
        "import sasnet_ns.methods; new = set(sys.modules) - before; "
        "print([m for m in ('open3d', 'trimesh', 'igl', 'skimage', 'embreex') if m in new])"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"
