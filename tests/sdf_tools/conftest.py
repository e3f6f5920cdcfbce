from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data beside the repository; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("SASNET_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not (root / "meshes").is_dir():
        pytest.skip("the development data (../shared/data beside the repository) is not here")
    return root
