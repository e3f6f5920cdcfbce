"""Compare a mesh with a reference: overlap, exact distances, normals, and the paper's numbers beside their floor.

    python scripts/evaluate_mesh.py --prediction mesh.ply --reference armadillo.obj --json metrics.json

The same as ``sdf-tools evaluate``.
"""

from __future__ import annotations

from sdf_tools.cli import evaluate_main

if __name__ == "__main__":
    evaluate_main()
