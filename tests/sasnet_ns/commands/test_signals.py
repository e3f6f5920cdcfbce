"""Ctrl-C and SIGTERM at moments other than training: preparation, samples, extraction, writing, export."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sdf_tools.io.writing
from sasnet_ns.commands.cli import main
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.networks.weights import read_weights

SIGNALS = [signal.SIGINT, signal.SIGTERM]
YAML = "network: siren\nnetwork_config: {width: 16}\npool_size: 3000\npoints_per_batch: 300\n"


@pytest.fixture(autouse=True)
def _listens() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background jobs inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(original: Callable[..., Any], number: signal.Signals) -> Callable[..., Any]:
    """The function, with the signal at its end."""

    def call(*given: Any, **options: Any) -> Any:
        result = original(*given, **options)
        os.kill(os.getpid(), number)
        return result

    return call


def ends(number: signal.Signals, arguments: list[str], sentence: str) -> None:
    """The command ends as it should, and the handler of SIGTERM is as before."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == (f"{sentence}" if number == signal.SIGINT else 128 + number)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def field_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    SignedDistanceField("siren", {"width": 16}).save(tmp_path / "field.pt")
    return tmp_path / "field.pt"


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["sdf_tools.extraction.extract_mesh", "os.fsync"])
def test_extraction(
    moment: str, number: signal.Signals, field_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it looks for the surface, and while the mesh is being written."""
    import sdf_tools.extraction

    output = tmp_path / "out"
    output.mkdir()
    (output / "mesh.ply").write_text("the one before")
    module, _, name = moment.rpartition(".")
    owner = os if module == "os" else sdf_tools.extraction
    monkeypatch.setattr(owner, name, interrupting(getattr(owner, name), number))
    arguments = ["extract", "--load-config", str(field_file), "--output-path", str(output / "mesh.ply")]
    ends(number, [*arguments, "--resolution", "16", "--device", "cpu"], "sasnet extract: interrupted.")
    assert os.listdir(output) == ["mesh.ply"] and (output / "mesh.ply").read_text() == "the one before"


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".safetensors"])
def test_export(
    suffix: str, number: signal.Signals, field_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    output = tmp_path / "out"
    output.mkdir()
    monkeypatch.setattr(os, "fsync", interrupting(os.fsync, number))
    arguments = ["export", "--load-config", str(field_file), "--output-path", str(output / f"field{suffix}")]
    ends(number, arguments, "sasnet export: interrupted.")
    assert os.listdir(output) == []


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["prepare_shape", "SDFPool", "extract_mesh", "save_mesh"])
def test_fitting_a_shape(
    moment: str, number: signal.Signals, sphere_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before training nothing is there; after it, its last state is, and the same command only extracts."""
    import sasnet_ns.fitting.shape as shape
    from sdf_tools import extraction

    (tmp_path / "fit.yaml").write_text(YAML)
    output = tmp_path / "out"
    arguments = ["fit-shape", "--data", str(sphere_file), "--config", str(tmp_path / "fit.yaml"), "--steps", "40"]
    arguments += ["--output-dir", str(output), "--resolution", "16", "--device", "cpu"]
    owners: dict[str, tuple[Any, str]] = {
        "prepare_shape": (shape, "prepare_shape"),
        "SDFPool": (shape.ShapeFit, "build_pool"),
        "extract_mesh": (extraction, "extract_mesh"),
        "save_mesh": (sdf_tools.io.writing, "write_ply"),
    }
    owner, name = owners[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupting(getattr(owner, name), number))
        ends(number, arguments, "sasnet fit-shape: interrupted.")
    trained = moment in ("extract_mesh", "save_mesh")
    found = {path.name for path in output.iterdir()} if output.exists() else set()
    assert found == ({"field.pt", "losses.json", "run.json", "training.pt"} if trained else set())
    if trained:
        assert read_weights(output / "training.pt")["step"] == 40
        with pytest.warns(UserWarning, match="going on after step 40 of 40"):
            main(arguments)
    else:
        main(arguments)
    assert {path.name for path in output.iterdir()} == {"field.pt", "losses.json", "run.json", "mesh.ply"}
