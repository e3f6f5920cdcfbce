"""``sasnet repeat``: what it runs, what it refuses, and one run that is repeated to the bit."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sasnet_ns.commands.cli import main
from sasnet_ns.commands.repeat import command_of
from sasnet_ns.models.run_description import write_description
from sasnet_ns.networks import SignedDistanceField


def command(words: list[Any], output: Path | None = None) -> list[str]:
    return command_of({"command": words}, Path("/runs/old"), output)


def test_the_command_is_that_of_the_run() -> None:
    typed = ["/env/bin/ns-train", "sasnet-nerfacto", "--timestamp", "now", "--data", "scene", "blender-data"]
    assert command(typed) == ["ns-train", "sasnet-nerfacto", "--data", "scene", "blender-data"]
    assert command(typed, Path("/new")) == [
        "ns-train", "sasnet-nerfacto", "--output-dir", "/new", "--data", "scene", "blender-data"
    ]  # fmt: skip
    typed = ["sasnet", "fit-shape", "--data", "armadillo", "--output-dir", "old"]
    assert command(typed) == ["sasnet", "fit-shape", "--output-dir", "/runs/old-repeat", "--data", "armadillo"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/bin/sh", "-c", "touch FIRED"], "no command that is repeated"),
        (["ns-train", "nerfacto"], "no command that is repeated"),
        (["ns-train", "sasnet-sdf", "--load-config", "evil.yml"], "can run code"),
        (["ns-train", "sasnet-sdf", "--load_config=evil.yml"], "can run code"),
        (["evil/sasnet", "export"], "no command that is repeated"),
        ("rm -rf .", "does not say"),
        ([1, 2], "does not say"),
    ],
)
def test_a_strangers_description_runs_nothing_else(words: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        command(words)


def test_a_run_may_be_named_by_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ns-train", "sasnet-sdf", "--data", "armadillo"]
    write_description(tmp_path, {"command": words, "options": {}})
    (tmp_path / "config.yml").touch()
    for path in (tmp_path, tmp_path / "config.yml"):
        main(["repeat", str(path), "--show"])
        assert "sasnet-sdf --data armadillo" in capsys.readouterr().out


def test_a_fit_is_repeated_to_the_bit(tmp_path: Path, sphere_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "quick.yaml").write_text(
        "network: siren\nnetwork_config: {width: 32}\npoints_per_batch: 1000\npool_size: 5000\n"
        "recipe: {steps: 60, warmup_steps: 5}\n"
    )
    shape = tmp_path / "shape.ply"
    shape.write_bytes(sphere_file.read_bytes())
    arguments = ["--data", str(shape), "--config", str(tmp_path / "quick.yaml"), "--resolution", "0", "--device", "cpu"]
    main(["fit-shape", *arguments, "--output-dir", str(tmp_path / "old")])
    told = json.loads((tmp_path / "old" / "run.json").read_text())
    assert told["method"] == "fit-shape" and told["options"]["recipe"]["steps"] == 60 and told["data"]["files"] == 1
    main(["repeat", str(tmp_path / "old"), "--output-dir", str(tmp_path / "new")])
    old, new = (torch.load(tmp_path / name / "field.pt", weights_only=True) for name in ("old", "new"))
    assert old["step"] == new["step"] == 60
    for name, value in old["state"].items():
        assert torch.equal(value, new["state"][name]), name
    shape.write_bytes(shape.read_bytes() + b"\n")
    with pytest.raises(SystemExit, match="has changed since the run"):
        main(["repeat", str(tmp_path / "old"), "--show"])
    capfd.readouterr()
    main(["repeat", str(tmp_path / "old"), "--show", "--any-data"])
    assert f"fit-shape --output-dir {tmp_path}/old-repeat" in capfd.readouterr().out
    with pytest.raises(SystemExit, match=r"holds no run\.json"):
        main(["repeat", str(tmp_path)])


def test_steps_go_before_a_budget_of_the_configuration(tmp_path: Path, sphere_file: Path) -> None:
    config = tmp_path / "budget.yaml"
    config.write_text(
        "seconds: 30\nnetwork: siren\nnetwork_config: {width: 8}\npoints_per_batch: 100\npool_size: 2000\n"
    )
    options = ["--data", str(sphere_file), "--config", str(config), "--resolution", "0", "--device", "cpu"]
    main(["fit-shape", *options, "--steps", "20", "--output-dir", str(tmp_path / "run")])
    assert SignedDistanceField.load_with_step(tmp_path / "run")[1] == 20


def test_an_interrupted_field_knows_its_step(
    tmp_path: Path, sphere_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sasnet_ns.training import objective

    losses, seen = objective.SDFStep.losses, []

    def interrupted(*arguments: Any) -> Any:
        seen.append(arguments[-1])
        if len(seen) == 35:
            raise KeyboardInterrupt
        return losses(*arguments)

    monkeypatch.setattr(objective.SDFStep, "losses", interrupted)
    config = tmp_path / "small.yaml"
    config.write_text("network: siren\nnetwork_config: {width: 8}\npoints_per_batch: 100\npool_size: 2000\n")
    options = ["--data", str(sphere_file), "--config", str(config), "--resolution", "0", "--device", "cpu"]
    with contextlib.suppress(SystemExit, KeyboardInterrupt):
        main(["fit-shape", *options, "--steps", "500", "--output-dir", str(tmp_path / "run")])
    assert SignedDistanceField.load_with_step(tmp_path / "run")[1] == 30
