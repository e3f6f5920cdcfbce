"""The command ``sasnet``: both of its doors, quick help, one whole run, and the commands that runs print."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sasnet_ns.commands.cli import COMMANDS, main
from sasnet_ns.models.next_commands import program, resume
from sdf_tools.geometry import Mesh
from sdf_tools.io import load

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = {
    "extract": "extract_mesh",
    "export": "export_field",
    "fit-shape": "fit_shape",
    "fit-shapes": "fit_shapes",
    "fit-image": "fit_image",
    "fit-volume": "fit_volume",
    "render-scene": "render_scene",
    "evaluate": "evaluate_mesh",
    "repeat": "repeat",
    "picture": "picture",
    "page": "page",
    "compile": "compile_kernels",
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_both_doors_print_the_same_help(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = help_of(name, capsys)
    script = ROOT / "scripts" / f"{SCRIPTS[name]}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        exec(compile(script.read_text(), script, "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert end.value.code == 0
    body = slice(console.index("\n\n"), None)
    assert f"usage: sasnet {name} " in console and f"{script.name} " in printed.split("\n")[0]
    assert console[body] == printed[printed.index("\n\n") :]
    assert name == "compile" or len(re.findall(r"^\W*--[a-z]", console, re.M)) >= 2


def test_a_script_is_found_for_every_command_and_flags_that_users_know_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert set(SCRIPTS) == set(COMMANDS)
    known = {
        "extract": "load-config output-path resolution bounding-box-min bounding-box-max level largest-component "
        "min-component-faces simplify-mesh normals vertex-colors texture-size device",
        "export": "load-config output-path",
        "fit-shape": "data output-dir config steps resolution device",
        "fit-image": "output image checkpoint network config steps learning-rate batch size parameters network-config "
        "masks scale shift window evaluate-every seed device",
        "fit-volume": "volume output network config steps learning-rate batch size window parameters network-config "
        "key spacing threshold raw-shape raw-dtype evaluate-every seed device",
        "render-scene": "data output-dir views val-views test-views size up texture background seed",
        "evaluate": "prediction reference json samples iou-samples seed",
    }
    for name, flags in known.items():
        text = help_of(name, capsys)
        assert not [flag for flag in flags.split() if f"--{flag}" not in text], name


def test_help_needs_no_torch_and_names_every_command() -> None:
    code = (
        "import sys\nfrom sasnet_ns.commands.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted(set(sys.modules) & {'torch', 'numpy', 'trimesh', 'nerfstudio'}))"
    )
    started = time.perf_counter()
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "[]"
    assert not [name for name, (_, text) in COMMANDS.items() if name not in result.stdout or not text]
    assert time.perf_counter() - started < 10


def test_a_misspelt_command_is_refused_and_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import sasnet_ns

    with pytest.raises(SystemExit) as end:
        main(["extrakt"])
    assert end.value.code == 2 and "extract" in capsys.readouterr().err
    main(["--version"])
    assert capsys.readouterr().out == f"sasnet {sasnet_ns.__version__}\n"


def test_completion_knows_the_options_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", "bash"])
    assert not end.value.code
    script = capsys.readouterr().out
    assert "--bounding-box-min" in script and "--val-views" in script and "--iou-samples" in script


def test_every_module_says_what_the_list_says() -> None:
    for module, text in COMMANDS.values():
        arguments = importlib.import_module(f"sasnet_ns.commands.{module}").Arguments
        assert text.rstrip(".") in (arguments.__doc__ or "").splitlines()[0]


def test_fit_extract_evaluate_without_the_launcher(tmp_path: Path, sphere_file: Path) -> None:
    """A sphere of radius 2 around (10, 0, 0) by ``python -m sasnet_ns.commands``, back in its own units."""
    (tmp_path / "quick.yaml").write_text(
        "network: siren\nnetwork_config: {width: 48}\npoints_per_batch: 1500\npool_size: 20000\n"
        "recipe: {steps: 150, warmup_steps: 5}\n"
    )
    door = ("-m", "sasnet_ns.commands")
    fitted = run(
        *door, "fit-shape", "--data", sphere_file, "--config", tmp_path / "quick.yaml",
        "--output-dir", tmp_path / "run", "--resolution", "0", "--device", "cpu",
    )  # fmt: skip
    assert fitted.returncode == 0, fitted.stderr
    mesh_file = tmp_path / "mesh.ply"
    extracted = run(
        *door, "extract", "--load-config", tmp_path / "run" / "field.pt", "--output-path", mesh_file,
        "--resolution", "48",
    )  # fmt: skip
    assert extracted.returncode == 0, extracted.stderr
    mesh = load(mesh_file)
    assert isinstance(mesh, Mesh)
    radius = (mesh.vertices - torch.tensor([10.0, 0, 0])).norm(dim=1)
    assert abs(float(radius.median()) - 2) < 0.06
    measured = run(
        *door, "evaluate", "--prediction", mesh_file, "--reference", sphere_file, "--samples", "2000",
        "--iou-samples", "5000", "--json", tmp_path / "metrics.json",
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["iou"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("extract", "--load-config", "nowhere/config.yml"), "sasnet extract: there is no run at 'nowhere/config.yml'"),
        (("fit-image", "--output", "x"), "sasnet fit-image: give an --image"),
        (("evaluate", "--prediction", "no.ply", "--reference", "no.ply"), "sasnet evaluate: "),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert str(end.value.code).startswith(sentence) and "\n" not in str(end.value.code)


def test_printed_commands_work_where_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my env"
    folder.mkdir()
    for name in ("python", "ns-eval"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert program("ns-eval") == f"'{folder}/ns-eval'"
    assert program("sasnet") == f"'{folder}/python' -m sasnet_ns.commands"
    monkeypatch.setenv("PATH", str(folder))
    assert program("ns-eval") == "ns-eval"


def test_the_command_that_resumes_keeps_what_was_typed() -> None:
    """The dataparser stays last, an earlier --load-dir goes, and ``--load-dir`` comes before the dataparser."""
    typed = ["/env/bin/ns-train", "sasnet-nerfacto", "--data", "my scene", "--load-dir", "old", "blender-data"]
    command = resume("sasnet-nerfacto", Path("my scene"), Path("run/models"), typed)
    assert command.endswith("ns-train sasnet-nerfacto --load-dir run/models --data 'my scene' blender-data")
    typed = ["ns-train", "sasnet-sdf", "--load_dir=old", "--vis", "tensorboard"]
    assert resume("sasnet-sdf", None, Path("m"), typed).endswith("sasnet-sdf --load-dir m --vis tensorboard")
    typed = ["ns-train", "sasnet-sdf", "--load-step", "84", "--load-config=a.yml", "--load-checkpoint", "a.ckpt"]
    assert resume("sasnet-sdf", None, Path("m"), typed).endswith("sasnet-sdf --load-dir m")
    assert resume("sasnet-sdf", Path("a.ply"), Path("m"), ["pytest"]).endswith("sasnet-sdf --load-dir m --data a.ply")


def test_extraction_wants_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("sdf_tools.io.limits.shutil.disk_usage", lambda path: usage._replace(free=100 << 20))
    wanted = r"mesh.ply': meshes of 2048 cells along a side need about 304 MiB of disk space, and 100 MiB are free"
    output = str(tmp_path / "mesh.ply")
    with pytest.raises(SystemExit, match=wanted):
        main(["extract", "--load-config", "run", "--output-path", output, "--resolution", "2048"])
    with pytest.raises(SystemExit, match="run"):  # there is room for this one, and the run is looked for
        main(["extract", "--load-config", str(tmp_path / "run"), "--output-path", output, "--resolution", "512"])
