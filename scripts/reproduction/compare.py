"""Tables of methods over a data set: collect runs, average, write."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from reproduction.context import Context
from reproduction.rows import Row
from reproduction.runs import Job
from reproduction.tables import Metric, TableRow

Results = dict[str, list[list[dict[str, Any]]]]
"""Row name to results by seed and item of the data set."""


def run_rows(context: Context, rows: list[Row], make: Callable[[Row, int], list[Job]], fields: bool = False) -> Results:
    """Run every row for every seed; ``make`` gives the jobs of a row and a seed, one for each item.

    With ``fields`` every result has a folder with the network, without it kept numbers may do.
    """
    jobs = {(row.name, seed): make(row, seed) for row in rows for seed in context.seeds}
    flat = context.run([job for group in jobs.values() for job in group], fields)
    results: Results = {row.name: [] for row in rows}
    start = 0
    for (name, _), group in jobs.items():
        results[name].append(flat[start : start + len(group)])
        start += len(group)
    return results


def table_rows(rows: list[Row], results: Results, metrics: tuple[Metric, ...], paper: str) -> list[TableRow]:
    """Means over the data set, seed by seed; a row with a failed run says why instead."""
    table = []
    for row in rows:
        flat = [result for group in results[row.name] for result in group]
        failed = next((result["error"] for result in flat if "error" in result), None)
        if failed:
            table.append(TableRow(row.label, error=failed))
            continue
        values = {m.key: _seed_means(results[row.name], m.key) for m in metrics}
        table.append(TableRow(row.label, flat[0]["parameters"], values, row.paper.get(paper, {})))
    return table


def _seed_means(groups: list[list[dict[str, Any]]], key: str) -> list[float]:
    """Mean over the data set for each seed; nothing where an item has no such number."""
    if any(result.get(key) is None for group in groups for result in group):
        return []
    return [statistics.fmean(result[key] for result in group) for group in groups]
