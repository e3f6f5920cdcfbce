"""scripts/gpu_check.py where there is no GPU: it runs, and a section that fails costs its own rows at most."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import gpu_check  # noqa: E402
from gpu_checks import brute_force  # noqa: E402
from gpu_checks.context import Context  # noqa: E402

MISSING = (
    "numba",
    "nerfstudio",
    "open3d",
    "trimesh",
    "scipy",
    "skimage",
    "PIL",
    "matplotlib",
    "rich",
    "jaxtyping",
    "lazy_loader",
    "tyro",
    "yaml",
)
"""What a machine with torch and triton alone may lack."""
SITE = (
    f"MISSING = {MISSING}\n"
    + """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] not in MISSING:
            return super().find_spec(name, path, target)
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
)


def check(output: Path, *arguments: str, path: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--output", str(output), *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    file = output / "gpu_check.json"
    return done, json.loads(file.read_text()) if file.is_file() else {}


@pytest.mark.slow
def test_sections_run_without_a_gpu_and_without_what_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    sections = ("recorded", "fit", "paper_image", "registers")
    done, found = check(
        tmp_path / "out", "--device", "cpu", "--tiny", "--seconds", "3000", "--sections", *sections, path=str(tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert found["machine"]["numba"] == found["machine"]["nerfstudio"] == "missing"
    rows = {name: section["rows"] for name, section in found["sections"].items()}
    assert set(rows) == set(sections) and all(rows.values())
    compared = [row for section in rows.values() for row in section if "ok" in row]
    assert len(compared) >= 7 and all(row["ok"] for row in compared)
    assert "numba is missing" in rows["fit"][0]["distances"]
    table = (tmp_path / "out" / "gpu_check.md").read_text()
    assert all(section["title"] in table for section in found["sections"].values())


def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done, found = check(tmp_path)
    assert done.returncode == 1 and not found
    assert done.stderr.strip() == (
        "gpu_check: torch sees no CUDA device; try --device cpu --tiny for a trial without one."
    )


def breaks(context: Context) -> Iterator[dict[str, Any]]:
    yield {"name": "before", "ok": True}
    raise RuntimeError("a kernel failed\nmore")


def dies(context: Context) -> Iterator[dict[str, Any]]:
    yield {"name": "before", "value": 0.5}
    os.abort()


def hangs(context: Context) -> Iterator[dict[str, Any]]:
    yield {"name": "before", "ok": True}
    time.sleep(600)


def works(context: Context) -> Iterator[dict[str, Any]]:
    yield {"name": "works", "ok": True, "value": 1.25e-7}


@pytest.mark.slow
def test_what_fails_becomes_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; sys.path[:0] = [{!r}, {!r}, {!r}]\n"
        "import gpu_check\n"
        "gpu_check.__file__ = __file__\n"
        "names = ('breaks', 'dies', 'hangs', 'works')\n"
        "limits = {{'hangs': 1}}\n"
        "gpu_check.SECTIONS = {{n: (f'test_gpu_check:{{n}}', f'section {{n}}', limits.get(n, 30)) for n in names}}\n"
        "sys.exit(gpu_check.main())\n".format(str(ROOT), str(ROOT / "scripts"), str(Path(__file__).parent))
    )
    arguments = ["--device", "cpu", "--tiny", "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())["sections"]
    rows = {
        name: [{k: v for k, v in row.items() if k != "traceback"} for row in s["rows"]] for name, s in found.items()
    }
    assert rows["breaks"][1] == {"name": "failed", "note": "RuntimeError: a kernel failed", "ok": False}
    assert "in breaks" in found["breaks"]["rows"][1]["traceback"]
    assert rows["dies"] == [
        {"name": "before", "value": 0.5},
        {"name": "failed", "note": "the process ended by signal 6", "ok": False},
    ]
    assert rows["hangs"][-1]["note"].startswith("not done after")
    assert rows["works"] == [{"name": "works", "ok": True, "value": 1.25e-7}]
    table = (tmp_path / "out" / "gpu_check.md").read_text()
    assert "| works | yes | 1.25e-07 |" in table and "**no**" in table


def test_a_kernel_that_leaves_nan_fails() -> None:
    from gpu_checks.agreement import compare

    def sine(backend: str, x: torch.Tensor) -> torch.Tensor:
        return x.sin() + (0 * x**1.5 if backend == "triton" else 0)  # whose second derivative at 0 is 0 * inf

    assert compare("right", sine, [torch.tensor([0.5, 1.0])])["ok"]
    row = compare("wrong", sine, [torch.tensor([0.5, 0.0])])
    assert row["first"] < 1e-6 and row["second"] != row["second"] and not row["ok"]


def test_steps_that_memory_is_too_small_for_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import step

    networks, rounds = itertools.count(), itertools.count()

    def passes(*_: object) -> dict[str, str]:
        number = next(networks)
        return {work: f"{number} {work}" for work in step.PASSES}

    def clock(work: str, *_: object) -> float:
        if work == "1 step, Eikonal" and next(rounds) == 1:  # after one round
            raise torch.OutOfMemoryError
        return 2.0

    monkeypatch.setattr(step, "candidates", lambda: [(n, "torch", "siren", {"width": 8}) for n in ("siren", "wire")])
    monkeypatch.setattr(step, "peak_memory", lambda *_: 0.0)
    monkeypatch.setattr(step, "passes", passes)
    monkeypatch.setattr(step, "clock", clock)
    rows = step.time_networks(10, torch.device("cpu"), 2)
    there = [("siren", work) for work in step.PASSES] + [("wire", work) for work in step.PASSES[:2]]
    assert [(row.network, row.work) for row in rows] == there and {row.over_siren for row in rows} == {1.0}


def test_a_gpu_without_a_number_is_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device refuses torch.device("cuda"), with which every section would have ended."""
    import argparse

    chosen: list[torch.device] = []

    def set_device(device: torch.device) -> None:
        torch.cuda._utils._get_device_index(device)  # torch's own check
        chosen.append(device)

    def seen(context: Context) -> Iterator[dict[str, Any]]:
        yield {"name": str(context.device)}

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setitem(sys.modules, "seen", type(sys)("seen"))
    monkeypatch.setattr(sys.modules["seen"], "seen", seen, raising=False)
    monkeypatch.setattr(gpu_check, "SECTIONS", {"seen": ("seen:seen", "", 1)})
    for name, wanted in (("cuda", "cuda:0"), ("cuda:1", "cuda:1")):
        rows = tmp_path / "rows"
        arguments = argparse.Namespace(sections=["seen"], rows=rows, device=name, tiny=True)
        assert gpu_check.run_section(arguments) == 0, rows.read_text()
        assert json.loads(rows.read_text())["name"] == wanted == str(chosen[-1])


def test_every_section_has_a_function() -> None:
    for place, _, _ in gpu_check.SECTIONS.values():
        module, function = place.split(":")
        assert callable(getattr(gpu_check.importlib.import_module(module), function))


def test_brute_force_is_the_exact_signed_distance() -> None:
    pytest.importorskip("numba")
    from sasnet_ns.shapes.named import resolve_shape
    from sdf_tools.distance import SignedDistance
    from sdf_tools.geometry import normalize

    shape = normalize(resolve_shape("armadillo")).shape
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    points = torch.cat([0.9 * points, shape.vertices[:20].double() + 1e-3, shape.vertices[:5].double()])
    found = brute_force.signed_distance(points, shape.vertices, shape.faces)
    exact = SignedDistance(shape)(points)
    torch.testing.assert_close(found.abs(), exact.abs(), rtol=1e-6, atol=1e-7)
    assert bool((found.sign() == exact.sign())[exact.abs() > 1e-6].all())
