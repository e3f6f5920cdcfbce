"""Volume fitting: Table 2, Figure 7, and Figure 1's second row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from reproduction.compare import run_rows, table_rows
from reproduction.context import Context
from reproduction.rows import Row, load_row, merge
from reproduction.runs import Job, load_signal
from reproduction.tables import VOLUME_METRICS, write_table
from sasnet_ns.fitting import pictures
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.volume import VOLUME_SUFFIXES, render_volume

ROWS = ("pemlp", "gauss", "siren", "finer", "wire", "sasnet")
SIDES = (32, 64, 178)
"""Longest side of the volumes at each size, voxels."""


def volume_sources(context: Context) -> list[str]:
    """The paper's eight ScalarFlow volumes where they are; else what there is, and at medium size the drawn smoke."""
    if context.size == "full":
        try:
            return [str(path) for path in context.files("volumes/scalarflow", 8, VOLUME_SUFFIXES)]
        except ValueError as error:
            print(f"{error} Going on with the files in '{context.data / 'volumes'}'.")
    found = [str(path) for path in context.files("volumes", context.choose(1, 1, 8), VOLUME_SUFFIXES)]
    return [*found, f"smoke:{SIDES[1]}"] if context.size == "medium" else found


def volume_job(context: Context, row: Row, source: str, seed: int, changes: dict[str, Any] | None = None) -> Job:
    """One method on one volume at the context's size."""
    fit = merge(row.fit(*context.variants), {"seed": seed, **(changes or {})})
    return Job("volume", source, fit, f"{row.label} on {Path(source).stem}", context.choose(*SIDES))


def volume_table(context: Context) -> None:
    """Table 2 and the slices and renderings of Figure 7."""
    sources = volume_sources(context)
    rows = [load_row("volumes", name) for name in context.pick(ROWS)]
    size = context.choose(*SIDES)

    def jobs(row: Row, seed: int) -> list[Job]:
        return [volume_job(context, row, source, seed) for source in sources]

    results = run_rows(context, rows, jobs)
    notes = [f"Volumes: {', '.join(Path(source).stem for source in sources)}, longest side at most {size} voxels."]
    if not any("scalarflow" in source.lower() for source in sources):
        notes.append("Not the paper's data: ScalarFlow's smoke is smooth and mostly empty, so its PSNR is far higher.")
    table = table_rows(rows, results, VOLUME_METRICS, "table2")
    print(write_table(context, "table2", "Table 2: volumes", VOLUME_METRICS, table, notes))
    _figure(context, "fig7", {row.label: results[row.name][0][0] for row in rows}, jobs(rows[0], 0)[0])


def omega_row(context: Context) -> None:
    """Figure 1's second row: a volume by SIREN at a small, a middle and a large omega_0, and by SASNet."""
    source = volume_sources(context)[0]
    omegas = context.choose((5.0, 20.0, 60.0), (5.0, 11.0, 30.0), (10.0, 30.0, 100.0))
    siren, sasnet = load_row("volumes", "siren"), load_row("volumes", "sasnet")
    jobs = {
        f"SIREN, omega_0 {omega:g}": volume_job(
            context, siren, source, context.seeds[0], {"network_config": {"omega_0": omega}}
        )
        for omega in omegas
    }
    jobs["SASNet"] = volume_job(context, sasnet, source, context.seeds[0])
    results = dict(zip(jobs, context.run(list(jobs.values()), fields=True), strict=True))
    for label, result in results.items():
        print(f"{label}: {result.get('error') or format(result['psnr'], '.2f') + ' dB'}")
    _figure(context, "fig1_volume", results, jobs["SASNet"])


def _figure(context: Context, stem: str, results: dict[str, dict[str, Any]], job: Job) -> None:
    signal = load_signal(job)
    fields = {k: GridField.load(r["folder"] / "checkpoint.pt") for k, r in results.items() if "folder" in r}
    values = {label: field.render().clamp(0, 1).mean(-1) for label, field in fields.items()}
    truth = signal.values.mean(-1)
    middle = signal.grid[0] // 2
    shown = [("volume", truth[middle])]
    shown += [(f"{label}, {results[label]['psnr']:.2f} dB", v[middle]) for label, v in values.items()]
    all_values = {"volume": truth, **values}
    largest = float(truth.max())
    views = [(k, render_volume(v, signal.spacing, largest=largest)) for k, v in all_values.items()]
    errors = [(label, (v[middle] - truth[middle]).abs()) for label, v in values.items()]
    columns = len(shown) if len(shown) < 6 else 4
    files = {f"{stem}.png": pictures.panels(shown, columns, "gray", (0.0, 1.0), width=2.4)}
    files[f"{stem}_rendering.png"] = pictures.panels(views, columns, width=2.4)
    if errors:
        largest = float(torch.stack([e for _, e in errors]).quantile(0.98))
        files[f"{stem}_error.png"] = pictures.panels(errors, 3, "jet", (0.0, max(largest, 1e-6)), "absolute error", 2.4)
    for name, data in files.items():
        context.save(name, data)
