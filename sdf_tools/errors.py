"""The exceptions that users meet: sentences that say what is wrong, where, and what to do."""

import errno
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


def nothing_inside(name: str) -> str:
    """The sentence for a surface that encloses nothing."""
    return (
        f"'{name}' encloses nothing: it is a sheet without an inside, which a signed distance cannot describe; give a "
        "closed surface, or fit the unsigned distance by `sasnet fit-shape` with objective.loss sign_agnostic."
    )


def file_trouble(error: OSError) -> str:
    """What the system says about a file or a disk, as one sentence."""
    reason = error.strerror or str(error) or type(error).__name__
    where = f"'{error.filename}': " if error.filename is not None else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "; free some space and run it again, nothing half-written was left." if full else "."
    return f"{where}{reason[:1].lower()}{reason[1:]}{advice}"
