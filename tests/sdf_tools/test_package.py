"""The top of the package: quick to import, and every name stays what it is."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import pytest

import sdf_tools
from sdf_tools._moved import MODULES


def test_every_exported_name_resolves() -> None:
    for name in sdf_tools.__all__:
        value = getattr(sdf_tools, name)
        if isinstance(value, types.ModuleType):
            assert value.__name__ == f"sdf_tools.{name}"
    assert callable(sdf_tools.repair) and callable(sdf_tools.clean)
    assert sdf_tools.losses.eikonal_loss


def test_modules_that_moved_are_found_under_their_old_names_with_a_warning() -> None:
    for old, news in MODULES.items():
        sys.modules.pop(f"sdf_tools.{old}", None)
        with pytest.warns(DeprecationWarning, match="has moved to"):
            stand_in = importlib.import_module(f"sdf_tools.{old}")
        first = importlib.import_module(f"sdf_tools.{news[0]}")
        name = next(n for n, v in vars(first).items() if getattr(v, "__module__", None) == first.__name__)
        assert getattr(stand_in, name) is getattr(first, name)
        with pytest.raises(AttributeError, match="see sdf_tools"):
            stand_in.no_such_name  # noqa: B018
        delattr(sdf_tools, old)


def test_importing_the_packages_loads_no_optional_library() -> None:
    heavy = "scipy trimesh igl embreex numba open3d skimage matplotlib nerfstudio triton"
    code = (
        "import sys, sdf_tools, sasnet_ns, sasnet_ns.networks, sdf_tools.geometry\n"
        "import torch\n"
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]\n"
        "print(found)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
