"""The middle of a run on disk: going on is going on to the same bits, and only with the same run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sasnet_ns.fitting import ShapeFit, fit_shape
from sasnet_ns.fitting.grid_fit import FittedGrid, GridFit, fit_grid
from sasnet_ns.fitting.signal import Signal, signal_from_array
from sasnet_ns.networks.weights import read_weights, save_weights
from sasnet_ns.training.checkpoint import Checkpoint
from sasnet_ns.training.recipe import Recipe
from sdf_tools.errors import ShapeError, file_trouble
from sdf_tools.geometry import Mesh

ROOT = Path(__file__).resolve().parents[3]
STEPS = 230
SMALL = {
    "preset": "image", "embedding_width": 24, "hidden_widths": (16, 16), "groups": (4, 4), "band_limit": 8,
    "low_range": 2, "bands": 2, "grid_levels": 3, "grid_log2_entries": 6, "grid_max": 16, "decoder_width": 8,
}  # fmt: skip


def waves() -> Signal:
    y, x = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 20), indexing="ij")
    return signal_from_array(np.rint(127 + 100 * np.sin(4 * x) * np.cos(3 * y))[..., None].astype(np.uint8), "waves")


def configuration(network: str = "sasnet", optimizer: str = "muon", **changes: object) -> GridFit:
    options = {"sasnet": dict(SMALL), "siren": {"width": 16, "omega_0": 10.0}, "sape": {"width": 16, "frequencies": 8}}
    recipe = Recipe(steps=STEPS, optimizer=optimizer, learning_rate=2e-3, warmup_steps=5)  # type: ignore[arg-type]
    given = {"points_per_batch": 64, **changes}
    return GridFit(network=network, network_config=options[network], recipe=recipe, **given)  # type: ignore[arg-type]


def fit(config: GridFit, checkpoint: Checkpoint | None = None, stop_at: int | None = None) -> FittedGrid:
    """A fit that is ended in the middle, without any warning, after so many steps."""

    def report(step: int, loss: float) -> None:
        if step == stop_at:
            raise ConnectionError

    return fit_grid(waves(), config, device="cpu", progress=report, evaluate_every=50, checkpoint=checkpoint)


def assert_same(found: FittedGrid, wanted: FittedGrid) -> None:
    for name, value in wanted.field.state_dict().items():
        assert torch.equal(found.field.state_dict()[name], value), name
    assert found.history.step == wanted.history.step and found.history.loss == wanted.history.loss
    assert np.array_equal(found.history.psnr, wanted.history.psnr, equal_nan=True)


@pytest.mark.parametrize(
    ("network", "optimizer"),
    [("sasnet", "muon"), ("sasnet", "adam"), ("siren", "muon"), ("sape", "adam"), ("siren", "adan")],
)
def test_a_killed_fit_goes_on_to_the_same_bits(network: str, optimizer: str, tmp_path: Path) -> None:
    whole = fit(configuration(network, optimizer))
    checkpoint = Checkpoint(tmp_path / "training.pt", every_seconds=0)
    for end in (30, 210):  # before and after the guard keeps a state (every 200 steps)
        with pytest.raises(ConnectionError):
            fit(configuration(network, optimizer), checkpoint, end)
        assert read_weights(checkpoint.path)["step"] == end - 1
    with pytest.warns(UserWarning, match=r"going on after step 209 of 230"):
        resumed = fit(configuration(network, optimizer), checkpoint)
    assert_same(resumed, whole)
    assert resumed.history.seconds == sorted(resumed.history.seconds)
    with pytest.warns(UserWarning, match="going on after step 230"):  # killed while results were written
        assert_same(fit(configuration(network, optimizer), checkpoint), whole)
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_rollback_is_remembered(tmp_path: Path) -> None:
    """Weights spoilt at step 320 are taken back at 350, in the process that spoilt them and in the one that goes on."""
    from sasnet_ns.networks import build_network
    from sasnet_ns.training.loop import train

    def run(checkpoint: Checkpoint | None, stop_at: int) -> torch.nn.Module:
        torch.manual_seed(0)
        network = build_network("siren", in_dim=2, out_dim=1, width=16)
        x = torch.rand(50, 2)

        def loss_at(step: int) -> torch.Tensor:
            if step == stop_at:
                raise ConnectionError
            if step == 320:
                with torch.no_grad():
                    next(network.parameters()).fill_(float("nan"))
            return (network(x) - x.sum(1, keepdim=True)).square().mean()

        train(network, Recipe(steps=450), loss_at, checkpoint=checkpoint, report_every=1000)
        return network

    checkpoint = Checkpoint(tmp_path / "training.pt", every_seconds=0)
    with pytest.warns(UserWarning, match="back to the state of step 200"):
        whole = run(None, -1)
    with pytest.raises(ConnectionError):
        run(checkpoint, 330)
    with pytest.warns(UserWarning, match="back to the state of step 200"), pytest.raises(ConnectionError):
        run(checkpoint, 400)
    with pytest.warns(UserWarning, match="going on after step 400"):
        resumed = run(checkpoint, -1)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_shape_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    import trimesh

    ball = trimesh.creation.icosphere(2, radius=0.4)
    shape = Mesh(torch.from_numpy(ball.vertices.copy()), torch.from_numpy(ball.faces.astype("int64")), name="ball")
    config = ShapeFit(network="siren", network_config={"width": 16}, recipe=Recipe(steps=60), points_per_batch=500)
    config.pool_size = 5_000
    checkpoint = Checkpoint(tmp_path / "training.pt", every_seconds=0)

    def stop(step: int, loss: float) -> None:
        if step == 30:
            raise ConnectionError

    whole = fit_shape(shape, config, device="cpu", progress=False)
    with pytest.raises(ConnectionError):
        fit_shape(shape, config, device="cpu", progress=stop, checkpoint=checkpoint)
    with pytest.warns(UserWarning, match="going on after step 29 of 60"):
        resumed = fit_shape(shape, config, device="cpu", progress=False, checkpoint=checkpoint)
    for name, value in whole.field.state_dict().items():
        assert torch.equal(resumed.field.state_dict()[name], value), name
    assert resumed.losses == whole.losses and resumed.iou == whole.iou
    config.seed = 1
    with pytest.raises(ValueError, match=r"another run .*--seed: 0 -> 1"):
        fit_shape(shape, config, device="cpu", progress=False, checkpoint=checkpoint)


def test_other_options_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt", every_seconds=0)
    with pytest.raises(ConnectionError):
        fit(configuration(), checkpoint, 20)
    before = checkpoint.path.read_bytes()
    with pytest.raises(ValueError, match="points-per-batch: 64 -> 32") as caught:
        fit(configuration(points_per_batch=32), checkpoint)
    assert "\n" not in str(caught.value) and "remove the file to begin anew" in str(caught.value)
    other = waves()
    other.values[0, 0] = 1.0
    with pytest.raises(ValueError, match=r"another run .*--data"):
        fit_grid(other, configuration(), device="cpu", progress=False, evaluate_every=50, checkpoint=checkpoint)
    assert checkpoint.path.read_bytes() == before
    checkpoint.path.write_bytes(before[:-200])
    with pytest.raises(ValueError, match=r"damaged.*remove it to begin anew"):
        fit(configuration(), checkpoint)
    save_weights(checkpoint.path, {"network": {}})
    with pytest.raises(ValueError, match="not the middle of a run"):
        fit(configuration(), checkpoint)


def test_nothing_is_kept_of_a_run_that_diverged(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt", every_seconds=0)
    config = configuration("siren", "adam")
    config.recipe.learning_rate = 1e6
    with pytest.warns(UserWarning, match="back to the state"), pytest.raises(ValueError, match="diverged"):
        fit(config, checkpoint)
    assert not checkpoint.path.exists()


def test_a_disk_without_room_is_noticed_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("sdf_tools.io.limits.shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ShapeError, match=r"checkpoints need about .* and 1 KiB are free there"):
        fit(configuration(), Checkpoint(tmp_path / "new" / "training.pt"))


PROGRAM = """
import sys
sys.argv = ["sasnet", "fit-image", "--image", "{folder}/waves.npy", "--output", "{folder}/out", "--network", "siren",
            "--network-config", "width", "16", "--steps", "3000", "--device", "cpu", "--checkpoint-seconds", "{every}"]
from sasnet_ns.commands.cli import main
main()
"""


def command(folder: Path, every: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(folder=folder, every=every)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_goes_on_after_a_signal(number: int, tmp_path: Path) -> None:
    np.save(tmp_path / "waves.npy", waves().values.numpy())
    first = command(tmp_path, 0)
    file = tmp_path / "out" / "training.pt"
    while first.poll() is None and not file.exists():
        pass
    other = command(tmp_path, 0)
    other.wait(120)
    assert other.returncode == 1 and other.stderr is not None and "is training in" in other.stderr.read()
    first.send_signal(number)
    said = first.communicate(timeout=120)
    assert first.returncode == {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGKILL: -9}[number], said
    assert ("the same command goes on" in said[0]) == (number == signal.SIGINT)
    step = read_weights(file)["step"]
    second = command(tmp_path, 60)
    said = second.communicate(timeout=300)
    assert second.returncode == 0 and f"going on after step {step:,} of 3,000" in said[1], said
    assert not file.exists()
    found = read_weights(tmp_path / "out" / "checkpoint.pt")
    (tmp_path / "out").rename(tmp_path / "disturbed")
    whole = command(tmp_path, 60)
    assert whole.wait(300) == 0
    wanted = read_weights(tmp_path / "out" / "checkpoint.pt")
    assert all(torch.equal(found["state"][name], value) for name, value in wanted["state"].items())


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 3 MB that fills up in the middle: the last state stays, nothing partial, and it goes on."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    config = configuration("siren", "adam")
    config.recipe.steps = 60
    checkpoint = Checkpoint(tmp_path / "training.pt", every_seconds=0)

    def fill(step: int, loss: float) -> None:
        if step == 30:
            with pytest.raises(OSError, match="No space left"), open(tmp_path / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))

    try:
        with pytest.raises(OSError, match="No space left") as caught:
            fit_grid(waves(), config, device="cpu", progress=fill, checkpoint=checkpoint)
        assert "free some space and run it again" in file_trouble(caught.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["filler", "training.pt"]
        assert read_weights(checkpoint.path)["step"] == 29
        with pytest.raises(ShapeError, match="checkpoints need"):
            fit_grid(waves(), config, device="cpu", progress=False, checkpoint=Checkpoint(tmp_path / "other.pt"))
        (tmp_path / "filler").unlink()
        with pytest.warns(UserWarning, match="going on after step 29 of 60"):
            fit_grid(waves(), config, device="cpu", progress=False, checkpoint=checkpoint)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
