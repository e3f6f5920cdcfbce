"""Experiments as YAML files: the fields of a configuration dataclass by name, nested as the dataclass is."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_LARGEST = 1 << 20


def load_config(path: Path | str, kind: type[T]) -> T:
    """Read a configuration dataclass from YAML; fields that the file leaves out keep their defaults.

    Args:
        path: the file; a run's ``run.json`` stands for the options that it holds.
        kind: the dataclass, for example :class:`sasnet_ns.fitting.ShapeFit`.

    Raises:
        ValueError: the file is missing or is no YAML mapping, names a field that does not exist or twice, or gives one
            a value of another type or out of range; the sentence names file, field, what was found and what is wanted.
    """
    import yaml

    file = Path(path)
    if not file.exists():
        raise ValueError(f"there is no configuration at '{path}'.")
    if not file.is_file() or file.stat().st_size > _LARGEST:
        raise ValueError(f"'{path}' is no configuration: that is a plain file of YAML, of 1 MiB at most.")
    try:
        text = file.read_text()
        content = json.loads(text, object_pairs_hook=_once) if file.suffix == ".json" else yaml.load(text, _loader())
    except _TwiceError as error:
        raise ValueError(f"'{path}' has {error}; keep one.") from None
    except RecursionError:
        raise ValueError(f"'{path}' is nested too deeply for a configuration.") from None
    except (yaml.YAMLError, ValueError) as error:  # dates and numbers that are none are a ValueError
        kind_of_file = "JSON" if file.suffix == ".json" else "YAML"
        raise ValueError(f"'{path}' is not {kind_of_file}: {str(error).splitlines()[0]}.") from None
    if isinstance(content, dict) and file.suffix == ".json":
        content = content.get("options", content)
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
        ValueError: a field that does not exist, or a value of another type or out of range.
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
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def option_value(text: str, what: str) -> Any:
    """The value that a word of a command line or a cell of a list stands for in YAML.

    Args:
        text: the word.
        what: the subject of an error message.

    Raises:
        ValueError: it is not YAML.
    """
    import yaml

    try:
        return _whole(yaml.load(text, _loader()))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError(f"{what} is {text!r}, which is not YAML; give a number, a word or a [list].") from None


class _TwiceError(ValueError):
    """A mapping names something twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise _TwiceError(f"'{name}' twice")
        content[name] = value
    return content


def _loader() -> Any:
    """YAML's safe loader, which refuses keys that come twice where PyYAML keeps the last in silence."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                    line = key.start_mark.line + 1
                    if key.value in lines:
                        raise _TwiceError(f"'{key.value}' twice, in lines {lines[key.value]} and {line}")
                    lines[key.value] = line
            return node

    return Loader


def _convert(hint: Any, value: Any, what: str) -> Any:
    """The value as the type that a field's annotation asks for.

    Raises:
        ValueError: it is none.
    """
    from pydantic import TypeAdapter, ValidationError

    if bool not in (hint, *typing.get_args(hint)):  # pydantic takes yes for 1
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool):
                raise ValueError(f"{what} is {str(item).lower()}, and a {_name(hint)} is wanted.")
    try:
        return TypeAdapter(hint).validate_python(_whole(value))
    except ValidationError as error:
        first = error.errors()[0]
        at = "".join(f"[{part!r}]" for part in first["loc"] if isinstance(part, int))
        raise ValueError(f"{what}{at} is {value!r}, and a {_name(hint)} is wanted ({first['msg'].lower()}).") from None


def _name(hint: Any) -> str:
    """An annotation as messages have it."""
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")


def _whole(value: Any, done: dict[int, Any] | None = None) -> Any:
    """``1e3``, which is a string to YAML 1.1, as the whole number that it is; also inside lists and mappings.

    Args:
        value: from YAML.
        done: what parts have become, by their id: an alias is not unfolded again each time.
    """
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else number
    if not isinstance(value, list | dict):
        return value
    done = {} if done is None else done
    if id(value) not in done:
        if isinstance(value, list):
            done[id(value)] = [_whole(item, done) for item in value]
        else:
            done[id(value)] = {name: _whole(item, done) for name, item in value.items()}
    return done[id(value)]
