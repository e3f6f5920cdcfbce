"""What a run was, as plain JSON beside nerfstudio's config.yml: enough to read it back, judge it and repeat it.

``config.yml`` names Python classes and can run any code when it is read. ``run.json`` holds numbers, words and lists
only; what it says is checked against the types of the options before anything is built from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sasnet_ns.training.options import digest
from sdf_tools.io.writing import write_json

FILE = "run.json"
FORMAT = "sasnet-run-1"
VERSIONS = ("sasnet-ns", "torch", "numpy", "scipy", "numba", "trimesh", "libigl", "embreex", "nerfstudio")
READ_WHOLE = 2 << 30
"""Bytes of data up to which contents are hashed, a second or two; beyond, names and sizes are."""
WITHOUT_EFFECT = (
    "load_dir", "load_step", "load_checkpoint", "load_config", "timestamp", "output_dir", "experiment_name", "vis",
    "viewer", "logging", "prompt", "max_num_iterations", "_target",
)  # fmt: skip
"""Options of the run that may differ between a run and its continuation without a word."""


def apply_options(config: Any, options: Any, where: str) -> Any:
    """A configuration with the values that :func:`plain_options` took from another one of its class.

    Only values change: every class is the one that ``config`` has at that place already.

    Raises:
        ValueError: a value of another type than the option's.
    """
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    if not isinstance(options, dict):
        raise ValueError(f"{where} must be a mapping of options.")
    hints = typing.get_type_hints(type(config))
    changes = {}
    for field in dataclasses.fields(config):
        name, before = field.name, getattr(config, field.name)
        if name == "_target" or name not in options:
            continue
        if dataclasses.is_dataclass(before) and not isinstance(before, type):
            changes[name] = apply_options(before, options[name], f"{where}, {name}")
            continue
        try:
            changes[name] = TypeAdapter(hints[name]).validate_python(options[name])
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"{where}: '{name}' is {options[name]!r} ({reason.lower()}).") from None
        except PydanticSchemaGenerationError:  # a type of nerfstudio's own, which none of the networks needs
            continue
    return dataclasses.replace(config, **changes)


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write ``run.json``, whole or not at all."""
    write_json(folder / FILE, {"format": FORMAT, **description})


def read_description(folder: Path) -> dict[str, Any] | None:
    """The run's description, or None where there is none (a run of an older version, or of somebody else's method).

    Raises:
        ValueError: ``run.json`` is no such description.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError):
        raise ValueError(f"'{path}' is not JSON.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("options"), dict):
        raise ValueError(f"'{path}' is no description of a run that this version reads ({FORMAT}).")
    return content


def describe_environment(device: str) -> dict[str, Any]:
    """Versions, machine, threads and the source's revision."""
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(sys.argv),
        "folder": str(Path.cwd()),
        "versions": versions,
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": device,
        "git": git_revision(Path(__file__).resolve().parent),
    }


def git_revision(folder: Path) -> str | None:
    """The commit that a folder is checked out from, with ``+`` where files differ from it; None outside a checkout."""
    if not any((above / ".git").exists() for above in (folder, *folder.parents)):
        return None
    try:
        commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        said = [
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True)
            for words in commands
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0].stdout.strip() + ("+" if said[1].stdout.strip() else "")


def describe_files(files: Iterable[Path]) -> dict[str, Any]:
    """SHA-256 of one file as ``sha256sum`` gives it, or of many files' list; beyond 2 GiB of names and sizes."""
    paths = sorted({path for path in files if path.is_file()})
    total = sum(path.stat().st_size for path in paths)
    whole = total <= READ_WHOLE
    known = [[path.name, _file_digest(path) if whole else path.stat().st_size] for path in paths]
    sha256 = known[0][1] if whole and len(known) == 1 else digest(known)
    return {"sha256": sha256, "of": "contents" if whole else "names and sizes", "files": len(paths), "bytes": total}


def _file_digest(path: Path) -> str:
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
