"""The exceptions that users meet, and the warning: a sentence that says what is wrong, where, and what to do."""


class ShapeError(ValueError):
    """Input that cannot be used as a shape. ``str(error)`` is one sentence fit to print as it is."""


class MissingLibraryError(ImportError):
    """An optional library is not installed. ``str(error)`` names it and the command that installs it."""


class ShapeWarning(UserWarning):
    """What was mended, taken or left out while a shape was read; one sentence fit to print as it is."""
