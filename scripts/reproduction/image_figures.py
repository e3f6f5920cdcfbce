"""Figures 3, 5 and 6, and the figures of the supplement, from fits of images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from reproduction.compare import run_rows
from reproduction.context import Context
from reproduction.images import ROWS, SIDES, colors, image_job, masks_figure
from reproduction.rows import Row, load_row
from reproduction.runs import Job, load_signal
from reproduction.tables import where_and_when
from sasnet_ns.fitting import pictures
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.image import contribution_pictures
from sasnet_ns.fitting.image_metrics import gray, psnr
from sasnet_ns.fitting.signal import read_image
from sasnet_ns.training.loop import History


def masks(context: Context) -> None:
    """Supp. Fig. 9: masks and contribution maps of SASNet, and Fig. 3: neurons of SIREN, WIRE and SASNet."""
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(("siren", "wire", "sasnet"))]
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files], fields=True)
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            raise ValueError(f"{row.label}: {result['error']}")
        field = GridField.load(result["folder"] / "checkpoint.pt")
        size = (field.grid[0], field.grid[1])
        maps = contribution_pictures(field, field.points(), size, per_layer=9)
        context.save(f"fig3_{row.name}.png", pictures.panels(maps, 9, "viridis", width=1.6))
        if row.name == "sasnet":
            masks_figure(context, "supp_fig9_masks.png", field)


def spectra(context: Context) -> None:
    """Supp. Fig. 1: spectra of SIREN and SASNet at the paper's size before training, and what training makes of them.

    The second picture is rendered with two samples a pixel along both sides: lines outside its inner half are faster
    than the pixels.
    """
    untrained = []
    for name, label in (("siren", "SIREN"), ("sasnet", "SASNet")):
        torch.manual_seed(context.seeds[0])
        field = GridField((256, 256), 3, name, {"preset": "image"})
        untrained.append((f"{label} before training", pictures.spectrum(gray(field.render()))))
    data = pictures.panels(untrained, 2, "magma", (-6.0, -2.0), "log10 of the amplitude", 4.0)
    context.save("supp_fig1.png", data)
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(("siren", "sasnet"))]
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files], fields=True)
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
    context.save("supp_fig1_trained.png", pictures.panels(shown, 4, "magma", (-6.0, -2.0), "log10 of the amplitude"))


def scalability(context: Context) -> None:
    """Figure 6: PSNR over the number of parameters."""
    counts = context.choose(
        (2_500, 4_300, 8_200), (16_000, 32_217, 64_000), (32_000, 64_000, 128_867, 256_000, 512_000)
    )
    files = context.files("images/kodak", context.choose(1, 1, None))
    rows = [load_row("images", name) for name in context.pick(ROWS)]
    changes: dict[str, Any] = {"recipe": {"steps": 300}} if context.quick else {}

    def jobs(row: Row, seed: int) -> list[Job]:
        return [image_job(context, row, f, seed, {**changes, "parameters": count}) for count in counts for f in files]

    results = run_rows(context, rows, jobs)
    figure, (axis,) = pictures.new_figure(1, 1, (6.0, 4.2))
    lines = [
        f"### Figure 6: PSNR (dB) over the number of parameters{context.mark}",
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
            between = _between(context, files[0], part[0])
            cells.append(f"{value:.2f} ({part[0]['parameters']:,}{between})")
            if value > best.get(count, (0.0, ""))[0]:
                best[count] = (value, row.label)
        lines.append("| " + " | ".join(cells) + " |")
        axis.plot(xs, ys, "o-", label=row.label, linewidth=2.5 if row.name == "sasnet" else 1)
    made = [r["made"] for groups in results.values() for group in groups for r in group if "made" in r]
    firsts = [f"{count:,}: {name}" for count, (_, name) in sorted(best.items())]
    lines += ["", f"- First at {'; '.join(firsts)}. In the paper SASNet is first at every size."]
    if SIDES[context.size]:
        lines.append(
            "- In brackets the parameters, and the PSNR at twice the resolution against the image at that size."
        )
    lines += [
        f"- Images: {', '.join(f.stem for f in files)}.",
        f"- {where_and_when(context, made)}; seeds {', '.join(map(str, context.seeds))}.",
    ]
    axis.set(xlabel="parameters", ylabel="PSNR (dB)", xscale="log", title="Figure 6")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    context.save("fig6.png", pictures.figure_png(figure))
    context.save("fig6.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _between(context: Context, path: Path, result: dict[str, Any]) -> str:
    """PSNR of a reduced image's fit at twice its resolution; nothing where it was not reduced, or the fit is gone."""
    side = SIDES[context.size]
    if side is None or "folder" not in result:
        return ""
    field = GridField.load(result["folder"] / "checkpoint.pt")
    fine = read_image(path, 2 * side).values
    if fine.shape[:2] != (2 * field.grid[0], 2 * field.grid[1]):
        return ""
    return f"; {psnr(field.render(scale=2), fine):.2f}"


def omega(context: Context) -> None:
    """Supp. Fig. 3: PSNR over omega_0 of SIREN and SASNet; and Fig. 1's super-resolved pictures of both."""
    values: tuple[float, ...] = context.choose(
        (5.0, 10.0, 20.0, 30.0, 43.0), (5.0, 10.0, 21.5, 43.0, 60.0), (10.0, 20.0, 30.0, 43.0, 60.0, 80.0, 100.0)
    )
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(("siren", "sasnet"))]

    def jobs(row: Row, seed: int) -> list[Job]:
        return [image_job(context, row, files[0], seed, _at_omega(context, row, value)) for value in values]

    results = run_rows(context, rows, jobs, fields=True)
    figure, (axis, noise) = pictures.new_figure(1, 2, (4.5, 3.4))
    lines = [f"### Supp. Figure 3: influence of omega_0{context.mark}", "",
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
            zooms.append((f"{row.label}, omega_0 {values[k]:g}", colors(picture.clamp(0, 1))))
    lines += ["", "- PSNR in dB. In the paper SASNet's hardly depends on omega_0 and SIREN's does.",
              *(["- Rates are lowered in proportion above an omega_0 of 8, for both."] if context.quick else []),
              f"- {files[0].stem}; {context.hardware()}; seeds {context.seeds}."]  # fmt: skip
    axis.set(xlabel="omega_0", ylabel="PSNR (dB)")
    noise.set(xlabel="omega_0", ylabel="noisiness")
    for a in (axis, noise):
        a.legend()
        a.grid(alpha=0.3)
    context.save("supp_fig3.png", pictures.figure_png(figure))
    context.save("fig1.png", pictures.panels(zooms, 4))
    context.save("supp_fig3.md", ("\n".join(lines) + "\n").encode())
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
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files], fields=True)
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
        shown.append((f"image, {name} part", colors(signal.values[top : top + side, left : left + side])))
        for label, field in fields.items():
            values = field.render(window=[(top, top + side), (left, left + side)], **options)  # type: ignore[arg-type]
            shown.append((f"{label}, {what}", colors(values.clamp(0, 1))))
    context.save("fig5.png", pictures.panels(shown, 1 + len(fields), "gray", (0.0, 1.0), width=1.6))


def time_to_accuracy(context: Context) -> None:
    """Training error over wall-clock time on an image, the counterpart of Supp. Fig. 2."""
    files = context.files("images/kodak", 1)
    rows = [load_row("images", name) for name in context.pick(ROWS)]
    results = run_rows(context, rows, lambda row, seed: [image_job(context, row, f, seed) for f in files], fields=True)
    figure, (axis,) = pictures.new_figure(1, 1, (6.0, 4.2))
    for row in rows:
        result = results[row.name][0][0]
        if "error" in result:
            print(f"{row.label}: {result['error']}")
            continue
        history = History(**_history(result["folder"]))
        # Some networks learn values in [0, 1], others in [-1, 1]: their losses cannot be compared, PSNRs can.
        scale = GridField.load(result["folder"] / "checkpoint.pt").value_scale
        fits = [-10 * math.log10(loss * scale**2) for loss in history.loss]
        axis.plot(history.seconds, fits, label=row.label, linewidth=2.5 if row.name == "sasnet" else 1)
    axis.set(xlabel="seconds of training", ylabel="PSNR of the step (dB)", title="time to accuracy")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    context.save("time_to_accuracy.png", pictures.figure_png(figure))


def _rough_and_smooth(image: torch.Tensor, side: int) -> dict[str, tuple[int, int]]:
    """Corners of the windows with the most and the least variation."""
    parts = image.unfold(0, side, side).unfold(1, side, side).std(dim=(-1, -2))
    places = {}
    for name, index in (("rough", int(parts.argmax())), ("smooth", int(parts.argmin()))):
        places[name] = (index // parts.shape[1] * side, index % parts.shape[1] * side)
    return places


def _history(folder: Path) -> dict[str, list[Any]]:
    content = json.loads((folder / "history.json").read_text())
    return {key: [math.nan if v is None else v for v in values] for key, values in content.items()}
