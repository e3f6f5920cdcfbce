"""Experiments as YAML files: the fields of a configuration dataclass by name, nested as the dataclass is."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def load_config(path: Path | str, kind: type[T]) -> T:
    """Read a configuration dataclass from YAML; fields that the file leaves out keep their defaults.

    Args:
        path: the file.
        kind: the dataclass, for example :class:`sasnet_ns.fitting.ShapeFit`.

    Raises:
        ValueError: the file is missing, is no YAML mapping, or names a field that does not exist.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ValueError(f"there is no configuration at '{path}'.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"'{path}' is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must hold a mapping of field names to values.")
    return config_from(kind, content, str(path))


def config_from(kind: type[T], content: dict[str, Any], where: str) -> T:
    """A configuration dataclass from a mapping of field names to values; fields left out keep their defaults.

    Args:
        kind: the dataclass.
        content: field names and values; a nested dataclass is a nested mapping.
        where: what an error message calls the mapping's source.

    Raises:
        ValueError: a field that does not exist.
    """
    fields = typing.get_type_hints(kind)
    values = {}
    for name, value in content.items():
        if name not in fields:
            raise ValueError(f"{where}: '{name}' is not a field of {kind.__name__}; it has {', '.join(fields)}.")
        nested = fields[name]
        if dataclasses.is_dataclass(nested) and isinstance(nested, type):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: '{name}' must be a mapping with fields of {nested.__name__}.")
            value = config_from(nested, value, f"{where}, {name}")
        values[name] = value
    return kind(**values)
