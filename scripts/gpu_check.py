"""Check this package on a GPU in at most eight minutes, with torch and triton alone: one JSON file, one table.

    python scripts/gpu_check.py                      # all of it, into gpu_check/
    python scripts/gpu_check.py --sections recorded fit
    python scripts/gpu_check.py --device cpu --tiny  # in Triton's interpreter: that it runs, not how fast

Each section is a process of its own, so that one that fails, crashes or hangs loses its own rows at most. Rows are
written as they come. Needed: torch, triton, numpy, and nothing else; without numba the Armadillo has fewer samples.
Exit code 1 if a comparison or a section failed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT)]

SECTIONS: dict[str, tuple[str, str, int]] = {
    "kernels": ("gpu_checks.agreement:run", "Kernels beside their twins in float64 (largest relative difference)", 120),
    "recorded": ("gpu_checks.steps:recorded", "Recorded steps beside the ordinary loop", 90),
    "fit": ("gpu_checks.steps:fit", "A default fit of the Armadillo", 120),
    "paper_sdf": ("gpu_checks.steps:paper_sdf", "The paper's SDF preset, in turns", 90),
    "paper_image": ("gpu_checks.steps:paper_image", "The paper's image preset, in turns", 60),
    "step": ("gpu_checks.steps:step_benchmark", "Steps of every network", 60),
    "inference": ("gpu_checks.steps:inference", "Evaluation without gradients", 45),
    "kernel_times": ("gpu_checks.steps:kernel_benchmark", "Kernels, timed", 90),
    "registers": ("gpu_checks.steps:registers", "What the kernels need of the device", 60),
}
"""Name to function, title and the most seconds that it may take; in the order of importance."""


def main() -> int:
    """Run the sections one after the other."""
    do_without_jaxtyping()
    do_without_lazy_loader()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu (Triton's interpreter)")
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), help="folder of the JSON file and the table")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="only these")
    parser.add_argument("--tiny", action="store_true", help="sizes of a trial; its timings say nothing")
    parser.add_argument("--seconds", type=float, default=480.0, help="of all sections together")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # in the process of a section
    arguments = parser.parse_args()
    if arguments.rows is not None:
        return run_section(arguments)
    return run_all(arguments)


def run_section(arguments: argparse.Namespace) -> int:
    """In a process of its own: write each row of one section as a line of JSON."""
    (name,) = arguments.sections
    with arguments.rows.open("w") as file:
        try:
            import torch
            from gpu_checks.context import Context

            device = torch.device(arguments.device)
            if device.type == "cuda":
                device = torch.device("cuda", device.index or 0)  # set_device refuses one without a number
                torch.cuda.set_device(device)
            module, function = SECTIONS[name][0].split(":")
            for row in getattr(importlib.import_module(module), function)(Context(device, arguments.tiny)):
                file.write(json.dumps(row, default=float) + "\n")
                file.flush()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0][:300]
            row = {"name": "failed", "note": f"{type(error).__name__}: {first}", "ok": False}
            file.write(json.dumps({**row, "traceback": traceback.format_exc()}) + "\n")
            return 1
    return 0


def run_all(arguments: argparse.Namespace) -> int:
    """Start the sections, collect and write what they found."""
    try:
        machine = describe_machine(arguments.device)
    except ImportError as error:
        print(f"gpu_check: {error}; install torch and triton.", file=sys.stderr)
        return 1
    if arguments.device.startswith("cuda") and "GPU" not in machine:
        print("gpu_check: torch sees no CUDA device; try --device cpu --tiny for a trial without one.", file=sys.stderr)
        return 1
    result: dict[str, Any] = {"machine": machine, "tiny": arguments.tiny, "sections": {}}
    started = time.monotonic()
    interrupted = False
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))  # ends the section as well
    for name in arguments.sections:
        left = arguments.seconds - (time.monotonic() - started)
        print(f"{name}: {SECTIONS[name][1]} ...", flush=True)
        before = time.monotonic()
        try:
            rows = [{"name": "left out", "note": "no time left"}] if left < 10 else collect(name, arguments, left)
        except KeyboardInterrupt:
            rows, interrupted = [{"name": "left out", "note": "interrupted"}], True
        took = time.monotonic() - before
        result["sections"][name] = {"title": SECTIONS[name][1], "seconds": took, "rows": rows}
        write(arguments.output, result)
        bad = [row for row in rows if row.get("ok") is False]
        print(f"  {len(rows)} rows in {took:.0f} s" + "".join(f"\n  {line(row)}" for row in bad), flush=True)
        if interrupted:
            break
    failed = sum(row.get("ok") is False for section in result["sections"].values() for row in section["rows"])
    print(f"{failed} failed; '{arguments.output / 'gpu_check.md'}' and gpu_check.json have everything.")
    return 130 if interrupted else 1 if failed else 0


def collect(name: str, arguments: argparse.Namespace, left: float) -> list[dict[str, Any]]:
    """The rows of one section, whatever becomes of its process."""
    environment = dict(os.environ)
    if arguments.device == "cpu" and name == "kernels":
        environment["TRITON_INTERPRET"] = "1"  # has to be there when the kernels are defined
    with tempfile.TemporaryDirectory() as folder:
        rows_file = Path(folder) / "rows"
        command = [sys.executable, __file__, "--sections", name, "--device", arguments.device, "--rows", str(rows_file)]
        process = subprocess.Popen(command + ["--tiny"] * arguments.tiny, env=environment)
        limit, note = min(left, SECTIONS[name][2] * (20 if arguments.device == "cpu" else 1)), None
        try:
            code = process.wait(limit)
            if code < 0:
                note = f"the process ended by signal {-code}"
        except subprocess.TimeoutExpired:
            note = f"not done after {limit:.0f} s"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        rows = []
        with contextlib.suppress(OSError, json.JSONDecodeError):  # a last line that was cut off
            for text in rows_file.read_text().splitlines():
                rows.append(json.loads(text))
    return rows + ([] if note is None else [{"name": "failed", "note": note, "ok": False}])


def do_without_jaxtyping() -> None:
    """Where jaxtyping is missing, put names in its place: it is in annotations alone, which nothing here reads."""
    if importlib.util.find_spec("jaxtyping") is not None:
        return

    class Names(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__class_getitem__": classmethod(lambda cls, item: Any)})

    sys.modules["jaxtyping"] = Names("jaxtyping")


def do_without_lazy_loader() -> None:
    """Where lazy_loader is missing: names of the packages' stubs, imported when they are asked for."""
    if importlib.util.find_spec("lazy_loader") is not None:
        return

    def attach_stub(package: str, filename: str) -> tuple[Any, Any, list[str]]:
        places: dict[str, tuple[str, str]] = {}
        for node in ast.parse(Path(filename).with_suffix(".pyi").read_text()).body:
            if isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                places |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}

        def find(name: str) -> Any:
            if name not in places:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            module, there = places[name]
            if not module.strip("."):
                return importlib.import_module(f"{module}{there}", package)
            return getattr(importlib.import_module(module, package), there)

        return find, lambda: sorted(places), sorted(places)

    stand_in = types.ModuleType("lazy_loader")
    stand_in.attach_stub = attach_stub  # type: ignore[attr-defined]
    sys.modules["lazy_loader"] = stand_in


def describe_machine(device: str) -> dict[str, str]:
    """Versions, processor, GPU."""
    import torch
    import triton

    found = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    for module in ("numba", "nerfstudio"):
        found[module] = "installed" if importlib.util.find_spec(module) is not None else "missing"
    found["cores"] = str(os.cpu_count())
    if torch.cuda.is_available() and device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        found["GPU"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"
        )
        found["GPUs"] = str(torch.cuda.device_count())
    return found


def write(folder: Path, result: dict[str, Any]) -> None:
    """Both files, each whole."""
    from sdf_tools.io.writing import write_atomically, write_json

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "gpu_check.json", result)
    write_atomically(folder / "gpu_check.md", markdown(result).encode())


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# GPU check", "", ", ".join(f"{name} {value}" for name, value in result["machine"].items()), ""]
    if result["tiny"]:
        lines += ["A trial with tiny sizes: its timings say nothing.", ""]
    for section in result["sections"].values():
        rows = [{k: v for k, v in row.items() if k != "traceback"} for row in section["rows"]]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {section['title']}", "", f"{section['seconds']:.0f} s with the start of its process.", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-2 or abs(value) >= 1e4 else f"{value:.4g}"
    return str(value).replace("|", "\\|")


def line(row: dict[str, Any]) -> str:
    """A row that failed, in a line of the terminal."""
    return ", ".join(f"{key} {cell(value)}" for key, value in row.items() if key not in ("traceback", "ok"))


if __name__ == "__main__":
    sys.exit(main())
