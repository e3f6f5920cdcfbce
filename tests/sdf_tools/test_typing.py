"""What a type checker, and so an editor, sees of the public surface."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parents[2]

# Large libraries are left out: their types are not in question, and reading them takes a minute.
CONFIG = """
[mypy]
python_version = 3.10
ignore_missing_imports = true
follow_imports = silent
[mypy-torch.*,numpy.*,scipy.*,matplotlib.*,PIL.*,jaxtyping.*,trimesh.*,yaml.*]
follow_imports = skip
"""

# Each line with what mypy must say about it; nothing where there is no comment.
LINES = [
    ("import sdf_tools", ""),
    ("from sdf_tools import Evaluation, Mesh, extract_mesh, evaluate, load, turntable", ""),
    ("reveal_type(load('a.ply'))", '"sdf_tools.geometry.Mesh | sdf_tools.geometry.PointCloud"'),
    ("reveal_type(Mesh)", "-> sdf_tools.geometry.Mesh"),
    ("reveal_type(extract_mesh)", "coarse_resolution: int =, thorough: bool =, probes: int =, seeds: "),
    ("reveal_type(extract_mesh)", " | None =, refine_steps: int ="),
    ("reveal_type(extract_mesh(len, 64))", '"sdf_tools.geometry.Mesh"'),
    ("reveal_type(sdf_tools.losses.eikonal_loss)", "def (gradient: Any, power: int =) -> Any"),
    ("reveal_type(sdf_tools.repair)", "tuple[sdf_tools.geometry.Mesh, list[str]]"),
    ("extract_mesh(len, resolutoin=4)", 'Unexpected keyword argument "resolutoin" for "extract_mesh"'),
    ("extract_mesh(3, 4)", 'has incompatible type "int"; expected "Callable'),
    ("extract_mesh(len, method='cubes')", "Literal['cubes']"),
    ("turntable(Mesh(1, 2), occlusion=3)", 'Unexpected keyword argument "occlusion" for "turntable"'),
    ("evaluate(Mesh(1, 2), Mesh(1, 2)).accurracy_mean", '"Evaluation" has no attribute "accurracy_mean"'),
    ("sdf_tools.extract_mehs", 'Module has no attribute "extract_mehs"'),
    ("sdf_tools.losses.eikonal", 'Module has no attribute "eikonal"'),
    ("extract_mesh(len, 64, level=0.1, cap=True, normals=True)", ""),
]


def test_a_type_checker_sees_every_name_and_option(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(CONFIG)
    (tmp_path / "user.py").write_text("\n".join(line for line, _ in LINES) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "user.py"]
    result = subprocess.run(command, cwd=tmp_path, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    said: dict[int, str] = {}
    for message in result.stdout.splitlines():
        if message.startswith("user.py:"):
            number = int(message.split(":")[1])
            said[number] = said.get(number, "") + message
    for number, (line, wanted) in enumerate(LINES, start=1):
        found = said.get(number, "")
        assert (wanted in found) if wanted else not found, f"{line}\n{found or result.stdout + result.stderr}"


def test_the_names_of_the_stub_are_there_at_run_time() -> None:
    """Every one, by attribute and by import, in a fresh process."""
    code = (
        "import sdf_tools, types\n"
        "assert isinstance(sdf_tools.losses, types.ModuleType) and sdf_tools.losses.eikonal_loss\n"
        "from sdf_tools import *\n"
        "assert all(name in globals() for name in sdf_tools.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
