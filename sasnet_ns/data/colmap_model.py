"""COLMAP's own models, read by nerfstudio's parser ``colmap``: what is wrong with one, in a sentence."""

from __future__ import annotations

import struct
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

from sdf_tools.errors import ShapeError

USUAL = ("sparse/0", "colmap/sparse/0", "sparse", "colmap/sparse", "distorted/sparse/0", ".")
"""Where programs put a model, below the folder of its pictures."""


def check_colmap_model(config: ColmapDataParserConfig) -> None:
    """Whether there is a model.

    Raises:
        ShapeError: not where the parser looks; the sentence says where else one is.
    """
    data = Path(config.data)
    folder = data / config.colmap_path
    if _holds_model(folder):
        return
    other = next((place for place in USUAL if _holds_model(data / place)), None)
    advice = (
        f"there is one in '{data / other}': --colmap-path {other} behind 'colmap' reads it"
        if other is not None
        else "it has cameras, images and points3D, each .bin or .txt; --colmap-path behind 'colmap' names its folder, "
        "and ns-process-data makes one of photographs"
    )
    raise ShapeError(f"there is no COLMAP model in '{folder}'; {advice}.")


@contextmanager
def colmap_errors(parser: Any) -> Iterator[None]:
    """While it lasts, errors of nerfstudio's reader of COLMAP's models are sentences, if that is the ``parser``.

    Raises:
        ShapeError: the model is damaged, empty, or of cameras that nerfstudio does not know.
    """
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        LookupError,
        OSError,
        ValueError,
        NotImplementedError,
        struct.error,
    ) as error:
        own = isinstance(parser, ColmapDataParserConfig) and not isinstance(error, ShapeError)
        if not own or "colmap" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).name:
            raise
        told = isinstance(error, AssertionError | NotImplementedError | ValueError) and str(error).strip()
        raise ShapeError(
            f"the COLMAP model in '{Path(parser.data) / parser.colmap_path}' cannot be used: "
            f"{' '.join(str(error).split()).rstrip('.') if told else 'it is damaged or ends too early'}."
        ) from None


def _holds_model(folder: Path) -> bool:
    return any((folder / f"cameras.{end}").is_file() and (folder / f"images.{end}").is_file() for end in ("bin", "txt"))
