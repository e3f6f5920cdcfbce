"""Modules that have moved: the old import works for one version more and says where to look."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

# The old name, and the modules that hold its content now.
MODULES: dict[str, tuple[str, ...]] = {
    "clean": ("topology", "mesh.clean", "mesh.summary"),
    "cloud_distance": ("distance.cloud_distance", "spatial.neighbours"),
    "field_files": ("extraction.field_files",),
    "normals": ("cloud.normals",),
    "orientation": ("cloud.orientation",),
    "outliers": ("cloud.outliers",),
    "plots": ("pictures.plots",),
    "ply": ("io.ply",),
    "raycast": ("pictures.raycast",),
    "render": ("pictures.render",),
    "repair": ("mesh.repair",),
    "scene": ("pictures.scene",),
    "scene_files": ("pictures.scene_files",),
    "shapes": ("geometry",),
    "textures": ("pictures.textures",),
    "triangles": ("spatial.closest_triangles", "spatial.neighbours", "topology"),
    "writing": ("io.writing",),
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds old module names of one package and looks their content up in the new modules.

    Args:
        package: the package whose modules moved.
        modules: old name to new names, both relative to the package (a new name may be absolute, after a colon).
    """

    def __init__(self, package: str, modules: Mapping[str, Sequence[str]]) -> None:
        self._modules = {
            f"{package}.{old}": tuple(
                new[1:] if new.startswith(":") else f"{package}.{new}" for new in news
            )
            for old, news in modules.items()
        }  # fmt: skip

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The old module's stand-in, or None if the name is not one of them."""
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in self._modules else None

    def exec_module(self, module: ModuleType) -> None:
        """Give the stand-in a look-up in the new modules."""
        news = self._modules[module.__name__]
        warnings.warn(
            f"{module.__name__} has moved to {' and '.join(news)}; the old name will go with the next version.",
            DeprecationWarning,
            stacklevel=2,
        )

        def look_up(name: str) -> Any:
            for new in news:
                found = getattr(importlib.import_module(new), name, None)
                if found is not None:
                    return found
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'; see {' and '.join(news)}.")

        module.__getattr__ = look_up  # type: ignore[method-assign]


def install(package: str, modules: Mapping[str, Sequence[str]]) -> None:
    """Serve a package's old module names from now on."""
    sys.meta_path.append(MovedModules(package, modules))
