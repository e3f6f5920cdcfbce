"""The exceptions that users meet: sentences that say what is wrong, where, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class ShapeError(ValueError):
    """Input that cannot be used as a shape. ``str(error)`` is one sentence fit to print as it is."""


class MissingLibraryError(ImportError):
    """An optional library is not installed. ``str(error)`` names it and the command that installs it."""


class ShapeWarning(UserWarning):
    """What was mended, taken or left out while a shape was read; one sentence fit to print as it is."""


@contextmanager
def needs(library: str, what: str) -> Iterator[None]:
    """For imports of optional libraries: ``with needs("numba", "Blue noise"): import numba``.

    Raises:
        MissingLibraryError: "Blue noise needs numba, which is not installed: pip install numba".
    """
    try:
        yield
    except ImportError as error:
        text = f"{what} needs {library}, which is not installed: pip install {library}"
        raise MissingLibraryError(text) from error
