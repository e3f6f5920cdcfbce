"""Fields named on a command line: a Python function, a program written by torch.export, or a shape's own distance."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sdf_tools.extraction._fields import Field
from sdf_tools.geometry import Mesh, NormalizedShape, Shape, normalize, positions
from sdf_tools.io.loading import load


@dataclass(frozen=True)
class NamedField:
    """A field and where it lives.

    Attributes:
        field: callable (N, 3) -> (N,), in box units.
        frame: from box units to the field's or the shape's own; its ``shape`` is empty for fields that have none.
        name: what messages call it.
    """

    field: Field
    frame: NormalizedShape
    name: str

    def box(self, level: float) -> float:
        """Half the side of the cube around the origin, box units, that holds the surface at ``level`` (box units).

        A shape leaves room for an offset surface; a field on its own is only known in [-0.5, 0.5]^3.
        """
        return 0.5 + (max(0.0, level) if len(positions(self.frame.shape)) else 0.0)


def load_field(spec: str, *, trust: bool = False, read: Callable[[str], Shape] = load) -> NamedField:
    """The field that a string names.

    - ``package.module:function`` or ``file.py:function``: the function, called with torch tensors or, if it takes none,
      numpy arrays (N, 3) in its own units. Its module is imported, so its code runs.
    - ``field.pt2``: a program written by ``torch.export.save``, from (N, 3) float32 to (N,) or (N, 1), any N. A
      ``frame.json`` among its extra files, with ``center`` and ``scale``, says how box units (which the program then
      takes and gives) belong to the shape's: ``box = (world - center) * scale``. Reading one runs what is in it
      (pickled objects, expressions that are evaluated), so ``trust`` has to say that its source is known.
    - anything else: a mesh or point-cloud file, as its exact signed distance.

    Args:
        spec: as above.
        trust: allow a ``.pt2`` to be read.
        read: makes the shape of a file; ``load`` takes triangles and normals as they are.

    Raises:
        ShapeError: a file that is no shape.
        ValueError: no such module or function, a file that is no exported program, or one that is not trusted.
    """
    where, colon, function = spec.rpartition(":")
    if colon and function.isidentifier():
        return NamedField(_function(where, function), _own_units(), function)
    if Path(spec).suffix == ".pt2":
        return _program(Path(spec), trust)
    if Path(spec).suffix in (".pt", ".pth", ".ckpt"):
        raise ValueError(
            f"'{spec}' holds weights without their network; export the field with torch.export to a .pt2 file, or name "
            "a function that loads it (file.py:function)."
        )
    from sdf_tools.distance.signed_distance import SignedDistance

    frame = normalize(read(spec))
    return NamedField(SignedDistance(frame.shape), frame, frame.shape.name)


def _own_units(center: torch.Tensor | None = None, scale: float = 1.0) -> NormalizedShape:
    nothing = Mesh(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.int64), name="field")
    return NormalizedShape(nothing, torch.zeros(3, dtype=torch.float64) if center is None else center, scale)


@contextlib.contextmanager
def _imports_from(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _function(where: str, name: str) -> Field:
    try:
        if where.endswith(".py"):
            path = Path(where)
            if not path.is_file():
                raise ValueError(f"'{where}' does not exist; check the path of the function's file.")
            found = importlib.util.spec_from_file_location(path.stem, path)
            assert found is not None and found.loader is not None
            module = importlib.util.module_from_spec(found)
            sys.modules.setdefault(path.stem, module)  # dataclasses in it look themselves up there
            with _imports_from(str(path.resolve().parent)):  # what lies beside the file, as `python file.py` finds it
                found.loader.exec_module(module)
        else:
            with _imports_from(""):  # a module in the folder that the command runs in, as `python -m` finds it
                module = importlib.import_module(where)
    except ValueError:
        raise
    except Exception as error:  # whatever the module's own code raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"'{where}' cannot be imported ({reason}).") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(
            f"'{where}' has no function '{name}'; name one that takes (N, 3) points and gives (N,) values."
        )
    return function


def _program(path: Path, trust: bool) -> NamedField:
    if not path.is_file():
        raise ValueError(f"'{path}' does not exist; check the path.")
    if not trust:
        raise ValueError(
            f"'{path}' is a program, and reading a torch.export program can run any code in it; give --trust if "
            "you know who made it."
        )
    extra = {"frame.json": ""}
    try:
        field = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # zip, pickle, version: torch raises what it meets
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"'{path}' is no program written by torch.export.save ({reason}).") from error
    if not extra["frame.json"]:
        return NamedField(field, _own_units(), path.stem)
    stored = json.loads(extra["frame.json"])
    center = torch.tensor(stored["center"], dtype=torch.float64)
    return NamedField(field, _own_units(center, float(stored["scale"])), path.stem)
