"""Keyword arguments: the fields of a dataclass, visible to type checkers, editors and help(), and words that fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

P = ParamSpec("P")
Cls = TypeVar("Cls")
Result = TypeVar("Result")


def check_choices(owner: Callable[..., object], options: Mapping[str, object]) -> None:
    """Refuse words that are none of an option's.

    Args:
        owner: what takes the options, annotated; those that are ``Literal`` are looked at.
        options: by name.

    Raises:
        ValueError: a word is not one of those it takes.
    """
    hints = get_type_hints(owner)
    for name, value in options.items():
        words = get_args(hints[name]) if get_origin(hints.get(name)) is Literal else (value,)
        if value not in words:
            raise ValueError(f"{name} must be one of {', '.join(map(str, words))}, not {value!r}.")


def takes(
    options: Callable[P, object],
) -> Callable[[Callable[..., Result]], Callable[Concatenate[Cls, P], Result]]:
    """Give a class method's ``**overrides`` the signature of ``options``, a dataclass."""

    def decorate(method: Callable[..., Result]) -> Callable[Concatenate[Cls, P], Result]:
        own = inspect.signature(method)
        fields = inspect.signature(options).parameters.values()
        first = next(iter(own.parameters.values()))
        parameters = [first, *(field.replace(kind=inspect.Parameter.KEYWORD_ONLY) for field in fields)]
        method_: Any = method
        method_.__signature__ = own.replace(parameters=parameters)
        return method_

    return decorate
