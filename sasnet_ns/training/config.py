"""Experiments as YAML files: the fields of a configuration dataclass by name, nested as the dataclass is."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_LARGEST = 1 << 20


def load_config(path: Path | str, kind: type[T]) -> T:
    """Read a configuration dataclass from YAML; fields that the file leaves out keep their defaults.

    Args:
        path: the file.
        kind: the dataclass, for example :class:`sasnet_ns.fitting.ShapeFit`.

    Raises:
        ValueError: the file is missing or is no YAML mapping, names a field that does not exist, or gives one a value
            of another type; the sentence names file, field, what was found and what is wanted.
    """
    import yaml

    file = Path(path)
    if not file.exists():
        raise ValueError(f"there is no configuration at '{path}'.")
    if not file.is_file() or file.stat().st_size > _LARGEST:
        raise ValueError(f"'{path}' is no configuration: that is a plain file of YAML, of 1 MiB at most.")
    try:
        content = yaml.safe_load(file.read_text())
    except RecursionError:
        raise ValueError(f"'{path}' is nested too deeply for a configuration.") from None
    except (yaml.YAMLError, ValueError) as error:  # dates and numbers that are none are a ValueError
        raise ValueError(f"'{path}' is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must hold a mapping of field names to values.")
    try:
        return config_from(kind, content, str(path))
    except RecursionError:  # an alias of YAML that contains itself
        raise ValueError(f"'{path}' is nested too deeply for a configuration.") from None


def config_from(kind: type[T], content: dict[str, Any], where: str) -> T:
    """A configuration dataclass from a mapping of field names to values; fields left out keep their defaults.

    Numbers may be written as YAML does not understand them (``1e-4``, a string to YAML 1.1; ``1e3`` for an integer).

    Args:
        kind: the dataclass.
        content: field names and values; a nested dataclass is a nested mapping.
        where: what an error message calls the mapping's source.

    Raises:
        ValueError: a field that does not exist, or a value of another type.
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
            values[name] = config_from(nested, value, f"{where}, {name}")
        else:
            values[name] = _convert(nested, value, f"{where}: '{name}'")
    return kind(**values)


def _convert(hint: Any, value: Any, what: str) -> Any:
    """The value as the type that a field's annotation asks for.

    Raises:
        ValueError: it is none.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(_whole(value))
    except ValidationError as error:
        first = error.errors()[0]
        at = "".join(f"[{part!r}]" for part in first["loc"] if isinstance(part, int))
        wanted = getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
        raise ValueError(f"{what}{at} is {value!r}, and a {wanted} is wanted ({first['msg'].lower()}).") from None


def _whole(value: Any) -> Any:
    """``1e3``, which is a string to YAML 1.1, as the whole number that it is."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else number
    return [_whole(item) for item in value] if isinstance(value, list) else value
