"""Image fitting: Tables 1 and 4, Figures 1, 3, 4, 5 and 6, and the supplement's tables and figures on images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reproduction.compare import run_rows, table_rows
from reproduction.context import Context
from reproduction.rows import Row, load_row, merge
from reproduction.runs import Job, load_signal
from reproduction.tables import IMAGE_METRICS, write_table
from sasnet_ns.fitting import pictures
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.grid_fit import FittedGrid
from sasnet_ns.fitting.image import analytic_gradient, mask_pictures
from sasnet_ns.fitting.image_metrics import gray
from sasnet_ns.fitting.loop import History
from sdf_tools.writing import write_atomically

ROWS = ("siren", "ffn", "sape", "wire", "finer", "gaussian_image", "neurbf", "sasnet")
SINES = ("siren", "finer", "sasnet")
ABLATION = ("base", "fe", "fe_h1", "fe_h1_h2", "fe_h1_h3", "fe_h2", "fe_h3", "h1_h2_h3", "full")
QUICK_SIDE = 96
"""Longest side of the quick versions' images, pixels."""
QUICK_REGION = {"disk_radius": 1}
"""At 96 pixels a side a disk of 3 pixels would make nearly everything an edge."""
QUICK_NOTE = (
    "As many parameters for each value of the image (0.16) and as many cycles a pixel as in the paper; 500 steps of "
    "all pixels, each method's rate chosen on another image. The paper has 512 x 512 pixels and 5,000 steps: compare "
    "orders, not values."
)


@dataclass(frozen=True)
class ImageTable:
    """A table of methods over a folder of images."""

    title: str
    folder: str
    rows: tuple[str, ...]
    full_count: int | None
    quick_count: int = 2


TABLES = {
    "table1": ImageTable("Table 1: image fitting on DIV2K", "images/div2k512", ROWS, None),
    "supp_table3": ImageTable("Supp. Table 3: image fitting on Kodak", "images/kodak", ROWS, None, 1),
    "supp_table4": ImageTable("Supp. Table 4: medical CT slices", "images/ct", SINES, 100, 1),
    "supp_table5": ImageTable("Supp. Table 5: FFHQ faces", "images/ffhq", SINES, 100, 1),
}


def image_job(context: Context, row: Row, path: Path | str, seed: int, changes: dict[str, Any] | None = None) -> Job:
    """One method on one image at the paper's setting, or the quick one."""
    fit = merge(row.fit(*(["quick"] if context.quick else [])), {"seed": seed, **(changes or {})})
    label = f"{row.label} on {Path(path).stem}"
    size, region = (QUICK_SIDE, QUICK_REGION) if context.quick else (None, {})
    return Job("image", str(path), fit, label, size, region)


def image_table(context: Context, item: str) -> None:
    """A table of methods and the error maps of its first image."""
    spec = TABLES[item]
    files = context.files(spec.folder, spec.quick_count if context.quick else spec.full_count)
    rows = _with_tuned([load_row("images", name) for name in context.pick(spec.rows)], context)
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    reduced = f", reduced to {QUICK_SIDE} pixels" if context.quick else ""
    notes = [f"Images: {', '.join(f.stem for f in files)}{reduced}."]
    notes += [QUICK_NOTE] if context.quick else []
    table = table_rows(rows, results, IMAGE_METRICS, item)
    print(write_table(context, item, spec.title, IMAGE_METRICS, table, notes))
    shown = {row.label: results[row.name][0][0] for row in rows}
    fits_figure(context, f"{item}_fits", shown, image_job(context, rows[0], files[0], 0))


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
    signal = load_signal(job)
    done = {label: GridField.load(r["folder"] / "checkpoint.pt") for label, r in results.items() if "folder" in r}
    if not done:
        return
    rendered = {label: field.render().clamp(0, 1) for label, field in done.items()}
    titles = [(f"{label}, {results[label]['psnr']:.2f} dB", values) for label, values in rendered.items()]
    shown = [("image", _shown(signal.values)), *((title, _shown(values)) for title, values in titles)]
    errors = [(label, (values - signal.values).abs().mean(-1)) for label, values in rendered.items()]
    largest = max(0.02, float(torch.stack([e for _, e in errors]).quantile(0.95)))
    _save(context, f"{stem}.png", pictures.panels(shown, 5, "gray", (0.0, 1.0), width=2.2))
    _save(context, f"{stem}_error.png", pictures.panels(errors, 4, "jet", (0.0, largest), "absolute error", 2.2))


def ablation(context: Context) -> None:
    """Table 4 (nine rows), and the gradients of Supp. Fig. 8 from the same runs."""
    rows = [load_row("ablation", name) for name in context.pick(ABLATION)]
    folder = "images/div2k512"
    files = context.files(folder, 2 if context.quick else None)
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    table = table_rows(rows, results, IMAGE_METRICS, "table4")
    notes = [
        f"Images: {', '.join(f.stem for f in files)}; the paper does not say which ones its ablation used.",
        "Every row is sized to the same number of parameters, so a mask costs width elsewhere.",
        *_steps_of_the_ablation({row.name: entry.mean("psnr") for row, entry in zip(rows, table, strict=True)}),
    ]
    print(write_table(context, "table4", "Table 4: ablation on images", IMAGE_METRICS, table, notes))
    wanted = [("SIREN", "base"), ("frozen embedding, no masks", "fe"), ("SASNet", "full")]
    shown = []
    signal = load_signal(image_job(context, rows[0], files[0], 0))
    for label, name in wanted:
        result = results.get(name, [[{}]])[0][0]
        if "folder" in result:
            field = GridField.load(result["folder"] / "checkpoint.pt")
            gradient = analytic_gradient(field, field.points())
            assert gradient is not None
            shown.append((f"{label}, {result['psnr']:.2f} dB", gray(field.render().clamp(0, 1))))
            length = gradient.norm(dim=-1).reshape(signal.grid)
            shown.append((f"{label}: gradient", length / length.quantile(0.99)))
    if shown:
        _save(context, "supp_fig8.png", pictures.panels(shown, 2, "gray", (0.0, 1.0)))


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
        if before in psnr and after in psnr:
            change = psnr[after] - psnr[before]
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
        return [Job("image", f"toy:{size}", fit, f"{row.label} on the toy image", region=QUICK_REGION)]

    results = run_rows(context, rows, jobs)
    table = table_rows(rows, results, IMAGE_METRICS, "fig4")
    ordered = sorted((r for r in table if not r.error), key=lambda r: -r.mean("psnr"))
    notes = [f"Toy image of {size} x {size} pixels, drawn by code; the paper's own is not published."]
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
        _masks_figure(context, "fig4_masks.png", GridField.load(own["folder"] / "checkpoint.pt"))


def masks(context: Context) -> None:
    """Supp. Fig. 9: masks and contribution maps of SASNet, and Fig. 3: neurons of SIREN and SASNet."""
    from sasnet_ns.fitting.image import contribution_pictures

    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(("siren", "sasnet"))]
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            raise ValueError(f"{row.label}: {result['error']}")
        field = GridField.load(result["folder"] / "checkpoint.pt")
        size = (field.grid[0], field.grid[1])
        maps = contribution_pictures(field, field.points(), size, per_layer=9)
        _save(context, f"fig3_{row.name}.png", pictures.panels(maps, 9, "viridis", width=1.6))
        if row.name == "sasnet":
            _masks_figure(context, "supp_fig9_masks.png", field)


def spectra(context: Context) -> None:
    """Supp. Fig. 1: spectra of SIREN and SASNet at the paper's size before training, and what training makes of them.

    The second picture is rendered with two samples a pixel along both sides: lines outside its inner half are faster
    than the pixels.
    """
    untrained = []
    for name in ("siren", "sasnet"):
        torch.manual_seed(context.seeds[0])
        field = GridField((256, 256), 3, name, {"preset": "image"})
        untrained.append((f"{name} before training", pictures.spectrum(gray(field.render()))))
    data = pictures.panels(untrained, 2, "magma", (-6.0, -2.0), "log10 of the amplitude", 4.0)
    _save(context, "supp_fig1.png", data)
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(("siren", "sasnet"))]
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    shown = []
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            raise ValueError(f"{row.label}: {result['error']}")
        trained = GridField.load(result["folder"] / "checkpoint.pt")
        torch.manual_seed(context.seeds[0])
        before = GridField(**trained.description)  # type: ignore[arg-type]
        for when, field in (("before", before), ("after", trained)):
            shown.append((f"{row.label} {when} training", pictures.spectrum(gray(field.render(scale=2)))))
    _save(context, "supp_fig1_trained.png", pictures.panels(shown, 4, "magma", (-6.0, -2.0), "log10 of the amplitude"))


def scalability(context: Context) -> None:
    """Figure 6: PSNR over the number of parameters."""
    counts = (2_500, 4_300, 8_200) if context.quick else (32_000, 64_000, 128_867, 256_000, 512_000)
    files = context.files("images/kodak", 1 if context.quick else None)
    rows = [load_row("images", name) for name in context.pick(ROWS)]
    changes: dict[str, Any] = {"recipe": {"steps": 300}} if context.quick else {}

    def jobs(row: Row, seed: int) -> list[Job]:
        return [image_job(context, row, f, seed, {**changes, "parameters": count}) for count in counts for f in files]

    results = run_rows(context, rows, jobs)
    figure, (axis,) = pictures.new_figure(1, 1, (6.0, 4.2))
    lines = [
        f"### Figure 6: PSNR (dB) over the number of parameters{' (quick version)' if context.quick else ''}",
        "",
        "| method | " + " | ".join(f"{c:,} wanted" for c in counts) + " |",
        "| --- |" + " ---: |" * len(counts),
    ]
    best: dict[int, tuple[float, str]] = {}
    for row in rows:
        cells, xs, ys = [row.label], [], []
        for k, count in enumerate(counts):
            part = [r for group in results[row.name] for r in group[k * len(files) : (k + 1) * len(files)]]
            if any("error" in r for r in part):
                cells.append(next(r["error"] for r in part if "error" in r))
                continue
            value = sum(r["psnr"] for r in part) / len(part)
            xs.append(part[0]["parameters"])
            ys.append(value)
            cells.append(f"{value:.2f} ({part[0]['parameters']:,})")
            if value > best.get(count, (0.0, ""))[0]:
                best[count] = (value, row.label)
        lines.append("| " + " | ".join(cells) + " |")
        axis.plot(xs, ys, "o-", label=row.label, linewidth=2.5 if row.name == "sasnet" else 1)
    firsts = [f"{count:,}: {name}" for count, (_, name) in sorted(best.items())]
    lines += ["", f"- First at {'; '.join(firsts)}. In the paper SASNet is first at every size."]
    lines += [f"- Images: {', '.join(f.stem for f in files)}.", f"- {context.hardware()}; seeds {context.seeds}."]
    axis.set(xlabel="parameters", ylabel="PSNR (dB)", xscale="log", title="Figure 6")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    _save(context, "fig6.png", pictures.figure_png(figure))
    _save(context, "fig6.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def omega(context: Context) -> None:
    """Supp. Fig. 3: PSNR over omega_0 of SIREN and SASNet; and Fig. 1's super-resolved pictures of both."""
    values = (5.0, 10.0, 20.0, 30.0, 43.0) if context.quick else (10.0, 20.0, 30.0, 43.0, 60.0, 80.0, 100.0)
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(("siren", "sasnet"))]

    def jobs(row: Row, seed: int) -> list[Job]:
        return [image_job(context, row, files[0], seed, _at_omega(context, row, value)) for value in values]

    results = run_rows(context, rows, jobs)
    figure, (axis, noise) = pictures.new_figure(1, 2, (4.5, 3.4))
    lines = [f"### Supp. Figure 3: influence of omega_0{' (quick version)' if context.quick else ''}", "",
             "| method | " + " | ".join(f"{v:g}" for v in values) + " | largest minus smallest |",
             "| --- |" + " ---: |" * (len(values) + 1)]  # fmt: skip
    zooms = []
    for row in rows:
        group = results[row.name][0]
        if any("error" in r for r in group):
            raise ValueError(next(r["error"] for r in group if "error" in r))
        found = [sum(g[k]["psnr"] for g in results[row.name]) / len(results[row.name]) for k in range(len(values))]
        axis.plot(values, found, "o-", label=row.label)
        noise.plot(values, [r["noisiness"] for r in group], "o-", label=row.label)
        cells = [f"{v:.2f}" for v in found]
        lines.append(f"| {row.label} | {' | '.join(cells)} | {max(found) - min(found):.2f} |")
        for k in (0, len(values) // 2, len(values) - 1) if row.name == "siren" else (len(values) // 2,):
            field = GridField.load(group[k]["folder"] / "checkpoint.pt")
            side = min(field.grid) // 4
            top, left = field.grid[0] // 3, field.grid[1] // 3
            picture = field.render(scale=16, window=[(top, top + side), (left, left + side)])
            zooms.append((f"{row.label}, omega_0 {values[k]:g}", _shown(picture.clamp(0, 1))))
    lines += ["", "- PSNR in dB. In the paper SASNet's hardly depends on omega_0 and SIREN's does.",
              *(["- Rates are lowered in proportion above an omega_0 of 8, for both."] if context.quick else []),
              f"- {files[0].stem}; {context.hardware()}; seeds {context.seeds}."]  # fmt: skip
    axis.set(xlabel="omega_0", ylabel="PSNR (dB)")
    noise.set(xlabel="omega_0", ylabel="noisiness")
    for a in (axis, noise):
        a.legend()
        a.grid(alpha=0.3)
    _save(context, "supp_fig3.png", pictures.figure_png(figure))
    _save(context, "fig1.png", pictures.panels(zooms, 4))
    _save(context, "supp_fig3.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _at_omega(context: Context, row: Row, value: float) -> dict[str, Any]:
    """The changes that give a row another omega_0."""
    changes: dict[str, Any] = {"network_config": {"omega_0": value}}
    if context.quick:
        # A step moves a sine's phase by omega_0 times the rate, and the quick rates are near the largest stable ones;
        # the paper's 1e-4 is far below.
        fit = row.fit("quick")
        share = min(1.0, fit["network_config"]["omega_0"] / value)
        changes["recipe"] = {"learning_rate": fit["recipe"]["learning_rate"] * share}
    return changes


def generalization(context: Context) -> None:
    """Figure 5: pixels shifted by an eighth, and super-resolution by 16, of every method on a Kodak image."""
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(ROWS)]
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    signal = load_signal(image_job(context, rows[0], files[0], 0))
    fields = {}
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            print(f"{row.label}: {result['error']}")
        else:
            fields[row.label] = GridField.load(result["folder"] / "checkpoint.pt")
    side = min(signal.grid) // 6
    windows = _rough_and_smooth(gray(signal.values), side)
    shown = []
    for name, what, options in (
        ("rough", "x16", {"scale": 16}),
        ("rough", "shift 1/8", {"shift": 0.125}),
        ("smooth", "x16", {"scale": 16}),
    ):
        top, left = windows[name]
        shown.append((f"image, {name} part", _shown(signal.values[top : top + side, left : left + side])))
        for label, field in fields.items():
            values = field.render(window=[(top, top + side), (left, left + side)], **options)  # type: ignore[arg-type]
            shown.append((f"{label}, {what}", _shown(values.clamp(0, 1))))
    _save(context, "fig5.png", pictures.panels(shown, 1 + len(fields), "gray", (0.0, 1.0), width=1.6))


def time_to_accuracy(context: Context) -> None:
    """Training error over wall-clock time on an image (the images' counterpart of Supp. Fig. 2)."""
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(ROWS)]
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files])
    figure, (axis,) = pictures.new_figure(1, 1, (6.0, 4.2))
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            print(f"{row.label}: {result['error']}")
            continue
        history = History(**_history(result["folder"]))
        # Some networks learn values in [0, 1], others in [-1, 1]: their losses cannot be compared, PSNRs can.
        scale = GridField.load(result["folder"] / "checkpoint.pt").value_scale
        psnr = [-10 * math.log10(loss * scale**2) for loss in history.loss]
        axis.plot(history.seconds, psnr, label=row.label, linewidth=2.5 if row.name == "sasnet" else 1)
    axis.set(xlabel="seconds of training", ylabel="PSNR of the step (dB)", title="time to accuracy")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    _save(context, "time_to_accuracy.png", pictures.figure_png(figure))


def tiger(context: Context) -> None:
    """The authors' later protocol on one image: masks on and off at two sizes (their README; not in the paper)."""
    files = context.files("images/kodak", 1)
    names = context.pick(("p_masks", "p_no_masks", "d_masks", "d_no_masks"))
    rows = [load_row("tiger", name) for name in names]
    size = 64 if context.quick else 317

    def jobs(row: Row, seed: int) -> list[Job]:
        job = image_job(context, row, files[0], seed)
        job.size = size
        return [job]

    results = run_rows(context, rows, jobs)
    metrics = IMAGE_METRICS[:2]
    table = table_rows(rows, results, metrics, "tiger")
    notes = [f"{files[0].stem} at {size} pixels; the authors' numbers are for their Tiger image of 256 x 317."]
    print(write_table(context, "tiger", "The authors' later protocol, masks on and off", metrics, table, notes))


def redraw(result: dict[str, Any], job: Job) -> FittedGrid:
    """A cached run as the fit that it was."""
    field = GridField.load(result["folder"] / "checkpoint.pt")
    return FittedGrid(field, load_signal(job), History(**_history(result["folder"])))


def _rough_and_smooth(image: torch.Tensor, side: int) -> dict[str, tuple[int, int]]:
    """Corners of the windows with the most and the least variation."""
    parts = image.unfold(0, side, side).unfold(1, side, side).std(dim=(-1, -2))
    places = {}
    for name, index in (("rough", int(parts.argmax())), ("smooth", int(parts.argmin()))):
        places[name] = (index // parts.shape[1] * side, index % parts.shape[1] * side)
    return places


def _masks_figure(context: Context, name: str, field: GridField) -> None:
    size = (field.grid[0], field.grid[1])
    found = mask_pictures(field, field.points(), size)
    _save(context, name, pictures.panels(found, 4, "coolwarm", (0.0, 1.0), "mask", 2.2))


def _shown(values: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) colours, or (H, W) for one channel."""
    return values[..., :3] if values.shape[-1] >= 3 else values[..., 0]


def _history(folder: Path) -> dict[str, list[float]]:
    import json

    content = json.loads((folder / "history.json").read_text())
    return {key: [math.nan if v is None else v for v in values] for key, values in content.items()}


def _save(context: Context, name: str, data: bytes) -> None:
    stem, suffix = name.rsplit(".", 1)
    path = context.output / f"{stem}{context.suffix}.{suffix}"
    write_atomically(path, data)
    context.done.append(path)
