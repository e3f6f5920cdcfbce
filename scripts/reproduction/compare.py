"""Tables of methods over a data set: collect runs, average, write."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from reproduction.context import Context
from reproduction.rows import Row
from reproduction.runs import NOT_DONE, Job
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
    """Means over the data set, seed by seed; a row with a failed or missing run says so instead."""
    table = []
    for row in rows:
        flat = [result for group in results[row.name] for result in group]
        errors = [result["error"] for result in flat if "error" in result]
        if errors:
            some = f"{len(flat) - len(errors)} of {len(flat)} runs are there"
            table.append(TableRow(row.label, error=some if errors[0] == NOT_DONE else errors[0]))
            continue
        values = {m.key: _seed_means(results[row.name], m.key) for m in metrics}
        made = [result["made"] for result in flat if "made" in result]
        table.append(TableRow(row.label, flat[0]["parameters"], values, row.paper.get(paper, {}), made=made))
    return table


def each_item(
    context: Context,
    stem: str,
    rows: list[Row],
    results: Results,
    items: list[str],
    metric: Metric,
    own: str = "sasnet",
) -> str | None:
    """A metric for each item of the data set, and how far each method is from SASNet; written as ``STEM_each.md``.

    Of the numbers there are, means over seeds; the last column is the mean and the standard deviation, over the items,
    of the differences between runs of one seed. Nothing for a single item. ``own`` names SASNet's row.
    """
    if len(items) < 2:
        return None
    found = {
        row.name: [[group[k].get(metric.key) for group in results[row.name]] for k in range(len(items))] for row in rows
    }
    lines = [
        f"| {metric.label} | {' | '.join(items)} | minus SASNet |",
        "| --- |" + " ---: |" * (len(items) + 1),
    ]
    for row in rows:
        values = [_mean(seeds) for seeds in found[row.name]]
        pairs = zip(found[row.name], found.get(own, []), strict=False) if row.name != own else ()
        differences = [_mean(_gaps(theirs, ours)) for theirs, ours in pairs]
        gaps = [gap for gap in differences if gap is not None]
        gap = f"{statistics.fmean(gaps):+{metric.digits}}" if gaps else ""
        gap += f" ± {statistics.stdev(gaps):{metric.digits}}" if len(gaps) > 1 else ""
        cells = ["" if value is None else format(value, metric.digits) for value in values]
        lines.append(f"| {row.label} | {' | '.join(cells)} | {gap} |")
    text = "\n".join(lines) + "\n"
    context.save(f"{stem}_each.md", text.encode())
    return text


def _gaps(theirs: list[float | None], ours: list[float | None]) -> list[float | None]:
    """Differences seed by seed."""
    pairs = zip(theirs, ours, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def _mean(numbers: list[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return statistics.fmean(known) if known else None


def _seed_means(groups: list[list[dict[str, Any]]], key: str) -> list[float]:
    """Mean over the data set for each seed; nothing where an item has no such number."""
    if any(result.get(key) is None for group in groups for result in group):
        return []
    return [statistics.fmean(result[key] for result in group) for group in groups]
