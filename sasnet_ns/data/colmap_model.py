"""Where COLMAP's own model is, which nerfstudio's parser ``colmap`` reads."""

from __future__ import annotations

from pathlib import Path

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


def _holds_model(folder: Path) -> bool:
    return any((folder / f"cameras.{end}").is_file() and (folder / f"images.{end}").is_file() for end in ("bin", "txt"))
