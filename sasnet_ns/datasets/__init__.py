"""Data sets of fields: thousands of shapes fitted, kept with a table of them, and loaded again.

What ``__init__.pyi`` names is loaded at first use: a worker process must be able to watch its master before it imports
torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
