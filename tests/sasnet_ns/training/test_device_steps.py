"""Steps without the host: the same as the ordinary loop's, whatever is recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.networks.weights import read_weights
from sasnet_ns.training import device_steps
from sasnet_ns.training.checkpoint import Checkpoint
from sasnet_ns.training.device_steps import DeviceSteps, why_no_graph, why_not, why_not_optimizers
from sasnet_ns.training.loop import train
from sasnet_ns.training.objective import SDFObjective, SDFStep
from sasnet_ns.training.recipe import Recipe, build_optimizers
from sdf_tools.pools import SDFPool

POINTS, STEPS = 60, 34
SMALL = {
    "sasnet": {"embedding_width": 16, "hidden_widths": (24, 16), "groups": (4, 4), "grid_levels": 2, "bands": 2},
    "siren": {"width": 16, "hidden_layers": 1},
    "ngp": {"levels": 2},
}


@pytest.fixture(scope="module")
def pool() -> SDFPool:
    generator = torch.Generator().manual_seed(0)
    counts = (301, 230, 169)
    points = torch.rand(sum(counts), 3, generator=generator) - 0.5
    kind = torch.repeat_interleave(torch.arange(3, dtype=torch.uint8), torch.tensor(counts))
    return SDFPool(points, points.norm(dim=1) - 0.3, kind, counts)


def field(name: str) -> SignedDistanceField:
    torch.manual_seed(1)
    return SignedDistanceField(name, SMALL[name])


def trained(
    name: str, pool: SDFPool, objective: SDFObjective, on_device: dict[str, Any] | None, steps: int = STEPS,
    checkpoint: Checkpoint | None = None, report: Callable[[int, float], None] | None = None,
) -> tuple[list[float], list[Tensor]]:  # fmt: skip
    """Losses and final weights, by the ordinary loop or by steps on the device."""
    made = field(name)
    recipe = Recipe(steps=steps, warmup_steps=5)
    ordinary = SDFStep(made, objective, steps, fuse=False)

    def loss_at(step: int) -> Tensor:
        return functools.reduce(torch.add, ordinary.losses(pool.batch(POINTS, step), step)[0].values())

    make = None
    if on_device is not None:

        def make(optimizers: Any, rates: Any) -> DeviceSteps:
            return DeviceSteps(made, objective, pool, POINTS, steps, optimizers, rates, **on_device)

    history = train(
        made.network, recipe, loss_at, report_every=1, report=report, checkpoint=checkpoint, make_steps=make
    )
    return history.loss, [p.detach() for p in made.network.parameters()]


def compare(one: tuple[list[float], list[Tensor]], other: tuple[list[float], list[Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-4)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "objective",
    [
        SDFObjective(),
        SDFObjective(loss="coarse_to_fine"),
        SDFObjective(loss="sign_agnostic", eikonal_weight=0.1, eikonal_final_weight=0.01, eikonal_points=20),
    ],
    ids=lambda objective: objective.loss,
)
def test_steps_equal_the_ordinary_loop(
    name: str, objective: SDFObjective, pool: SDFPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_steps, "ROWS", 12)  # several layouts of batches and rates in one run
    compare(trained(name, pool, objective, {"graph": False}), trained(name, pool, objective, None))


def test_steps_equal_the_ordinary_loop_with_the_optimizers_of_a_gpu(
    pool: SDFPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Muon in one batch, torch's fused Adam, learning rates in tensors: what runs where numba does not."""
    ordinary = trained("sasnet", pool, SDFObjective(), None)
    for module in ("sasnet_ns.training.muon", "sasnet_ns.kernels.optimizers"):
        monkeypatch.setattr(f"{module}.compiled_updates", lambda tensors: False)
    compare(trained("sasnet", pool, SDFObjective(), {"graph": False}), ordinary)


class Recorded:
    """Stands for a CUDA graph: takes the steps that were recorded."""

    steps: list[DeviceSteps] = []
    counting = 0
    replays = 0

    def __init__(self) -> None:
        self.count = 0

    def replay(self) -> None:
        Recorded.replays += 1
        for _ in range(self.count):
            Recorded.steps[-1]._one()


@contextlib.contextmanager
def recording(graph: Recorded, **options: str) -> Iterator[None]:
    before = Recorded.counting
    yield
    graph.count = Recorded.counting - before


class Counted(DeviceSteps):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        Recorded.steps.append(self)

    def _one(self) -> None:
        Recorded.counting += 1
        super()._one()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def wait_stream(self, other: Stream) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr("sasnet_ns.training.device_steps.torch.cuda.is_current_stream_capturing", lambda: False)
    monkeypatch.setitem(globals(), "DeviceSteps", Counted)
    Recorded.replays = 0


def test_recording_changes_nothing(pool: SDFPool, graphs: None) -> None:
    """Warm-up, recording and the comparison are taken back; graphs of ten steps and of one follow each other."""
    found = trained("sasnet", pool, SDFObjective(), {"graph": True})
    compare(found, trained("sasnet", pool, SDFObjective(), None))
    assert Recorded.replays == 2 * 2 + 3 + 4  # both graphs tried with two replays, 3 times ten steps, 4 times one


def test_blocks_are_kept_at_their_ends_and_gone_on_with(pool: SDFPool, graphs: None, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt", every_seconds=0)

    def stop(done: int, loss: float) -> None:
        if done == 25:
            raise ConnectionError

    objective = SDFObjective()
    with pytest.raises(ConnectionError):
        trained("sasnet", pool, objective, {"graph": True}, checkpoint=checkpoint, report=stop)
    assert read_weights(checkpoint.path)["step"] == 20
    with pytest.warns(UserWarning, match="going on after step 20 of 34"):
        resumed = trained("sasnet", pool, objective, {"graph": True}, checkpoint=checkpoint)
    compare(resumed, trained("sasnet", pool, objective, None))


def test_a_block_that_ran_away_is_taken_back_once(pool: SDFPool, graphs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report after every step sees ten losses that are no numbers; the state after them was replaced once."""
    plain = Recorded.replay

    def replay(self: Recorded) -> None:
        plain(self)
        steps = Recorded.steps[-1]
        if Recorded.replays == 4:  # the second block of ten steps that counts
            steps._results[10:20, 0] = float("nan")

    monkeypatch.setattr(Recorded, "replay", replay)
    with pytest.warns(UserWarning, match="The loss is nan at step 11: back to the state of step 0") as caught:
        losses, weights = trained("sasnet", pool, SDFObjective(), {"graph": True})
    assert sum("back to the state" in str(warning.message) for warning in caught) == 1
    assert len(losses) == STEPS and all(bool(w.isfinite().all()) for w in weights)


def test_a_recording_that_goes_wrong_costs_only_time(
    pool: SDFPool, graphs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = trained("sasnet", pool, SDFObjective(), None)

    def refuse(graph: Recorded, **options: str) -> None:
        raise RuntimeError("operation not permitted when stream is capturing.\nlong text")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.warns(
        UserWarning, match="without CUDA graphs, more slowly: operation not permitted when stream is cap"
    ):
        compare(trained("sasnet", pool, SDFObjective(), {"graph": True}), ordinary)


def test_a_recording_that_computes_something_else_is_not_used(
    pool: SDFPool, graphs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = trained("sasnet", pool, SDFObjective(), None)

    def replay(self: Recorded) -> None:  # the same batch in every step, as if it had been recorded with its address
        row = Recorded.steps[-1]._row.clone()
        for _ in range(self.count):
            Recorded.steps[-1]._one()
            Recorded.steps[-1]._row.copy_(row)

    monkeypatch.setattr(Recorded, "replay", replay)
    with pytest.warns(UserWarning, match="a recorded step ends in a loss"):
        compare(trained("sasnet", pool, SDFObjective(), {"graph": True}), ordinary)


def test_learning_rates_stay_numbers_for_checkpoints(pool: SDFPool) -> None:
    made = field("sasnet")
    optimizers = list(device_steps_optimizers(made))
    before = [{k: v for k, v in g.items() if k != "params"} for o in optimizers for g in o.param_groups]
    DeviceSteps(made, SDFObjective(), pool, POINTS, 10, optimizers, lambda step: [1e-3] * 3, graph=False).run(0)
    assert before == [{k: v for k, v in g.items() if k != "params"} for o in optimizers for g in o.param_groups]


def test_reset_takes_up_other_rates(pool: SDFPool) -> None:
    made, rate = field("sasnet"), [0.0, 0.0, 0.0]
    steps = DeviceSteps(
        made, SDFObjective(), pool, POINTS, 10, device_steps_optimizers(made), lambda step: rate, graph=False
    )
    weights = [p.clone() for p in made.parameters()]
    steps.run(0)
    assert all(torch.equal(a, b) for a, b in zip(weights, made.parameters(), strict=True))
    rate[:] = [1e-2] * 3
    steps.reset()
    steps.run(1)
    assert not any(torch.equal(a, b) for a, b in zip(weights, made.parameters(), strict=True))


def device_steps_optimizers(made: SignedDistanceField) -> list[torch.optim.Optimizer]:
    return list(build_optimizers(made.network, Recipe()).values())


def test_what_changes_from_step_to_step_is_refused(pool: SDFPool) -> None:
    assert why_not(field("sasnet"), SDFObjective()) is None
    assert why_not(field("siren"), dataclasses.replace(SDFObjective(), eikonal_weight=0.1)) is None
    refused = SDFObjective(band_dropout=0.1), SDFObjective(mask_sparsity_weight=0.1)
    assert all(why_not(field("sasnet"), objective) for objective in refused)
    assert why_not(SignedDistanceField("finer", {"width": 8}), SDFObjective())
    assert why_no_graph(field("sasnet"), SDFObjective()) == "it is not on a CUDA device"
    with pytest.raises(ValueError, match="band dropout trains another part"):
        DeviceSteps(field("sasnet"), refused[0], pool, POINTS, 10, [], lambda step: [])


@pytest.mark.parametrize(
    ("recipe", "named"), [(Recipe(optimizer="adan"), "Adan is none"), (Recipe(amsgrad=True), "Adam is none")]
)
def test_optimisers_that_the_device_cannot_run_alone_are_refused(pool, recipe, named) -> None:
    made = field("sasnet")
    optimizers = build_optimizers(made.network, recipe).values()
    assert why_not_optimizers(build_optimizers(made.network, Recipe()).values()) is None
    with pytest.raises(ValueError, match=named):
        DeviceSteps(made, SDFObjective(), pool, POINTS, 10, optimizers, lambda step: [])
