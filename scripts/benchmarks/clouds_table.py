"""The table of docs/clouds.md from docs/clouds_rows.json, the kept rows of ``benchmark.py clouds --json``.

``--json`` names other rows, which are added to the kept ones, newer in place of older.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from benchmarks.cloud_cases import CASES
from benchmarks.clouds import SHAPES, Row, markdown, with_ratios

from sdf_tools.io.writing import write_atomically, write_json

DOCS = Path(__file__).resolve().parents[2] / "docs"
KEPT, PAGE = DOCS / "clouds_rows.json", DOCS / "clouds.md"
BEGIN, END = "<!-- rows: made by benchmark.py clouds_table -->", "<!-- end of rows -->"
HEAD = (
    "| shape | cloud | method | IoU | mesh to truth | truth to mesh | normals, degrees | pieces | watertight | seconds "
    "| over Open3D's |\n" + "| --- " * 11 + "|"
)


def run(json_path: Path | None, quick: bool) -> None:
    """Put the rows into the page, and say where ours is not first."""
    rows = {key(row): row for row in read(KEPT)}
    if json_path is not None:
        rows.update((key(row), row) for row in read(json_path))
    kept = with_ratios(sorted(rows.values(), key=_order))
    write_json(KEPT, [dataclasses.asdict(row) for row in kept])
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_atomically(PAGE, f"{before}{BEGIN}\n{HEAD}\n{markdown(kept)}\n{END}{after}".encode())
    for row in behind(kept):
        print(f"behind: {row.shape}, {row.cloud}: {row.method} IoU {row.iou:.4f}, {1e3 * row.mesh_to_truth:.3f}")


def read(path: Path) -> list[Row]:
    """Rows of a file, none if there is none."""
    return [Row(**row) for row in json.loads(path.read_text())] if path.is_file() else []


def key(row: Row) -> tuple[str, str, str]:
    """What a row is of."""
    return row.shape, row.cloud, row.method


def _order(row: Row) -> tuple[int, int, str, bool]:
    names = list(CASES)
    case = names.index(row.cloud) if row.cloud in names else len(names)
    return SHAPES.index(row.shape) if row.shape in SHAPES else len(SHAPES), case, row.cloud, row.method != "ours"


def behind(rows: list[Row]) -> list[Row]:
    """Rows of others with a higher IoU, or a smaller sum of both distances, than ours on the same cloud."""
    ours = {(row.shape, row.cloud): row for row in rows if row.method == "ours"}
    found = []
    for row in rows:
        own = ours.get((row.shape, row.cloud))
        if own is None or row.method.startswith("ours"):
            continue
        nearer = row.mesh_to_truth + row.truth_to_mesh < own.mesh_to_truth + own.truth_to_mesh
        if row.iou > own.iou or nearer:
            found.append(row)
    return found
