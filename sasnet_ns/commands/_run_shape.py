"""The shape that a run was trained on, found from the run's own description."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sasnet_ns.networks import SignedDistanceField
    from sdf_tools.geometry import Shape

_METHODS = ("sasnet-sdf", "fit-shape")


@dataclass(frozen=True)
class RunShape:
    """What a run's ``run.json`` says of its input.

    Attributes:
        shape: the input in its own units; None where it is not known or cannot be read.
        why_not: a sentence where it is None.
        up: the input's upward axis.
        front: unit vector in which it looks; None for the usual one.
        levels: whether fewer bands are a level of detail, that is whether it was trained with band dropout.
    """

    shape: Shape | None
    why_not: str = ""
    up: Literal["x", "y", "z"] = "y"
    front: tuple[float, float, float] | None = None
    levels: bool = True


def shape_field(path: Path) -> tuple[SignedDistanceField, int | None]:
    """The field of a run on a shape, with the training steps that its file says it has had.

    Raises:
        ValueError: there is none; of a run on photographs the sentence says so.
    """
    from sasnet_ns.models.loading import load_field
    from sasnet_ns.models.run_description import read_description

    folder = path if path.is_dir() else path.parent
    if path.suffix not in (".pt", ".safetensors") and not (folder / "field.pt").is_file():
        description = read_description(folder)
        if description is not None and description.get("method") not in _METHODS:
            raise ValueError(
                f"'{folder}' is a run of {description.get('method')}, and this is for fields of shapes; sasnet extract "
                "makes a mesh of it."
            )
    return load_field(path)


def run_shape(path: Path, given: str | None = None, *, read: bool = True) -> RunShape:
    """The shape of a run.

    Args:
        path: ``config.yml`` or folder of a run, or a field's file.
        given: a name or a file that says which shape it is, instead of the run.
        read: the shape as well, not only what the run says of it.

    Raises:
        ShapeError: ``given`` is no shape.
        ValueError: ``run.json`` is no such description.
    """
    from sasnet_ns.models.run_description import read_description
    from sasnet_ns.shapes.named import known_front, resolve_shape, shape_file
    from sdf_tools.errors import MissingLibraryError, ShapeError

    folder = path if path.is_dir() else path.parent
    description = read_description(folder) or {}
    options = description.get("options", {})
    data = description.get("data")
    name = given if given is not None else data.get("path") if isinstance(data, dict) else None
    up = _option(options, "pipeline", "datamanager", "up_axis")
    dropout = _option(options, "objective", "band_dropout")
    if dropout is None:
        dropout = _option(options, "pipeline", "model", "objective", "band_dropout")
    levels = not description or bool(dropout)
    ahead = known_front(name)
    front: Any = None if ahead is None else tuple(ahead.tolist())
    shape, why_not = None, ""
    if not read:
        why_not = "it was not asked for"
    elif given is not None:
        shape = resolve_shape(given)
    elif not description:
        why_not = f"'{folder}' does not say which shape it was trained on; give it with --shape"
    elif description.get("method") not in _METHODS or name is None:
        why_not = f"'{folder}' was not trained on a shape; give one to compare with by --shape"
    else:
        started_in = Path(str(description.get("folder", ".")))
        file = started_in / Path(name).expanduser()
        try:
            shape = resolve_shape(file if file.is_file() else name)
            if _has_changed(file if file.is_file() else shape_file(name), data or {}):
                warnings.warn(
                    f"'{name}' has other contents than when '{folder}' was trained on it: errors against it may mean "
                    "nothing; give the shape as it was with --shape.",
                    stacklevel=1,
                )
        except (ShapeError, MissingLibraryError) as error:
            why_not = f"the run's shape cannot be read; give it with --shape ({str(error).removesuffix('.')})"
    return RunShape(shape, why_not, up if up in ("x", "y", "z") else "y", front, levels)


def _has_changed(file: Path, data: dict[str, Any]) -> bool:
    """Whether a file is not the one that a run's description names."""
    from sasnet_ns.models.run_description import describe_files

    if not file.is_file() or data.get("of") != "contents" or "sha256" not in data:
        return False
    now = describe_files([file])
    return bool(now["of"] == "contents" and now["sha256"] != data["sha256"])


def _option(options: Any, *names: str) -> Any:
    for name in names:
        options = options.get(name) if isinstance(options, dict) else None
    return options
