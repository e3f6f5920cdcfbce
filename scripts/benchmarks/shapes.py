"""Whole runs of ``ns-train sasnet-sdf`` on several shapes, beside other networks given the same wall-clock time.

For each shape SASNet trains with the defaults; SIREN and the hash-grid MLP, on the Armadillo the paper's SASNet
as well, then get as many steps as take the same time: how many that is, short runs of ``ns-train`` tell beforehand.
Every field is extracted at 512^3 and measured against the shape, in box units (longest side 0.9). The wall-clock column
runs from the command to its end, imports and sampling included.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import print_table, write_rows

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SASNET_SHARED_DATA", ROOT.parent / "shared" / "data"))
SHAPES: dict[str, str | Path] = {
    "armadillo": "armadillo",
    "lucy": SHARED / "meshes" / "lucy.ply",
    "dragon": SHARED / "meshes" / "dragon.ply",
    "fandisk": SHARED / "meshes" / "fandisk.obj",
    "bunny": SHARED / "meshes" / "bunny.ply",
}
STEPS_FOR_SPEED = 2000


@dataclass
class Row:
    """One line of the table."""

    shape: str
    network: str
    steps: int
    wall_s: float
    train_s: float
    extract_s: float
    extract_peak_mb: float
    iou: float
    accuracy: float
    completeness: float
    normal_error_deg: float
    components: int
    components_reference: int
    watertight: bool


def run(json_path: Path | None, quick: bool) -> None:
    """Train, extract, measure: SASNet on every shape, then the others; the JSON file grows with every row."""
    rows: list[Row] = []
    present = {shape: str(data) for shape, data in SHAPES.items() if data == shape or Path(data).is_file()}
    for shape in SHAPES.keys() - present.keys():
        print(f"{shape}: skipped, '{SHAPES[shape]}' is not here")
    with tempfile.TemporaryDirectory() as folder:

        def add(shape: str, network: str, steps: int | None) -> int:
            rows.append(measure(shape, present[shape], network, steps, Path(folder) / shape))
            show(rows)
            write_rows(json_path, rows)
            return rows[-1].steps

        done = {shape: add(shape, "sasnet", None) for shape in present}
        rivals = {} if quick else {"ngp": present, "siren": present, "sasnet-paper": {"armadillo": "armadillo"}}
        own = step_time("sasnet", Path(folder)) if rivals else 0.0
        for rival, shapes in rivals.items():
            share = own / step_time(rival, Path(folder))
            for shape in shapes:
                add(shape, rival, round(done[shape] * share))


def step_time(network: str, folder: Path) -> float:
    """Seconds of a step of ``ns-train`` on the Armadillo, reports and checkpoints between steps included."""
    steps, seconds = training_summary(train("armadillo", network, STEPS_FOR_SPEED, folder / "speed"))
    return seconds / steps


def train(data: str, network: str, steps: int | None, folder: Path) -> str:
    """Run ``ns-train`` as a user would; returns what it printed. The run is in ``folder/run/sasnet-sdf/NETWORK``."""
    command = [
        str(Path(sys.executable).parent / "ns-train"), "sasnet-sdf", "--data", data, "--vis", "tensorboard",
        "--output-dir", str(folder), "--experiment-name", "run", "--timestamp", network,
        "--pipeline.model.network", network,
    ]  # fmt: skip
    if steps is not None:
        command += ["--max-num-iterations", str(steps)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def measure(shape: str, data: str, network: str, steps: int | None, folder: Path) -> Row:
    """One run through the command lines, as a user would do it."""
    started = time.perf_counter()
    output = train(data, network, steps, folder)
    wall = time.perf_counter() - started
    mesh_path = folder / f"{network}.ply"
    started = time.perf_counter()
    extraction = [
        sys.executable,
        "-m",
        "sasnet_ns.commands",
        "extract",
        "--load-config",
        str(folder / "run/sasnet-sdf" / network / "config.yml"),
    ]
    peak = peak_memory([*extraction, "--output-path", str(mesh_path)])
    extract_s = time.perf_counter() - started
    from sasnet_ns.shapes.named import resolve_mesh
    from sdf_tools.metrics import evaluate

    metrics = evaluate(resolve_mesh(mesh_path), resolve_mesh(data)).to_dict()
    done, seconds = training_summary(output)
    return Row(
        shape=shape,
        network=network,
        steps=done,
        wall_s=wall,
        train_s=seconds,
        extract_s=extract_s,
        extract_peak_mb=peak,
        iou=metrics["iou"],
        accuracy=metrics["accuracy_mean"],
        completeness=metrics["completeness_mean"],
        normal_error_deg=metrics["normal_error_mean"],
        components=int(metrics["components_prediction"]),
        components_reference=int(metrics["components_reference"]),
        watertight=bool(metrics["watertight_prediction"]),
    )


def peak_memory(command: list[str]) -> float:
    """Run a command and return its largest resident memory in MB."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return int(result.stdout.split()[-1]) / 1024


def training_summary(output: str) -> tuple[int, float]:
    """Steps and seconds of training, as the trainer's closing summary states them."""
    line = next(line for line in output.splitlines() if line.strip().startswith("steps "))
    words = line.replace(",", "").split()  # steps COUNT CLOCK of training MS ms each
    count, milliseconds = int(words[1]), float(words[5])
    return count, count * milliseconds / 1e3


def show(rows: list[Row]) -> None:
    """The rows so far."""
    names = [f.name for f in dataclasses.fields(Row)]
    print_table("", names, (), ([_text(getattr(row, name)) for name in names] for row in rows))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if abs(value) < 0.01 else f"{value:.4f}" if value < 1 else f"{value:.1f}"
    return str(value)
