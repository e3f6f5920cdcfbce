"""The lists of versions agree with pyproject.toml, and none of the locked ones is known to be vulnerable."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
LISTS = sorted((ROOT / "requirements").glob("*.txt"))


def pins(path: Path) -> dict[str, Version]:
    """Version by name."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (version,) = requirement.specifier
            assert version.operator == "==" and "*" not in version.version and not requirement.url, line
            found[canonicalize_name(requirement.name)] = Version(version.version)
    return found


def declared(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with all extras or some."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    texts = project["dependencies"] + [text for name in extras or optional for text in optional[name]]
    return [r for r in map(Requirement, texts) if canonicalize_name(r.name) != "sasnet-ns"]


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    oldest = pins(ROOT / "requirements" / "oldest.txt")
    extras = ("fast", "safetensors", "scans", "video", "viewer", "volumes", "datasets")
    for requirement in declared(*extras):
        (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
        assert oldest[canonicalize_name(requirement.name)] == Version(bound), requirement


def test_the_locked_versions_are_allowed() -> None:
    locked = pins(ROOT / "requirements" / "development.txt")
    for requirement in declared():
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_no_list_names_a_host(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text and "index-url" not in text and "find-links" not in text


def test_a_service_that_knows_nothing_is_no_audit() -> None:
    from audit import judge, read_report

    clean, other = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
    assert judge([clean] * 19 + [other], "")[0] == 0
    assert judge([clean, other], "") == (
        2, "not audited: the vulnerability service cannot be used from here (it knows 1 of 2 packages)."
    )  # fmt: skip
    code, text = judge(read_report("noise"), "Traceback\nConnectionError: no route")
    assert code == 2 and "no route" in text
    code, text = judge(read_report(json.dumps({"dependencies": [bad, other]})), "")
    assert code == 1 and "c 2: PYSEC-1" in text


@pytest.mark.slow
def test_no_locked_version_is_known_to_be_vulnerable() -> None:
    pytest.importorskip("pip_audit")
    program = [sys.executable, str(ROOT / "scripts" / "audit.py")]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    if result.returncode == 2:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
