"""Look the locked versions up among known vulnerabilities, with pip-audit.

    python scripts/audit.py [requirements/development.txt]

Exit code 1 where one is vulnerable, 2 where nothing was found out: pip-audit calls packages that its service does not
know "skipped" and is content, which a service that cannot be reached properly also looks like.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parents[1] / "requirements" / "development.txt"
OPTIONS = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")


def read_report(text: str) -> list[dict[str, Any]]:
    """The packages of pip-audit's report; none where it wrote no report."""
    start = text.find("{")
    return json.loads(text[start:])["dependencies"] if start >= 0 else []


def judge(packages: list[dict[str, Any]], complaint: str) -> tuple[int, str]:
    """Exit code and what to say.

    Args:
        packages: of the report.
        complaint: what pip-audit wrote besides, of which the last line is shown where there is no report.
    """
    known = [package for package in packages if "skip_reason" not in package]
    bad = [package for package in known if package["vulns"]]
    if bad:
        lines = [f"{p['name']} {p['version']}: " + ", ".join(v["id"] for v in p["vulns"]) for p in bad]
        return 1, "\n".join([f"{len(bad)} of {len(known)} packages have known vulnerabilities:", *lines])
    if len(known) < 0.9 * len(packages) or not packages:
        reason = (complaint.strip().splitlines() or ["no reason given"])[-1]
        if packages:
            reason = f"it knows {len(known)} of {len(packages)} packages"
        return 2, f"not audited: the vulnerability service cannot be used from here ({reason[:200]})."
    left = len(packages) - len(known)
    return 0, f"no known vulnerability in {len(known)} packages" + (
        f"; {left} are not known to the service" * bool(left)
    )


def main(arguments: list[str]) -> int:
    """Audit the named requirements, or the lock file."""
    lock = arguments[0] if arguments else str(LOCK)
    command = [sys.executable, "-m", "pip_audit", "-r", lock, *OPTIONS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    code, text = judge(read_report(result.stdout), result.stderr)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
