"""Write the exact versions of a development environment as constraints: what the project needs, and what that needs.

    python scripts/lock.py requirements/development.txt

Reads pyproject.toml and the packages installed beside this Python (3.11 or later); nothing is downloaded. Packages that
happen to be installed and that nothing of ours needs are left out.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sdf_tools.io.writing import write_atomically

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("nerfstudio", "fast", "dev")
"""What ``scripts/setup.sh`` installs."""


def wanted_by(requirements: list[str], extras: set[str]) -> list[Requirement]:
    """Those of the requirements that apply here and with these extras."""
    found = [Requirement(text) for text in requirements]
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras | {""})]


def closure(requirements: list[str], extras: dict[str, list[str]]) -> dict[str, str]:
    """Version by name of everything installed that the project needs with its extras.

    Raises:
        SystemExit: something is missing here, or older than asked for.
    """
    todo = [Requirement(text) for text in requirements]
    for name in EXTRAS:
        todo += [Requirement(text) for text in extras[name]]
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name == "sasnet-ns":
            todo += [Requirement(text) for extra in requirement.extras for text in extras[extra]]
            continue
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            raise SystemExit(f"'{requirement}' is not installed here; run `make setup` first.") from None
        if not requirement.specifier.contains(package.version, prereleases=True):
            raise SystemExit(
                f"{name} {package.version} is installed, '{requirement}' is needed; run `make setup` first."
            )
        versions[name] = package.version
        new = {"", *requirement.extras} - {extra for known, extra in seen if known == name}
        seen |= {(name, extra) for extra in new}
        if new:
            todo += wanted_by(package.requires or [], new)
    return versions


def main() -> None:
    """Write the file named on the command line."""
    import tomllib

    if len(sys.argv) != 2:
        raise SystemExit("usage: python scripts/lock.py FILE")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = closure(project["dependencies"], project["optional-dependencies"])
    lines = [
        f"# Made by `make lock` on Python {platform.python_version()}, {platform.system()} {platform.machine()}.",
        "# The exact versions of the environment that the project is developed in, as constraints.",
        "# To get the same: PIP_CONSTRAINT=requirements/development.txt make setup",
        *(f"{name}=={version}" for name, version in sorted(versions.items())),
    ]
    write_atomically(Path(sys.argv[1]), ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
