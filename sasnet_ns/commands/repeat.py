"""Repeat a run from its description, with the same options on the same data.

sasnet repeat outputs/armadillo/sasnet-sdf/DATE

The command that made the run is in its run.json. Data that have changed since are refused, other versions are named. A
fit-shape takes its options from run.json as well, whatever has become of its --config.
Same versions and machine, same result to the bit on a CPU: it runs on as many threads as the run did, because sums over
threads depend on their number.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sasnet_ns.commands._command_line import command_line

METHODS = ("sasnet-sdf", "sasnet-neus", "sasnet-neus-facto", "sasnet-nerfacto")
"""Methods of ns-train whose runs are repeated."""
_REFUSED = ("--load-config",)  # reads a file that can run any code
_RECORDED = ("--config", "--steps", "--seconds")  # of fit-shape: what they said is among the run's options
_LEFT_OUT = ("--timestamp", "--viewer.websocket-host", "--viewer.make-share-url")


@dataclass
class Arguments:
    """Repeat a run from its description."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, which holds run.json, or a file in it (config.yml)."""
    output_dir: Path | None = None
    """Where the new run goes; where the old one went if left out (fit-shape: a folder of its name with -repeat)."""
    any_data: bool = False
    """Go on where the data have changed since."""
    show: bool = False
    """Print the command and stop."""


def command_of(description: dict[str, Any], folder: Path, output: Path | None) -> list[str]:
    """The command line that repeats a run, without the program's name.

    Args:
        description: content of ``run.json``; the options in it take the place of those that the command names.
        folder: the run's.
        output: where the new run goes, or None.

    Raises:
        ValueError: the description names no command of this package, or an option that reads code from a file; or its
            options have been changed.
    """
    from sasnet_ns.models.run_description import FILE
    from sasnet_ns.training.options import digest

    words = description.get("command")
    if not isinstance(words, list) or len(words) < 2 or not all(isinstance(word, str) for word in words):
        raise ValueError(f"'{folder}' does not say which command made it.")
    name, method, *options = words
    program = "sasnet" if method == "fit-shape" and Path(name).name == "sasnet" else "ns-train"
    if program == "ns-train" and (Path(name).name != "ns-train" or method not in METHODS):
        raise ValueError(f"'{folder}' was made by '{Path(name).name} {method}', which is no command that is repeated.")
    left_out = {*_LEFT_OUT, *(("--output-dir",) if output is not None or program == "sasnet" else ())}
    recorded: list[str] = []
    if program == "sasnet" and "options" in description:
        if digest(description["options"]) != description.get("options_sha256"):
            raise ValueError(f"the options in '{folder / FILE}' are not those that the run had: their SHA-256 differs.")
        left_out |= set(_RECORDED)  # a file of options may be another one by now
        recorded = ["--config", str(folder / FILE)]
    kept: list[str] = []
    skip = False
    for word in options:
        flag = word.split("=", 1)[0].replace("_", "-")
        if flag in _REFUSED:
            raise ValueError(f"'{folder}' had {flag}, which reads a file that can run code; it is not repeated.")
        if not (skip and not word.startswith("--")) and flag not in left_out:
            kept.append(word)
        skip = flag in left_out and "=" not in word
    if program == "sasnet":
        output = output or folder.with_name(f"{folder.name}-repeat")
    place = [] if output is None else ["--output-dir", str(output.absolute())]
    # In front, because what follows a dataparser's name belongs to the dataparser.
    return [program, method, *place, *recorded, *kept]


def run(arguments: Arguments) -> None:
    """Read the description, compare data and versions, start the command."""
    from sasnet_ns.models.next_commands import program
    from sasnet_ns.models.run_description import FILE, describe_environment, describe_files, read_description

    folder = arguments.run.parent if arguments.run.is_file() else arguments.run
    description = read_description(folder)
    if description is None:
        raise ValueError(f"'{folder}' holds no {FILE}; only runs of this version and later are repeated.")
    name, *words = command_of(description, folder.resolve(), arguments.output_dir)
    started_in = Path(str(description.get("folder", ".")))
    if not started_in.is_dir():
        started_in = Path.cwd()
    data = description.get("data")
    if isinstance(data, dict) and data.get("files") == 1 and data.get("path") is not None:
        from sasnet_ns.shapes.named import shape_file

        file = started_in / shape_file(str(data["path"]))
        if file.is_file() and describe_files([file])["sha256"] != data.get("sha256") and not arguments.any_data:
            raise ValueError(f"'{file}' has changed since the run; give --any-data to go on with what is there now.")
    now = describe_environment("cpu")["versions"]
    before = description.get("versions")
    for library, version in (before if isinstance(before, dict) else {}).items():
        if now.get(library) != version:
            print(f"{library} was {version}, and is {now.get(library, 'not installed')} now: results can differ.")
    command = f"{program(name)} {shlex.join(words)}"
    print(command, flush=True)
    if arguments.show:
        return
    threads = description.get("threads")
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if isinstance(threads, int) else {})}
    command_line_words = [*shlex.split(program(name)), *words]
    finished = subprocess.run(command_line_words, cwd=started_in, env=environment, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def main(args: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line; ``args`` and ``program`` as :func:`command_line` takes them."""
    command_line(Arguments, run, description=__doc__, name="repeat", program=program, args=args)
