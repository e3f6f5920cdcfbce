"""What a finished or interrupted run says to type next: commands that work where the run was started."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def program(name: str) -> str:
    """A program of this environment as it can be typed here.

    Its name, where the shell finds it under that; else the path of the one beside this Python (an environment that
    was called without being activated), or ``python -m sasnet_ns.commands`` where ``sasnet`` is not installed.
    """
    beside, found = Path(sys.executable).with_name(name), shutil.which(name)
    if found and (not beside.exists() or Path(found).samefile(beside)):
        return name
    if beside.exists():
        return shlex.quote(str(beside))
    return f"{shlex.quote(sys.executable)} -m sasnet_ns.commands" if name == "sasnet" else name


def after_training(config_path: str) -> dict[str, str]:
    """Commands that extract, measure and show a run.

    Args:
        config_path: the run's config.yml, quoted for the shell.
    """
    return {
        "mesh": f"{program('sasnet')} extract --load-config {config_path} --output-path mesh.ply",
        "measure": f"{program('ns-eval')} --load-config {config_path} --output-path eval.json",
        "look": f"{program('ns-viewer')} --load-config {config_path} --viewer.websocket-host 127.0.0.1",
    }


_WHERE_FROM = ("--load-dir", "--load-step", "--load-checkpoint", "--load-config")
"""Options of where a run began. A configuration file would replace every other option, ``--load-dir`` too; what it
said otherwise than the defaults is named when the run goes on."""


def resume(method: str, data: Path | None, checkpoints: Path, typed: Sequence[str] | None = None) -> str:
    """The command that goes on with an interrupted run.

    Args:
        method: name of the method.
        data: its data set, for a run that was not started by ns-train.
        checkpoints: folder of the checkpoints.
        typed: the command line that started the run, ``sys.argv`` if None. Its options and its dataparser are kept.
    """
    name, *words = sys.argv if typed is None else typed
    if Path(name).name != "ns-train" or words[:1] != [method]:
        words = [method] if data is None else [method, "--data", str(data)]
    options, skip = [], False
    for word in words[1:]:
        flag, given, _ = word.partition("=")
        left_out = flag.replace("_", "-") in _WHERE_FROM
        if not skip and not left_out:
            options.append(word)
        skip = left_out and not given
    # In front, because what follows a dataparser's name belongs to the dataparser.
    return f"{program('ns-train')} {shlex.join([words[0], '--load-dir', str(checkpoints), *options])}"
