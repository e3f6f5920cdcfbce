"""Functions whose keyword arguments are the fields of a dataclass, visible to type checkers, editors and help()."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
Cls = TypeVar("Cls")
Result = TypeVar("Result")


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
