"""Train on the bundled Armadillo, extract a mesh, measure it, render it: what `make demo` runs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def call(*command: str) -> None:
    """Run a command of this environment, echoed as a user would type it; stop at the first that fails."""
    print("\n$ " + " ".join(command), flush=True)
    program = str(Path(sys.executable).parent / command[0])
    result = subprocess.run([program, *command[1:]], cwd=ROOT, check=False)
    if result.returncode:
        sys.exit(f"demo: '{command[0]}' failed with exit code {result.returncode}; see its message above.")


def main() -> None:
    """The whole way from a shape to a measured mesh."""
    started = time.perf_counter()
    folder = "outputs/armadillo/sasnet-sdf/demo"
    call(
        "ns-train", "sasnet-sdf", "--data", "armadillo", "--vis", "tensorboard",
        "--timestamp", "demo", "--output-dir", "outputs",
    )  # fmt: skip
    mesh = f"{folder}/armadillo.ply"
    call("sasnet", "extract", "--load-config", f"{folder}/config.yml", "--output-path", mesh)
    # The bundled shape as a file, to measure against.
    reference = ROOT / folder / "reference.ply"
    from sasnet_ns.shapes.named import resolve_mesh
    from sdf_tools.io.writing import save_mesh

    save_mesh(resolve_mesh("armadillo"), reference)
    call(
        "sasnet", "evaluate", "--prediction", mesh,
        "--reference", f"{folder}/reference.ply", "--json", f"{folder}/evaluation.json",
    )  # fmt: skip
    call("sdf-tools", "render", mesh, "--output-path", f"{folder}/armadillo.png", "--azimuth", "200")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. The mesh is {mesh}, its picture {folder}/armadillo.png.")


if __name__ == "__main__":
    main()
