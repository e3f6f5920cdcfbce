"""SASNet for nerfstudio: spatially-adaptive sinusoidal networks as signed distance and density fields.

What ``__init__.pyi`` names is importable as ``sasnet_ns.NAME`` and loaded at first use.
"""

import lazy_loader

from sasnet_ns import _moved
from sdf_tools._moved import install

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

install(__name__, _moved.MODULES)
