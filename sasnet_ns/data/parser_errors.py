"""Errors of nerfstudio's readers of folders of photographs, as sentences."""

from __future__ import annotations

import json
import struct
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdf_tools.errors import ShapeError


@contextmanager
def parser_errors(parser: Any) -> Iterator[None]:
    """While it lasts, what nerfstudio's own parsers fail with is a sentence; other errors are left alone.

    Args:
        parser: configuration of the one that reads.

    Raises:
        ShapeError: a file is missing, damaged, incomplete or describes what nerfstudio does not know.
    """
    try:
        yield
    except ShapeError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        if not any(map(_of_a_parser, traceback.extract_tb(error.__traceback__))):
            raise
        place = Path(parser.data) / getattr(parser, "colmap_path", "")
        raise ShapeError(f"nerfstudio's {parser._target.__name__} cannot read '{place}': {_said(error)}.") from None


def _of_a_parser(frame: traceback.FrameSummary) -> bool:
    file = Path(frame.filename)
    return file.parent.name == "dataparsers" and file.name != "base_dataparser.py"


def _said(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"there is no '{error.filename}'"
    if isinstance(error, json.JSONDecodeError):
        return f"a file is not complete JSON ({error.msg} in line {error.lineno}, column {error.colno})"
    if isinstance(error, KeyError):
        return f"an entry is missing, {error}"
    text = " ".join(str(error).split()).rstrip(".")
    meant = isinstance(error, AssertionError | NotImplementedError | OSError | ValueError)
    return text if meant and text else "a file is damaged or ends too early" + (f" ({text})" if text else "")
