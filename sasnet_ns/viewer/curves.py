"""A run's numbers over its steps: kept beside the checkpoints, and drawn small for the viewer's panel."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

FILE_NAME = "history.json"
Row = dict[str, float]


def read_history(folder: Path) -> list[Row]:
    """Rows of a run or of a fit of an image or a volume, oldest first; none for runs without the file."""
    try:
        rows = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if isinstance(rows, dict):  # a list for each quantity, as fits of images have it
        lists = {name: values for name, values in rows.items() if isinstance(values, list)}
        columns = zip(*lists.values(), strict=False)
        rows = [{name: v for name, v in zip(lists, row, strict=True) if v is not None} for row in columns]
    return [row for row in rows if isinstance(row, dict) and "step" in row] if isinstance(rows, list) else []


def write_history(folder: Path, rows: list[Row]) -> None:
    """Write rows beside a run's checkpoints, whole or not at all."""
    from sdf_tools.io.writing import write_atomically

    write_atomically(folder / FILE_NAME, json.dumps(rows, indent=0).encode())


def thinned(rows: list[Row], most: int = 600) -> list[Row]:
    """At most so many rows, evenly left out; rows with more than a loss stay."""
    plain = [row for row in rows if len(row) <= 2]
    if len(plain) <= most:
        return rows
    step = math.ceil(len(plain) / most)
    kept = {id(row) for row in plain[::step]}
    return [row for row in rows if len(row) > 2 or id(row) in kept]


def curve(rows: list[Row], name: str, color: str = "#2f6fb0", width: int = 420, height: int = 130) -> str:
    """One quantity over the steps as markdown: a small picture on a logarithmic scale, no library in the browser.

    Args:
        rows: with ``step`` and, in some of them, ``name``.
        name: what to draw.
        color: of the line.
        width: pixels.
        height: pixels.

    Returns:
        Markdown, empty if there are fewer than two positive values.
    """
    points = [(row["step"], row[name]) for row in rows if row.get(name, 0) > 0 and math.isfinite(row[name])]
    if len(points) < 2:
        return ""
    logs = [math.log10(value) for _, value in points]
    low, high = min(logs), max(logs)
    span, last = max(high - low, 0.05), max(points[-1][0], 1)
    left, bottom, top = 52, 20, 8
    path = " ".join(
        f"{left + (width - left - 8) * step / last:.1f},{top + (height - top - bottom) * (high - value) / span:.1f}"
        for (step, _), value in zip(points, logs, strict=True)
    )
    text = 'font-family="sans-serif" font-size="11" fill="#777"'
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<path d="M{left},{top} V{height - bottom} H{width - 8}" stroke="#bbb" fill="none"/>'
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>'
        f'<text x="2" y="{top + 9}" {text}>{10**high:.1e}</text><text x="2" y="{height - bottom}" {text}>{10**low:.1e}'
        f'</text><text x="{left}" y="{height - 5}" {text}>0</text>'
        f'<text x="{width - 8}" y="{height - 5}" text-anchor="end" {text}>step {last:,.0f}</text></svg>'
    )
    data = base64.b64encode(picture.encode()).decode()
    return f"{name.replace('_', ' ')}\n\n![{name}](data:image/svg+xml;base64,{data})"
