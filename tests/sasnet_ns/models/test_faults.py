"""Runs that are disturbed: signals, full disks, other processes, other shapes, learning rates that are too high."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")

from sasnet_ns.models.loading import newest_step
from sasnet_ns.models.run_description import WITHOUT_EFFECT, read_description
from sasnet_ns.models.run_lock import claim, release
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.training.options import differences, plain_options

ROOT = Path(__file__).resolve().parents[3]


def after(trainer: Any, steps: int, action: Any) -> None:
    original = trainer.train_iteration

    def iteration(step: int) -> Any:
        result = original(step)
        if step + 1 == steps:
            action()
        return result

    trainer.train_iteration = iteration


def test_sigterm_keeps_a_checkpoint_and_field_of_the_same_step(make_trainer: Any) -> None:
    trainer = make_trainer()
    before = signal.getsignal(signal.SIGTERM)
    after(trainer, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as end:
        trainer.train()
    assert end.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    assert newest_step(trainer.checkpoint_dir) == 4
    assert SignedDistanceField.load_with_step(trainer.base_dir / "field.pt")[1] == 5
    assert not (trainer.base_dir / ".lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_ends_the_run(make_trainer: Any, number: int) -> None:
    trainer = make_trainer()
    trainer._init_viewer_state = lambda: os.kill(os.getpid(), number)  # where nerfstudio draws the cameras
    with pytest.raises(SystemExit, match="Stopped before the first step"):
        trainer.train()
    assert trainer.completed_steps == 0 and newest_step(trainer.checkpoint_dir) == -1


def test_steps_per_log_0_writes_no_log(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.utils import writer

    written: list[Any] = []
    trainer = make_trainer(max_num_iterations=3, steps_per_geometry_eval=0, logging__steps_per_log=0)
    monkeypatch.setattr(writer, "put_scalar", lambda name, scalar, step: written.append(name))
    trainer.train()
    assert trainer.completed_steps == 3
    assert not [name for name in written if str(name).startswith(("learning_rate", "Train Loss", "GPU"))]


def test_a_checkpoint_of_other_types_is_one_sentence(make_trainer: Any, tmp_path: Path) -> None:
    first = make_trainer(timestamp="first", max_num_iterations=2)
    first.train()
    state = torch.load(first.checkpoint_dir / "step-000000001.ckpt", weights_only=True)
    path = tmp_path / "other.ckpt"
    again = make_trainer(setup=False, timestamp="again", load_checkpoint=path)
    again.pipeline, again.optimizers = first.pipeline, first.optimizers
    for key, value in (
        ("step", "x"), ("step", -5), ("step", torch.tensor(1)), ("pipeline", None), ("pipeline", {5: 5}),
        ("optimizers", None), ("optimizers", {"hidden": 3}),
    ):  # fmt: skip
        torch.save({**state, key: value}, path)
        with pytest.raises(SystemExit, match=r"is not a checkpoint of a run|does not fit this run's options") as end:
            again._load_checkpoint()
        assert "\n" not in str(end.value.code)


def test_a_folder_of_checkpoints_belongs_to_load_dir(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(setup=False, load_checkpoint=tmp_path)
    with pytest.raises(SystemExit, match="is a folder; give it by --load-dir"):
        trainer.setup()


def test_a_full_disk_keeps_the_last_checkpoint(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(max_num_iterations=8, steps_per_save=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    after(trainer, 5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard)))
    try:
        with pytest.raises(SystemExit) as end:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    message = str(end.value.code)
    assert "cannot be saved" in message and "file too large" in message.lower() and "\n" not in message
    step = newest_step(trainer.checkpoint_dir)
    assert 0 < step < 7 and f"step {step + 1} is kept" in message
    assert not list(trainer.base_dir.rglob(".partial-*"))
    torch.load(trainer.checkpoint_dir / f"step-{step:09d}.ckpt", weights_only=True)


def test_a_second_process_in_a_folder_is_refused_and_a_dead_one_is_forgotten(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sasnet_ns.models.run_lock import claim; "
        "claim(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"process {other.pid} on .* is training in"):
            claim(tmp_path)
    finally:
        other.kill()
        other.wait()
    claim(tmp_path)
    assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    release(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_a_lock_given_back_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner removes its file after this process has opened it: the lock has to be on the file that is there."""
    import fcntl

    lock, original, calls = tmp_path / ".lock", fcntl.lockf, []

    def late(file: Any, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            lock.unlink()
        original(file, how)

    monkeypatch.setattr(fcntl, "lockf", late)
    claim(tmp_path)
    code = "import sys; from pathlib import Path; from sasnet_ns.models.run_lock import claim; claim(Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env=environment)
    release(tmp_path)
    assert len(calls) == 2 and f"process {os.getpid()} on" in other.stderr and not lock.exists()


def test_what_dead_processes_left_is_swept(make_trainer: Any, tmp_path: Path) -> None:
    from sdf_tools.io import writing

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = tmp_path / "outputs" / "sphere" / "sasnet-sdf" / "run"
    folder.mkdir(parents=True)
    machine = writing._machine()
    dead = folder / f".partial-{gone.pid}@{machine}-0123abcd-step-000000009.ckpt"
    alive = folder / f".partial-{os.getppid()}@{machine}-0123abcd-step-000000009.ckpt"
    elsewhere = folder / f".partial-{gone.pid}@other.{machine}-0123abcd-field.pt"
    for path in (dead, alive, elsewhere):
        path.write_bytes(b"half")
    make_trainer(setup=False)
    assert not dead.exists() and alive.exists() and elsewhere.exists()


def test_another_shape_is_refused_with_and_without_a_description(make_trainer: Any, tmp_path: Path) -> None:
    from sdf_tools.geometry import Mesh
    from sdf_tools.io.loading import load
    from sdf_tools.io.writing import save_mesh

    first = make_trainer(timestamp="first", max_num_iterations=2)
    first.train()
    mesh = load(first.config.pipeline.datamanager.data)
    assert isinstance(mesh, Mesh)
    save_mesh(Mesh(mesh.vertices * 2, mesh.faces), tmp_path / "larger.ply")
    save_mesh(Mesh(mesh.vertices, mesh.faces.flip(0)), tmp_path / "same_box.ply")
    for name, words in (("larger", "another shape"), ("same_box", "has other contents")):
        data = tmp_path / f"{name}.ply"
        other = make_trainer(
            setup=False, timestamp=name, load_dir=first.checkpoint_dir, pipeline__datamanager__data=data
        )
        with pytest.raises(SystemExit, match=words):
            other.setup()


def test_run_json_describes_the_run_and_resuming_names_other_options(
    make_trainer: Any, sphere_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib

    first = make_trainer(timestamp="first", max_num_iterations=2)
    first.train()
    description = read_description(first.base_dir)
    assert description is not None
    assert description["method"] == "sasnet-sdf" and description["model"] == "SASNetSDFModelConfig"
    assert description["data"]["sha256"] == hashlib.sha256(sphere_file.read_bytes()).hexdigest()
    assert description["frame"]["scale"] == pytest.approx(0.9 / 4)
    assert description["threads"] == torch.get_num_threads() and description["versions"]["torch"] in torch.__version__
    assert description["options"]["pipeline"]["datamanager"]["pool_size"] == 20_000
    assert set(description) >= {"command", "seed", "platform", "git", "options_sha256"}
    changed = make_trainer(
        timestamp="second", max_num_iterations=4, load_dir=first.checkpoint_dir, pipeline__datamanager__pool_size=10_000
    )
    printed = capsys.readouterr().out
    assert "--pipeline.datamanager.pool-size: 20000 -> 10000" in printed and "max-num-iterations" not in printed
    changed.train()
    described = read_description(changed.base_dir)
    assert described is not None and described["resumed"]["step"] == 2
    before, now = {"a": {"b_c": 1}, "vis": 1}, {"a": {"b_c": 2}, "vis": 2}
    assert differences(before, now, ignored=WITHOUT_EFFECT) == ["--a.b-c: 1 -> 2"]


def test_a_checkpoint_of_another_network_is_one_sentence(make_trainer: Any) -> None:
    first = make_trainer(timestamp="first", max_num_iterations=2)
    first.train()
    other = make_trainer(
        setup=False, timestamp="o", load_dir=first.checkpoint_dir, pipeline__model__sasnet__hidden_widths=(32, 32)
    )
    with pytest.raises(SystemExit, match="does not fit this run's options") as end:
        other.setup()
    assert "\n" not in str(end.value.code)


def high_rates(trainer: Any, rate: float) -> None:
    for optimizer in trainer.optimizers.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = rate
    for scheduler in trainer.optimizers.schedulers.values():
        scheduler.base_lrs = [rate] * len(scheduler.base_lrs)


def test_a_learning_rate_of_1e4_ends_with_a_sentence(make_trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Rates of 1e4, 1e3 and 100 all run away: three looks, and it is over."""
    trainer = make_trainer(max_num_iterations=1000, steps_per_geometry_eval=0)
    high_rates(trainer, 1e4)
    with pytest.raises(SystemExit, match=r"training has diverged .*0\.01 of the learning rates.*no checkpoint yet"):
        trainer.train()
    assert trainer.completed_steps <= 200
    assert capsys.readouterr().out.count("back to the state of step 0") == 2


def test_not_a_number_is_taken_back_and_the_run_goes_on(make_trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(max_num_iterations=150, steps_per_geometry_eval=150)

    def poison() -> None:
        with torch.no_grad():
            next(iter(trainer.pipeline.model.field.network.parameters())).fill_(float("nan"))

    after(trainer, 60, poison)
    rates = {name: o.param_groups[0]["initial_lr"] for name, o in trainer.optimizers.optimizers.items()}
    trainer.train()
    assert "The loss is nan at step 100" in capsys.readouterr().out.replace("\n", " ")
    assert trainer._last_report["iou"] > 0.1
    state = trainer.pipeline.state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point())
    saved = torch.load(trainer.checkpoint_dir / "step-000000149.ckpt", weights_only=True)
    for name, scheduler in saved["schedulers"].items():  # a run that goes on from here stays slow
        assert scheduler["base_lrs"][0] == pytest.approx(0.1 * rates[name])


def test_a_field_without_the_shape_fails(make_trainer: Any) -> None:
    trainer = make_trainer(max_num_iterations=100, steps_per_geometry_eval=0)
    high_rates(trainer, 0.0)
    with torch.no_grad():
        for parameter in trainer.pipeline.model.field.network.parameters():
            parameter.zero_()
    with pytest.raises(SystemExit, match="does not show the shape"):
        trainer.train()


def test_an_exploding_gradient_makes_no_error_small() -> None:
    from sasnet_ns.data.shape_datamanager import GeometryProbe
    from sasnet_ns.models.sdf_pipeline import quick_metrics

    class Ball(torch.nn.Module):
        def __init__(self, steepness: float, radius: float) -> None:
            super().__init__()
            self.steepness, self.radius = steepness, radius

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return self.steepness * (points.norm(dim=-1) - self.radius)

    surface = torch.nn.functional.normalize(torch.randn(500, 3), dim=-1) * 0.4
    points = torch.rand(2000, 3) - 0.5
    probe = GeometryProbe(points, points.norm(dim=-1) < 0.4, surface)
    right: Any = Ball(1.0, 0.38)
    assert quick_metrics(right, probe)["surface_error"] == pytest.approx(0.02, rel=1e-3)
    wild: Any = lambda points: 1e6 * torch.sin(1e9 * points[..., 0]) + points[..., 1]  # noqa: E731
    assert quick_metrics(wild, probe)["surface_error"] > 0.5
    nothing: Any = Ball(float("nan"), 0.4)
    assert quick_metrics(nothing, probe)["surface_error"] == pytest.approx(3**0.5)


def test_same_seed_same_bits_with_one_and_with_two_threads(make_trainer: Any) -> None:
    """Also one thread shares the points out into parts, whose sums are added in the same order."""
    before = torch.get_num_threads()
    ends: list[dict[str, torch.Tensor]] = []
    try:
        for turn, threads in enumerate((1, 2, 1)):
            torch.set_num_threads(threads)
            trainer = make_trainer(timestamp=f"{turn}", max_num_iterations=12, steps_per_geometry_eval=0)
            trainer.train()
            ends.append({name: value.clone() for name, value in trainer.pipeline.model.field.state_dict().items()})
    finally:
        torch.set_num_threads(before)
    for end in ends[1:]:
        assert all(torch.equal(value, end[name]) for name, value in ends[0].items())


def test_description_is_plain_json(make_trainer: Any) -> None:
    trainer = make_trainer(max_num_iterations=1)
    text = (trainer.base_dir / "run.json").read_text()
    assert "!!" not in text and json.loads(text)["options"]["pipeline"]["model"]["network"] == "sasnet"


@pytest.mark.parametrize("by", ["load_dir", "load_checkpoint"])
def test_a_continuation_keeps_history_and_the_steps_of_a_budget(make_trainer: Any, by: str) -> None:
    first = make_trainer(timestamp="first", max_num_iterations=10, relative_model_dir=Path("a/b"))
    first.train()
    where = first.checkpoint_dir if by == "load_dir" else first.checkpoint_dir / "step-000000009.ckpt"
    second = make_trainer(timestamp="second", max_num_iterations=5000, seconds=60.0, **{by: where})
    assert second.total_steps == 10 and [row["step"] for row in second.history] == [10]


def test_options_of_runs_name_functions_without_their_address() -> None:
    assert plain_options({"f": differences, "c": Path}) == {
        "f": "sasnet_ns.training.options.differences",
        "c": "pathlib.Path",
    }


def test_evaluation_says_that_the_shape_has_changed(make_trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(max_num_iterations=2)
    state = dict(trainer.pipeline.state_dict())
    trainer.pipeline.load_pipeline(state, 1)
    assert "another place or size" not in capsys.readouterr().out
    state["_model.field.scale"] = 2 * state["_model.field.scale"]
    trainer.pipeline.load_pipeline(state, 1)
    assert "another place or size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("pipeline__datamanager__points_per_batch", 0, "points_per_batch must be 1 or more"),
        ("pipeline__datamanager__coarse_scales", (), "coarse_scales must hold at least one"),
        ("pipeline__datamanager__coarse_scales", (float("nan"),), "coarse_scales must be more than 0"),
        ("pipeline__datamanager__seed", -1, "seed must be from 0"),
        ("pipeline__datamanager__probe_points", -4, "probe_points must be 1 or more"),
        ("pipeline__datamanager__uniform_share", 1.5, "uniform_share must be from 0 to 1"),
        ("pipeline__model__sasnet__low_share", 2.0, "low_share"),
        ("pipeline__model__sasnet__frequency_seed", -1, "frequency_seed of network 'sasnet' must be 0 or more"),
        ("pipeline__model__sasnet__in_dim", 2, "have no effect here"),
        ("pipeline__model__network_options", {"width": 16}, "network_options \\(width\\) are for the other networks"),
        ("max_num_iterations", 0, "--max-num-iterations must be 1 or more"),
        ("steps_per_geometry_eval", -1, "--steps-per-geometry-eval must be 0 \\(never\\) or more"),
        ("steps_per_save", -1, "--steps-per-save must be 0 "),
        ("logging__steps_per_log", -1, "--logging.steps-per-log must be 0 "),
    ],
)
def test_options_that_nothing_can_be_trained_with_are_one_sentence(
    make_trainer: Any, option: str, value: Any, said: str
) -> None:
    with pytest.raises(SystemExit, match=said) as end:
        make_trainer(**{option: value})
    assert "\n" not in str(end.value.code)


def test_a_table_in_the_terminal_at_no_step_is_one_sentence(make_trainer: Any) -> None:
    with pytest.raises(SystemExit, match=r"every --logging\.steps-per-log steps; make that 1 or more"):
        make_trainer(logging__local_writer__enable=True, logging__steps_per_log=0)
    make_trainer(logging__local_writer__enable=True, logging__steps_per_log=1, max_num_iterations=2).train()


def test_rates_that_are_not_finite_are_one_sentence(make_trainer: Any) -> None:
    trainer = make_trainer(setup=False)
    trainer.config.optimizers["hidden"]["optimizer"].lr = float("nan")
    with pytest.raises(SystemExit, match="sasnet-sdf: "):
        trainer.setup()
    assert not trainer.base_dir.exists() or not (trainer.base_dir / "config.yml").exists()
