"""Doctests in docstrings as blocks of code, wherever in the text they stand (an extension of griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe


def fenced(text: str) -> str:
    """A docstring whose ``>>>`` paragraphs are fenced blocks."""
    return re.sub(r"(^[ \t]*>>> .*(?:\n(?![ \t]*$).*)*)", r"```pycon\n\1\n```", text, flags=re.M)


class Doctests(griffe.Extension):
    """Fences the doctests of every object that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
