"""Measured numbers beside published ones: Markdown, CSV, a plot."""

from __future__ import annotations

import csv
import datetime
import io
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from reproduction.context import Context
from sasnet_ns.fitting.pictures import figure_png, new_figure
from sdf_tools.io.writing import write_atomically


@dataclass(frozen=True)
class Metric:
    """A column.

    Attributes:
        key: in results and in a row's ``paper``.
        label: heading.
        digits: format specification.
        largest: whether more is better.
    """

    key: str
    label: str
    digits: str = ".2f"
    largest: bool = True


IMAGE_METRICS = (
    Metric("psnr", "PSNR"),
    Metric("ssim", "SSIM", ".3f"),
    Metric("psnr_edge", "PSNR edge"),
    Metric("noisiness", "noisiness", ".3f", largest=False),
    Metric("noisiness_differences", "by differences", ".3f", largest=False),
)
VOLUME_METRICS = (Metric("psnr", "PSNR"), Metric("ssim", "SSIM", ".4f"))
SHAPE_METRICS = (
    Metric("chamfer_paper", "Chamfer", ".3e", largest=False),
    Metric("iou_paper", "IoU", ".4f"),
    Metric("point_to_surface_mean", "mean distance", ".2e", largest=False),
    Metric("iou", "IoU, 10^6 points", ".4f"),
)
SHAPE_DETAILS = (
    Metric("surface_to_point_mean", "back", ".2e", largest=False),
    Metric("hausdorff", "Hausdorff", ".1e", largest=False),
    Metric("normal_error_mean", "normal error", ".1f", largest=False),
    Metric("components_prediction", "pieces", ".0f", largest=False),
)
"""Columns of the tables that their plots leave out."""


@dataclass
class TableRow:
    """A method's numbers.

    Attributes:
        label: first column.
        parameters: trainable values.
        values: by metric, one number a seed (each the mean over the data set's items).
        paper: published numbers by metric.
        error: why there are none.
        made: of each run, the hardware, date and seconds; none for what is measured now.
    """

    label: str
    parameters: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    error: str = ""
    made: list[dict[str, Any]] = field(default_factory=list)

    def mean(self, key: str) -> float:
        """Over seeds; NaN where nothing was measured."""
        numbers = [v for v in self.values.get(key, []) if v is not None and math.isfinite(v)]
        return statistics.fmean(numbers) if numbers else math.nan

    def spread(self, key: str) -> float | None:
        """Standard deviation over seeds; None with one seed."""
        numbers = self.values.get(key, [])
        return statistics.stdev(numbers) if len(numbers) > 1 else None


def write_table(
    context: Context,
    item: str,
    title: str,
    metrics: tuple[Metric, ...],
    rows: list[TableRow],
    notes: list[str],
    details: tuple[Metric, ...] = (),
) -> str:
    """Write ``ITEM.md``, ``ITEM.csv`` and ``ITEM.png``, which leaves ``details`` out, and return the Markdown."""
    lines = [f"### {title}{context.mark}", ""]
    lines += _markdown(metrics + details, rows)
    lines += [
        "",
        *(f"- {note}" for note in [*notes, *order_notes(metrics, rows), _counts(rows), _setting(context, rows)]),
    ]
    text = "\n".join(lines) + "\n"
    stem = f"{item}{context.suffix}"
    write_atomically(context.output / f"{stem}.md", text.encode())
    write_atomically(context.output / f"{stem}.csv", _csv(metrics + details, rows).encode())
    write_atomically(context.output / f"{stem}.png", _plot(metrics, rows, title))
    context.done.append(context.output / f"{stem}.md")
    return text


def _markdown(metrics: tuple[Metric, ...], rows: list[TableRow]) -> list[str]:
    known = [m for m in metrics if any(m.key in row.paper for row in rows)]
    heads = ["method", "parameters"]
    for metric in metrics:
        heads += [metric.label, "paper", "difference"] if metric in known else [metric.label]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in rows:
        if row.error:
            lines.append(f"| {row.label} | {row.error} |" + " |" * (len(heads) - 2))
            continue
        cells = [row.label, f"{row.parameters:,}"]
        for metric in metrics:
            value, spread, paper = row.mean(metric.key), row.spread(metric.key), row.paper.get(metric.key)
            measured = "" if math.isnan(value) else format(value, metric.digits)
            if measured and _best(metric, rows) == value:
                measured = f"**{measured}**"
            if measured and spread is not None:
                measured += f" ± {spread:{metric.digits}}"
            cells.append(measured)
            if metric in known:
                cells.append("" if paper is None else format(paper, metric.digits))
                differs = paper is not None and not math.isnan(value)
                cells.append(format(value - paper, "+" + metric.digits) if differs and paper is not None else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _best(metric: Metric, rows: list[TableRow]) -> float:
    numbers = [row.mean(metric.key) for row in rows if not math.isnan(row.mean(metric.key))]
    return (max if metric.largest else min)(numbers, default=math.nan)


def order_notes(metrics: tuple[Metric, ...], rows: list[TableRow]) -> list[str]:
    """For each published metric: who is first here and there, and how alike the two orders are."""
    notes = []
    for metric in metrics:
        both = [r for r in rows if metric.key in r.paper and not math.isnan(r.mean(metric.key))]
        if len(both) < 2:
            continue
        sign = -1 if metric.largest else 1
        here = sorted(both, key=lambda r: sign * r.mean(metric.key))
        there = sorted(both, key=lambda r: sign * r.paper[metric.key])
        n = len(both)
        gaps = sum((here.index(r) - there.index(r)) ** 2 for r in both)
        alike = 1 - 6 * gaps / (n * (n * n - 1))
        same = "as in the paper" if here[0] is there[0] else f"in the paper {there[0].label}"
        orders = f"rank correlation of the orders of {n} methods {alike:+.2f}"
        notes.append(f"{metric.label}: {here[0].label} is first, {same}; {orders}.")
    return notes


def _counts(rows: list[TableRow]) -> str:
    counts = [row.parameters for row in rows if row.parameters]
    if not counts:
        return "No row is complete."
    return f"Parameters: {min(counts):,} to {max(counts):,}, {100 * (max(counts) / min(counts) - 1):.1f} % apart."


def _setting(context: Context, rows: list[TableRow]) -> str:
    parts = where_and_when(context, [run for row in rows for run in row.made])
    seeds = f"seeds {', '.join(map(str, context.seeds))}, ± their standard deviation"
    if len(context.seeds) == 1:
        seeds = f"one seed ({context.seeds[0]}), so no spread"
    return f"{parts}; {seeds}."


def where_and_when(context: Context, made: list[dict[str, Any]]) -> str:
    """Hardware, dates and lengths of runs, which may be long ago; of none, this machine and today."""
    if not made:
        return f"{context.hardware()}; {datetime.date.today().isoformat()}"
    dates = sorted({run["date"] for run in made})
    parts = [*sorted({run["hardware"] for run in made}), _range(dates)]
    minutes = sorted(run["seconds"] / 60 for run in made if run["seconds"] is not None)
    parts += [f"{_range([f'{minute:.3g}' for minute in minutes])} minutes a run"] if minutes else []
    threads = sorted({run["threads"] for run in made})
    parts += [f"{threads[0]} to {threads[-1]} threads"] if len(threads) > 1 else []
    commits = {run["commit"] for run in made}
    parts += [f"of {len(commits)} commits"] if len(commits) > 1 else []
    changed = sum(run["commit"].endswith("with changes") for run in made)
    parts += [f"{changed} of them by a program with changes that its commit does not have"] if changed else []
    return "; ".join(parts)


def _range(ordered: list[str]) -> str:
    return " to ".join(dict.fromkeys((ordered[0], ordered[-1])))


def _csv(metrics: tuple[Metric, ...], rows: list[TableRow]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    heads = ["method", "parameters"]
    for metric in metrics:
        heads += [metric.key, f"{metric.key}_spread", f"{metric.key}_paper", f"{metric.key}_difference"]
    writer.writerow([*heads, "error"])
    for row in rows:
        cells: list[object] = [row.label, row.parameters]
        for metric in metrics:
            value, paper = row.mean(metric.key), row.paper.get(metric.key)
            difference = "" if paper is None or math.isnan(value) else value - paper
            spread = row.spread(metric.key)
            cells += ["" if math.isnan(value) else value, "" if spread is None else spread]
            cells += ["" if paper is None else paper, difference]
        writer.writerow([*cells, row.error])
    return buffer.getvalue()


def _plot(metrics: tuple[Metric, ...], rows: list[TableRow], title: str) -> bytes:
    """Measured and published values side by side, one panel a metric."""
    shown = [row for row in rows if not row.error]
    figure, axes = new_figure(1, len(metrics), (3.4, 0.8 + 0.34 * max(3, len(shown))))
    places = list(range(len(shown)))[::-1]
    for axis, metric in zip(axes, metrics, strict=True):
        values = [row.mean(metric.key) for row in shown]
        axis.barh([p + 0.2 for p in places], values, 0.38, label="here")
        published = [row.paper.get(metric.key, math.nan) for row in shown]
        if not all(math.isnan(v) for v in published):
            axis.barh([p - 0.2 for p in places], published, 0.38, color="0.75", label="paper")
        axis.set_yticks(places, [row.label for row in shown] if axis is axes[0] else [""] * len(shown), fontsize=8)
        finite = [v for v in [*values, *published] if math.isfinite(v)]
        if finite and min(finite) > 0.6 * max(finite):
            right = 1.0 if metric.key == "ssim" else None  # its largest value
            axis.set_xlim(min(finite) - 0.3 * (max(finite) - min(finite)) - 1e-9, right)
        elif finite and min(finite) > 0 and max(finite) > 30 * min(finite):
            axis.set_xscale("log")  # one row far off would leave the others no length
        axis.set_title(metric.label, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle(title, fontsize=9)
    return figure_png(figure)
