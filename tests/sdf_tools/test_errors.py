"""A library that is not there is said in one sentence."""

from __future__ import annotations

import pytest

from sdf_tools.errors import MissingLibraryError, needs


def test_a_missing_library_is_named_with_what_needs_it() -> None:
    with (
        pytest.raises(
            MissingLibraryError, match=r"^A picture needs embreex, which is not installed: pip install embreex$"
        ),
        needs("embreex", "A picture"),
    ):
        import no_such_library  # noqa: F401
    with needs("numpy", "Everything"):
        import numpy
    assert numpy
