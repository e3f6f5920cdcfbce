"""The examples in the docstrings do what they say, and the functions that people start with have one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import sdf_tools

MODULES = sorted(module.name for module in pkgutil.walk_packages(sdf_tools.__path__, "sdf_tools."))

# Where the example of each is: in its own docstring, or in its module's.
SHOWN = {
    "load": "io",
    "save_mesh": "io.writing",
    "save_points": "io",
    "normalize": "geometry",
    "SignedDistance": "distance.signed_distance",
    "sample_surface": "sampling",
    "sample_volume": "sampling",
    "build_sdf_pool": "pools",
    "eikonal_loss": "losses",
    "extract_mesh": "extraction._extract",
    "evaluate": "metrics._evaluate",
    "iou": "metrics._overlap",
    "repair": "mesh",
    "summarize": "mesh",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_what_people_start_with_has_an_example(name: str) -> None:
    module = importlib.import_module(f"sdf_tools.{SHOWN[name]}")
    texts = [inspect.getdoc(module) or "", inspect.getdoc(getattr(module, name)) or ""]
    examples = [example.source for text in texts for example in doctest.DocTestParser().get_examples(text)]
    assert any(f"{name}(" in source for source in examples)
