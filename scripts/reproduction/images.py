"""Image fitting: Tables 1 and 4, Figure 4, the supplement's tables on images, the authors' later protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reproduction.compare import Results, each_item, run_rows, table_rows
from reproduction.context import Context
from reproduction.rows import Row, load_row, merge
from reproduction.runs import Job, load_signal
from reproduction.tables import IMAGE_METRICS, write_table
from sasnet_ns.fitting import pictures
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.image import analytic_gradient, mask_pictures
from sasnet_ns.fitting.image_metrics import gray

ROWS = ("siren", "ffn", "sape", "wire", "finer", "gaussian_image", "neurbf", "sasnet")
LATER = ("flair", "metric_grids", "cafe")
"""Published after the paper's experiments: in the quick table, elsewhere on request (``--rows``)."""
ON_REQUEST = ("sasnet_falling_rate",)
"""No row of the paper's; for ``--rows``."""
EVERY = ROWS + LATER + ON_REQUEST
SINES = ("siren", "finer", "sasnet")
ABLATION = ("base", "fe", "fe_h1", "fe_h1_h2", "fe_h1_h3", "fe_h2", "fe_h3", "h1_h2_h3", "full")
SIDES = {"quick": 96, "medium": 256, "full": None}
"""Longest side of the images, pixels; None as they are."""
REGIONS: dict[str, dict[str, Any]] = {
    "quick": {"canny_sigma": 1.0, "disk_radius": 1},
    "medium": {"disk_radius": 2},
    "full": {},
}
"""The edge region's disk shrinks with the image: at 96 pixels one of 3 pixels would make nearly everything an edge."""
NOTES = {
    "quick": "As many cycles a pixel as in the paper; 500 steps of all pixels, each method's rate chosen on another "
    "image. The paper has 5,000 steps: compare orders, not values.",
    "medium": "As many cycles a pixel as in the paper; its steps, rates and optimisers.",
}
_PAPER_PARAMETERS = 128_865


@dataclass(frozen=True)
class ImageTable:
    """A table of methods over a folder of images, which have ``paper_shape`` (rows, columns, channels) in the paper."""

    title: str
    folder: str
    paper_shape: tuple[int, int, int]
    rows: tuple[str, ...]
    full_count: int | None
    quick_count: int = 2
    medium_count: int = 4


TABLES = {
    "table1": ImageTable("Table 1: image fitting on DIV2K", "images/div2k512", (512, 512, 3), EVERY, None),
    "supp_table3": ImageTable(
        "Supp. Table 3: image fitting on Kodak", "images/kodak", (512, 768, 3), EVERY, None, 1, 2
    ),
    "supp_table4": ImageTable("Supp. Table 4: medical CT slices", "images/ct", (512, 512, 1), SINES, 100, 1, 2),
    "supp_table5": ImageTable("Supp. Table 5: FFHQ faces", "images/ffhq", (1024, 1024, 3), SINES, 100, 1, 2),
}


def image_job(context: Context, row: Row, path: Path | str, seed: int, changes: dict[str, Any] | None = None) -> Job:
    """One method on one image at the context's size."""
    fit = merge(row.fit(*context.variants), {"seed": seed, **(changes or {})})
    label = f"{row.label} on {Path(path).stem}"
    return Job("image", str(path), fit, label, SIDES[context.size], REGIONS[context.size])


def image_table(context: Context, item: str) -> None:
    """A table of methods and the error maps of its first image."""
    spec = TABLES[item]
    files = context.files(spec.folder, context.choose(spec.quick_count, spec.medium_count, spec.full_count))
    usual = ROWS + LATER if context.quick else ROWS
    names = [name for name in context.pick(spec.rows) if name in usual or context.rows]
    rows = _with_tuned([load_row("images", name) for name in names], context)
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    side = SIDES[context.size]
    reduced = f", reduced to {side} pixels" if side else ""
    notes = [f"Images: {', '.join(f.stem for f in files)}{reduced}."]
    notes += [NOTES[context.size]] if context.size in NOTES else []
    notes += _density(results, spec.paper_shape)
    table = table_rows(rows, results, IMAGE_METRICS, item)
    print(write_table(context, item, spec.title, IMAGE_METRICS, table, notes))
    print(each_item(context, item, rows, results, [f.stem for f in files], IMAGE_METRICS[0]) or "")
    shown = {row.label: results[row.name][0][0] for row in rows}
    fits_figure(context, f"{item}_fits", shown, image_job(context, rows[0], files[0], 0))


def _density(results: Results, paper_shape: tuple[int, int, int]) -> list[str]:
    """Parameters for each value of the images, here and in the paper."""
    known = [r["parameters_per_target"] for groups in results.values() for g in groups for r in g if "error" not in r]
    if not known:
        return []
    rows, columns, channels = paper_shape
    here = " to ".join(dict.fromkeys(f"{share:.2g}" for share in (min(known), max(known))))
    there = f"{_PAPER_PARAMETERS / math.prod(paper_shape):.2g}, with {columns} x {rows} x {channels} values"
    return [f"{here} parameters for each value of an image (in the paper {there})."]


def _with_tuned(rows: list[Row], context: Context) -> list[Row]:
    """The quick version also shows SIREN and FINER at the omega_0 that suits them best (variant ``quick_tuned``)."""
    found = []
    for row in rows:
        found.append(row)
        if context.quick and "quick_tuned" in row.variants:
            label = f"{row.label}, best omega_0"
            quick = merge(row.variants["quick"], row.variants["quick_tuned"])
            found.append(Row(f"{row.name}_tuned", label, {}, row.base, {"quick": quick}))
    return found


def fits_figure(context: Context, stem: str, results: dict[str, dict[str, Any]], job: Job) -> None:
    """Reconstruction and absolute error of each method beside the image (as Supp. Figs. 6 and 7)."""
    done = {label: GridField.load(r["folder"] / "checkpoint.pt") for label, r in results.items() if "folder" in r}
    if not done:
        return
    signal = load_signal(job)
    rendered = {label: field.render().clamp(0, 1) for label, field in done.items()}
    titles = [(f"{label}, {results[label]['psnr']:.2f} dB", values) for label, values in rendered.items()]
    shown = [("image", colors(signal.values)), *((title, colors(values)) for title, values in titles)]
    errors = [(label, (values - signal.values).abs().mean(-1)) for label, values in rendered.items()]
    largest = max(0.02, float(torch.stack([e for _, e in errors]).quantile(0.95)))
    context.save(f"{stem}.png", pictures.panels(shown, 5, "gray", (0.0, 1.0), width=2.2))
    context.save(f"{stem}_error.png", pictures.panels(errors, 4, "jet", (0.0, largest), "absolute error", 2.2))


def ablation(context: Context) -> None:
    """Table 4 (nine rows), and the gradients of Supp. Fig. 8 from the same runs."""
    rows = [load_row("ablation", name) for name in context.pick(ABLATION)]
    folder = "images/div2k512"
    files = context.files(folder, context.choose(2, 2, None))
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    table = table_rows(rows, results, IMAGE_METRICS, "table4")
    notes = [
        f"Images: {', '.join(f.stem for f in files)}; the paper does not say which ones its ablation used.",
        "Every row is sized to the same number of parameters, so a mask costs width elsewhere.",
        *_steps_of_the_ablation({row.name: entry.mean("psnr") for row, entry in zip(rows, table, strict=True)}),
    ]
    print(write_table(context, "table4", "Table 4: ablation on images", IMAGE_METRICS, table, notes))
    print(each_item(context, "table4", rows, results, [f.stem for f in files], IMAGE_METRICS[0], own="full") or "")
    wanted = [("SIREN", "base"), ("frozen embedding, no masks", "fe"), ("SASNet", "full")]
    shown = []
    for label, name in wanted:
        result = results.get(name, [[{}]])[0][0]
        if "folder" in result:
            field = GridField.load(result["folder"] / "checkpoint.pt")
            gradient = analytic_gradient(field, field.points())
            assert gradient is not None
            shown.append((f"{label}, {result['psnr']:.2f} dB", gray(field.render().clamp(0, 1))))
            length = gradient.norm(dim=-1).reshape(field.grid)
            shown.append((f"{label}: gradient", length / length.quantile(0.99)))
    if shown:
        context.save("supp_fig8.png", pictures.panels(shown, 2, "gray", (0.0, 1.0)))


def _steps_of_the_ablation(psnr: dict[str, float]) -> list[str]:
    """Each of the paper's steps with its direction here."""
    pairs = (
        ("base", "fe", 3.98),
        ("fe", "fe_h1", 1.32),
        ("fe_h1", "fe_h1_h2", 0.14),
        ("fe_h1", "fe_h1_h3", 0.45),
        ("fe", "fe_h2", 1.10),
        ("fe", "fe_h3", 0.58),
        ("base", "h1_h2_h3", 1.10),
        ("fe", "full", 2.05),
    )
    notes = []
    for before, after, paper in pairs:
        change = psnr.get(after, math.nan) - psnr.get(before, math.nan)
        if not math.isnan(change):
            verdict = "the same direction" if change * paper > 0 else "NOT the paper's direction"
            notes.append(f"{before} to {after}: {change:+.2f} dB here, {paper:+.2f} dB in the paper, {verdict}.")
    return notes


def toy(context: Context) -> None:
    """Figure 4: the toy image with networks of about 11,000 parameters, error maps and masks."""
    rows = [load_row("images", name) for name in context.pick(ROWS)]
    size = 128 if context.quick else 256
    variants = ("quick", "toy_quick") if context.quick else ("toy",)

    def jobs(row: Row, seed: int) -> list[Job]:
        fit = merge(row.fit(*variants), {"seed": seed})
        return [Job("image", f"toy:{size}", fit, f"{row.label} on the toy image", region=REGIONS["quick"])]

    results = run_rows(context, rows, jobs)
    table = table_rows(rows, results, IMAGE_METRICS, "fig4")
    ordered = sorted((r for r in table if not r.error), key=lambda r: -r.mean("psnr"))
    notes = [f"Toy image of {size} x {size} pixels, drawn by code; the paper's own is not published."]
    notes += ["The full setting is as small, so the medium one is the same."] if context.size == "medium" else []
    if len(ordered) > 1:
        gap = ordered[0].mean("psnr") - ordered[1].mean("psnr")
        notes.append(
            f"{ordered[0].label} leads {ordered[1].label} by {gap:.2f} dB; in the paper SASNet leads by 23 dB."
        )
    print(write_table(context, "fig4", "Figure 4: toy image", IMAGE_METRICS, table, notes))
    shown = {row.label: results[row.name][0][0] for row in rows}
    fits_figure(context, "fig4_fits", shown, jobs(rows[0], 0)[0])
    own = results.get("sasnet", [[{}]])[0][0]
    if "folder" in own:
        masks_figure(context, "fig4_masks.png", GridField.load(own["folder"] / "checkpoint.pt"))


def tiger(context: Context) -> None:
    """The authors' later protocol on one image: masks on and off at two sizes (their README; not in the paper)."""
    files = context.files("images/kodak", 1)
    names = context.pick(("p_masks", "p_no_masks", "d_masks", "d_no_masks"))
    rows = [load_row("tiger", name) for name in names]
    size = context.choose(64, 128, 317)

    def jobs(row: Row, seed: int) -> list[Job]:
        job = image_job(context, row, files[0], seed)
        job.size = size
        return [job]

    results = run_rows(context, rows, jobs)
    metrics = IMAGE_METRICS[:2]
    table = table_rows(rows, results, metrics, "tiger")
    notes = [f"{files[0].stem} at {size} pixels; the authors' numbers are for their Tiger image of 256 x 317."]
    print(write_table(context, "tiger", "The authors' later protocol, masks on and off", metrics, table, notes))


def masks_figure(context: Context, name: str, field: GridField) -> None:
    """Every mask of a SASNet as a picture."""
    size = (field.grid[0], field.grid[1])
    found = mask_pictures(field, field.points(), size)
    context.save(name, pictures.panels(found, 4, "coolwarm", (0.0, 1.0), "mask", 2.2))


def colors(values: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) colours, or (H, W) for one channel."""
    return values[..., :3] if values.shape[-1] >= 3 else values[..., 0]
