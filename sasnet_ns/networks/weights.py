"""Weights to files and back: whole or not at all, and never with code in them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdf_tools.errors import needs
from sdf_tools.io.writing import write_atomically

SAFETENSORS_KEY = "sasnet"
"""Name under which a .safetensors file's metadata hold the JSON description of the field."""


def plain_numbers(value: Any) -> Any:
    """Options with Python's numbers in the place of numpy's, which files that run no code cannot hold."""
    if isinstance(value, dict):
        return {name: plain_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_numbers(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def save_weights(path: Path | str, content: dict[str, Any], folder: Path | str | None = None) -> None:
    """Write tensors and plain values as torch does; the file appears whole or not at all.

    The file is made in memory first: torch's own writer aborts the whole process when the disk is full.

    Args:
        path: the file.
        content: what ``torch.load(weights_only=True)`` accepts.
        folder: where the unfinished file lies, default the folder of ``path``.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue(), folder=folder)


def read_weights(path: Path | str, device: torch.device | str = "cpu") -> Any:
    """Read what :func:`save_weights` wrote; a file that holds anything but tensors and plain values is refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds Python objects, which could run code.
    """
    try:
        # Said out loud: before torch 2.6 the default runs whatever the file asks for.
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        text = str(error)
        if "Weights only load failed" in text or "Unsupported" in text:
            raise ValueError(f"'{path}' holds Python objects, which could run code; only weights are read.") from None
        reason = text.splitlines()[0] if text else type(error).__name__
        raise ValueError(f"'{path}' is damaged or was not written by torch ({reason}).") from None


def save_safetensors(path: Path | str, description: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Write tensors as .safetensors with a JSON description in the file's metadata; whole or not at all.

    Raises:
        MissingLibraryError: safetensors is not installed.
    """
    with needs("safetensors", "Writing .safetensors files"):
        from safetensors.torch import save
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_atomically(path, save(tensors, {SAFETENSORS_KEY: json.dumps(description)}))


def read_safetensors(path: Path | str, device: torch.device | str = "cpu") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a file that :func:`save_safetensors` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        MissingLibraryError: safetensors is not installed.
        ValueError: the file is damaged or has no description.
    """
    with needs("safetensors", "Reading .safetensors files"):
        from safetensors import SafetensorError, safe_open
    if not Path(path).is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            description = json.loads((file.metadata() or {}).get(SAFETENSORS_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"'{path}' is damaged ({error}).") from None
    if not isinstance(description, dict):
        raise ValueError(f"'{path}' has weights, but no description of their network ('{SAFETENSORS_KEY}').")
    return description, state
