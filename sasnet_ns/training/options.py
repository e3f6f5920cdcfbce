"""Options of runs as plain values, and what two runs have otherwise."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Collection
from typing import Any

import numpy as np
from torch import Tensor


def plain_options(value: Any) -> Any:
    """A configuration as numbers, words, lists and mappings; classes are named, never stored."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_options(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): plain_options(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_options(item) for item in value]
    if isinstance(value, np.generic):
        return plain_options(value.item())
    if isinstance(value, enum.Enum):
        return value.name
    if callable(value) and hasattr(value, "__qualname__"):  # a class or function, without its address
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def digest(content: Any) -> str:
    """SHA-256 of plain values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tensor_digest(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' shapes and bits."""
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().data)
    return state.hexdigest()


def differences(before: Any, now: Any, name: str = "", ignored: Collection[str] = ()) -> list[str]:
    """``--option: old -> new`` for each option that both have, otherwise.

    Args:
        before: plain options.
        now: others.
        name: of the option that these are the parts of.
        ignored: options of the outermost mapping that may differ.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted(before.keys() & now.keys()):
            if key != "_target" and (name or key not in ignored):
                found += differences(before[key], now[key], f"{name}.{key}" if name else key)
        return found
    return [] if before == now else [f"--{name.replace('_', '-')}: {before} -> {now}"]
