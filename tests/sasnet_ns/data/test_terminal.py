"""Logs without nerfstudio's own warnings, and one line for Ctrl-C and for folders that cannot be made."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nerfstudio")

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., Path]

RUN = """
import copy, sys, warnings
from nerfstudio.scripts import train  # first, as ns-train does
from nerfstudio.configs.method_configs import method_configs
from sasnet_ns.methods import sasnet_neus_facto
from pathlib import Path
config = copy.deepcopy(sasnet_neus_facto.config)
config.data = config.pipeline.datamanager.data = Path(sys.argv[1])
config.output_dir, config.timestamp, config.vis = Path(sys.argv[2]), "run", "tensorboard"
config.max_num_iterations, config.machine.device_type = 2, "cpu"
config.viewer.quit_on_train_completion = True
config.pipeline.datamanager.train_num_rays_per_batch = config.pipeline.datamanager.eval_num_rays_per_batch = 16
train.main(config)
warnings.warn_explicit("mine", FutureWarning, "mine.py", 1, module="mine")
warnings.warn_explicit("theirs, new", UserWarning, "cameras.py", 1, module="nerfstudio.cameras.cameras")
warnings.warn_explicit("`torch.cuda.amp.autocast(args...)` is deprecated", FutureWarning, "x.py", 1, module="elsewhere")
"""


def hear_ctrl_c() -> None:
    """A shell's background jobs ignore Ctrl-C, and hand that on: the programs under test must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment() -> dict[str, str]:
    """Without warning filters of one's own, on the processor, with this checkout."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return kept | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def test_the_log_of_a_run_holds_no_warnings_of_nerfstudio(tmp_path: Path, make_folder: Make) -> None:
    folder = make_folder(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), str(tmp_path / "outputs")],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Training finished" in done.stdout
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "Warning" in line]
    # nerfstudio's cameras are imported before it looks for methods: that one cannot be reached from here.
    lines = [line for line in lines if "torch.jit.script" not in line]
    assert [line.split(": ", 1)[1] for line in lines] == [
        "FutureWarning: mine",
        "UserWarning: theirs, new",
        "FutureWarning: `torch.cuda.amp.autocast(args...)` is deprecated",
    ]


def test_imports_of_this_package_are_silent(tmp_path: Path) -> None:
    """sasnet extract reads the configuration of a run, and with it nerfstudio."""
    (tmp_path / "config.yml").write_text("1")
    script = f"import pathlib, sasnet_ns.models.loading as l; l._read_config(pathlib.Path('{tmp_path}/config.yml'))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_only_the_loaders_worker_count_is_left_out() -> None:
    from sasnet_ns.data.terminal import quiet_loaders

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_loaders():
            warnings.warn("This DataLoader will create 4 worker processes in total.", UserWarning, stacklevel=1)
            warnings.warn("Something else about loaders.", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["Something else about loaders."]


def test_ctrl_c_in_a_viewer_is_one_line(tmp_path: Path) -> None:
    script = (
        "import sys, time; sys.argv[0] = '/bin/ns-viewer'\n"
        "from sasnet_ns.data.terminal import end_on_interrupt; end_on_interrupt(); end_on_interrupt()\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert stderr == "ns-viewer: stopped.\n" and process.returncode != 0
    failing = "from sasnet_ns.data.terminal import end_on_interrupt; end_on_interrupt(); 1 / 0"
    done = subprocess.run([sys.executable, "-c", failing], env=environment(), capture_output=True, text=True)
    assert "ZeroDivisionError" in done.stderr  # all other errors as ever


@pytest.mark.parametrize("name", ["sasnet_neus_facto", "sasnet_nerfacto", "sasnet_sdf"])
def test_an_output_folder_that_cannot_be_made_is_one_sentence(name: str, tmp_path: Path) -> None:
    import sasnet_ns.methods

    config: Any = copy.deepcopy(getattr(sasnet_ns.methods, name).config)
    (tmp_path / "file").write_text("")
    config.output_dir, config.timestamp, config.experiment_name = tmp_path / "file" / "outputs", "run", "x"
    with pytest.raises(SystemExit, match=r"cannot be made or written .*--output-dir") as caught:
        config.save_config()
    assert "\n" not in str(caught.value)


def test_an_interrupted_demo_is_one_line_and_lets_its_command_finish(tmp_path: Path) -> None:
    """The demo's first command is a stand-in that keeps a file when it is interrupted, as ns-train its checkpoint."""
    (tmp_path / "ns-train").write_text(
        f"#!{sys.executable}\n"
        "import signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(1); open('kept', 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "ns-train").chmod(0o755)
    script = (
        "import runpy, sys, pathlib\n"
        f"sys.executable = '{tmp_path / 'python'}'\n"
        "import subprocess\n"
        "real = subprocess.Popen\n"
        f"subprocess.Popen = lambda command, cwd: real(command, cwd='{tmp_path}')\n"
        f"runpy.run_path('{ROOT / 'scripts' / 'demo.py'}', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), start_new_session=True, preexec_fn=hear_ctrl_c,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while "started" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches all programs of the terminal
    _, stderr = process.communicate(timeout=30)
    assert stderr == "demo: interrupted; 'make demo' begins again.\n" and process.returncode == 130
    assert (tmp_path / "kept").is_file()
