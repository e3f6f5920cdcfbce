"""Rows of the paper's tables, one YAML file each."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_META = ("label", "paper", "variants")


@dataclass
class Row:
    """One method of a table.

    Attributes:
        name: of the file.
        label: what the table calls it.
        paper: published numbers, by item and metric.
        base: fields of the fit's configuration at the paper's setting, and ``parameters`` to size the network to.
        variants: changes to them by name (``quick``, ``toy``, ...).
    """

    name: str
    label: str
    paper: dict[str, dict[str, float]]
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]

    def fit(self, *variants: str) -> dict[str, Any]:
        """The configuration with variants over it, in this order; unknown ones change nothing."""
        merged = copy.deepcopy(self.base)
        for variant in variants:
            merged = merge(merged, self.variants.get(variant, {}))
        return merged


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A mapping with another one over it, nested mappings likewise; a nested null takes a key away."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def load_row(group: str, name: str) -> Row:
    """Read ``configs/GROUP/NAME.yaml``.

    Raises:
        ValueError: the file is missing or is not a row.
    """
    import yaml

    path = CONFIGS / group / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no row '{name}' in {CONFIGS / group}.")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or "label" not in content:
        raise ValueError(f"'{path}' must hold a mapping with a label.")
    base = {key: value for key, value in content.items() if key not in _META}
    return Row(name, content["label"], content.get("paper", {}), base, content.get("variants", {}))
