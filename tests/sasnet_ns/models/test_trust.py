"""Files from strangers: each attack that is known is tried, and the file that it would make must not be there."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sasnet_ns.commands.cli import main as sasnet
from sasnet_ns.networks import SignedDistanceField
from sdf_tools import cli


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path: Path) -> Any:
    path = tmp_path / "FIRED"
    yield path
    assert not path.exists(), "code from the file has run"


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(SystemExit) as end:
        call()
    message = str(end.value.code)
    assert words in message and "\n" not in message, message


def weights_attack(path: Path, marker: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"description": Attack(marker), "state": {}, "step": 3, "pipeline": Attack(marker)}, path, **options)
    return path


def test_the_attack_itself_works(tmp_path: Path) -> None:
    path = weights_attack(tmp_path / "field.pt", tmp_path / "made")
    torch.load(path, weights_only=False)
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("command", ["extract", "export"])
def test_field_pt_with_a_pickle(tmp_path: Path, marker: Path, command: str, zipped: bool) -> None:
    path = weights_attack(tmp_path / "field.pt", marker, _use_new_zipfile_serialization=zipped)
    refused(
        lambda: sasnet([command, "--load-config", str(path), "--output-path", str(tmp_path / "out.ply")]),
        "Python objects, which could run code",
    )


@pytest.mark.parametrize("command", ["fit-image", "fit-volume"])
def test_checkpoint_of_a_picture_with_a_pickle(tmp_path: Path, marker: Path, command: str) -> None:
    from sasnet_ns.fitting.grid_field import GridField

    path = weights_attack(tmp_path / "checkpoint.pt", marker)
    with pytest.raises(ValueError, match="could run code"):
        GridField.load(path)
    (tmp_path / "evil.yaml").write_text(f"!!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(SystemExit):
        sasnet([command, "--config", str(tmp_path / "evil.yaml")])


EVIL_YAML = "!!python/object/apply:os.system ['touch {}']\n"


def test_config_yml_of_a_stranger(tmp_path: Path, marker: Path) -> None:
    pytest.importorskip("nerfstudio")
    (tmp_path / "config.yml").write_text(EVIL_YAML.format(marker))
    arguments = ["extract", "--load-config", str(tmp_path / "config.yml")]
    refused(lambda: sasnet(arguments), "--trust")
    for description in ("{", "[]", '{"format": "sasnet-run-1", "options": []}', "[" * 100_000):
        (tmp_path / "run.json").write_text(description)
        with pytest.raises(SystemExit):
            sasnet(arguments)


def test_trust_reads_config_yml_as_nerfstudio_does(tmp_path: Path) -> None:
    """The flag has an effect: what it allows happens."""
    pytest.importorskip("nerfstudio")
    made = tmp_path / "made"
    (tmp_path / "config.yml").write_text(EVIL_YAML.format(made))
    with pytest.raises(AttributeError):  # the attack gives a number, which is no configuration
        sasnet(["extract", "--load-config", str(tmp_path / "config.yml"), "--trust"])
    assert made.exists()


def description(**changes: Any) -> dict[str, Any]:
    options = {"relative_model_dir": "nerfstudio_models", "pipeline": {"model": {}}}
    return {
        "format": "sasnet-run-1", "method": "sasnet-neus", "model": "SASNetNeuSModelConfig", "options": options,
        **changes,
    }  # fmt: skip


def test_run_json_cannot_name_classes_or_files_elsewhere(tmp_path: Path, marker: Path) -> None:
    pytest.importorskip("nerfstudio")
    (tmp_path / "run").mkdir()
    weights_attack(tmp_path / "run" / "nerfstudio_models" / "step-000000003.ckpt", marker)
    (tmp_path / "run" / "config.yml").write_text(EVIL_YAML.format(marker))

    def extract(content: dict[str, Any], words: str) -> None:
        (tmp_path / "run" / "run.json").write_text(json.dumps(content))
        refused(lambda: sasnet(["extract", "--load-config", str(tmp_path / "run")]), words)

    extract(description(), "could run code")  # of the checkpoint
    extract(description(model="os.system"), "meshes cannot be extracted")
    target = {"pipeline": {"model": {"_target": "os.system", "sdf_field": {"_target": "os.system"}}}}
    extract(description(options={"relative_model_dir": "nerfstudio_models", **target}), "could run code")
    outside = {"relative_model_dir": "../../elsewhere", "pipeline": {"model": {}}}
    extract(description(options=outside), "no checkpoint yet")
    wrong = {"relative_model_dir": "nerfstudio_models", "pipeline": {"model": {"background_model": ["mlp"]}}}
    extract(description(options=wrong), "'background_model' is ['mlp']")


def test_resuming_from_a_stranger(make_trainer: Any, tmp_path: Path, marker: Path) -> None:
    weights_attack(tmp_path / "models" / "step-000000003.ckpt", marker)
    trainer = make_trainer(setup=False, load_dir=tmp_path / "models")
    refused(trainer.setup, "could run code")
    legacy = weights_attack(tmp_path / "old.ckpt", marker, _use_new_zipfile_serialization=False)
    trainer = make_trainer(setup=False, timestamp="other", load_checkpoint=legacy)
    refused(trainer.setup, "could run code")


def test_pickled_numpy_arrays(tmp_path: Path, marker: Path) -> None:
    from sdf_tools.io import load

    evil = np.array([[Attack(marker)] * 3] * 3, dtype=object)
    np.save(tmp_path / "cloud.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "cloud.npz", points=evil, vertices=evil)
    for name in ("cloud.npy", "cloud.npz"):
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    class Ball(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return points.norm(dim=1) - 0.3

    exported = torch.export.export(Ball(), (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    torch.export.save(exported, tmp_path / "ball.pt2")
    return tmp_path / "ball.pt2"


def test_programs_of_torch_export_have_to_be_trusted(
    tmp_path: Path, program: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = io.BytesIO()
    torch.save({"weights": Attack(marker)}, pickled)
    expression = json.dumps(f"__import__('os').system('touch {marker}')")

    def forge(name: str, change: Callable[[str, bytes], bytes]) -> Path:
        with zipfile.ZipFile(program) as source, zipfile.ZipFile(tmp_path / name, "w") as target:
            for entry in source.namelist():
                target.writestr(entry, change(entry, source.read(entry)))
        return tmp_path / name

    def with_expression(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        content = data.decode()
        return content.replace('"expr_str": "s', f'"expr_str": {expression}, "was": "s').encode()

    files = [
        program,
        forge("pickle.pt2", lambda name, data: pickled.getvalue() if name.endswith(".pt") else data),
        forge("expression.pt2", with_expression),
    ]
    for file in files:
        monkeypatch.setattr(sys, "argv", ["sdf-tools", "extract", str(file), "--output-path", str(tmp_path / "x.ply")])
        refused(cli.main, "--trust")
    torch.set_grad_enabled(True)


def test_safetensors_hold_the_field_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    options = {"width": 16, "hidden_layers": 1}
    field = SignedDistanceField("siren", options, torch.tensor([1.0, 2.0, 3.0]), 0.25)
    field.save(tmp_path / "field.safetensors", step=12)
    read, step = SignedDistanceField.load_with_step(tmp_path / "field.safetensors")
    points = torch.rand(50, 3) - 0.5
    assert torch.equal(read(points), field(points)) and step == 12
    assert read.center.tolist() == [1, 2, 3] and float(read.scale) == 0.25
    raw = (tmp_path / "field.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    told = json.loads(header["__metadata__"]["sasnet"])
    assert told == {"network": "siren", "network_config": options, "center": [1, 2, 3], "scale": 0.25, "step": 12}
    for damage in (raw[:40], b"\xff" * 100, raw.replace(b'"sasnet"', b'"nobody"')):
        (tmp_path / "damaged.safetensors").write_bytes(damage)
        with pytest.raises(ValueError, match=r"damaged\.safetensors"):
            SignedDistanceField.load(tmp_path / "damaged.safetensors")


def test_export_writes_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")

    field = SignedDistanceField("siren", {"width": 16, "hidden_layers": 1}, torch.tensor([5.0, 0, 0]), 0.1)
    field.save(tmp_path / "field.pt")
    sasnet(["export", "--load-config", str(tmp_path / "field.pt"), "--output-path", str(tmp_path / "f.safetensors")])
    again = SignedDistanceField.load(tmp_path / "f.safetensors")
    points = torch.rand(20, 3) - 0.5
    assert torch.equal(again(points), field(points)) and float(again.scale) == pytest.approx(0.1)
