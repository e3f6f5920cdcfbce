"""The top of the package: quick to import, and every name stays what it is."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import sdf_tools


def test_every_exported_name_resolves_and_is_not_hidden_by_a_submodule() -> None:
    for name in sdf_tools.__all__:
        value = getattr(sdf_tools, name)
        assert not isinstance(value, types.ModuleType), name
        importlib.import_module(f"sdf_tools.{sdf_tools._MODULE_OF[name]}")
        assert getattr(sdf_tools, name) is value, name


def test_importing_the_packages_loads_no_optional_library() -> None:
    heavy = "scipy trimesh igl embreex numba open3d skimage matplotlib nerfstudio triton"
    code = (
        "import sys, sdf_tools, sasnet_ns, sasnet_ns.networks, sdf_tools.shapes\n"
        "import torch\n"
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]\n"
        "print(found)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
