"""What nerfstudio's programs print around this package's methods: neither its own warnings nor a traceback of Ctrl-C.

Imported while nerfstudio collects its dataparsers, the earliest of this package: nothing here may import nerfstudio.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

NERFSTUDIO_WARNINGS: tuple[tuple[type[Warning], str, str], ...] = (
    (FutureWarning, r"`torch\.cuda\.amp\.(custom_fwd|custom_bwd|GradScaler|autocast)", r"nerfstudio\."),
    (UserWarning, r"Using a non-tuple sequence for multidimensional indexing", r"nerfstudio\.cameras\."),
)
"""Category, beginning of the text and module of what nerfstudio 1.1.5 sets off in newer versions of torch."""


def silence_nerfstudio() -> None:
    """Leave out exactly nerfstudio's own warnings on newer versions of torch; all others stay, also nerfstudio's."""
    for category, message, module in NERFSTUDIO_WARNINGS:
        warnings.filterwarnings("ignore", message, category, module)


@contextlib.contextmanager
def quiet_loaders() -> Iterator[None]:
    """For the making of nerfstudio's data loaders, which ask for four workers whatever the machine has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """For the first import of nerfstudio's cameras, which compiles a function by torch's old compiler."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", DeprecationWarning)
        yield


def end_on_interrupt() -> None:
    """Let Ctrl-C end a program that only looks at a run (ns-viewer, ns-eval, ns-render) in one line."""
    previous = sys.excepthook
    if getattr(previous, "ends_on_interrupt", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(f"{Path(sys.argv[0]).name}: stopped.", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook.ends_on_interrupt = True  # type: ignore[attr-defined]
    sys.excepthook = hook
