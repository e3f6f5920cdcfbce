"""Signed distance toolkit: shapes in, samples, distances, meshes and honest numbers out.

Everything that ``__init__.pyi`` names is importable as ``sdf_tools.NAME`` and loaded at first use, so that
``import sdf_tools`` is quick; modules (``sdf_tools.losses``) resolve the same way.
"""

import lazy_loader

from sdf_tools import _moved

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_moved.install(__name__, _moved.MODULES)
