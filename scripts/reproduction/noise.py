"""What the paper's noisiness measures, and what it depends on."""

from __future__ import annotations

from typing import Any

import torch

from reproduction.context import Context
from reproduction.images import image_job
from reproduction.rows import Row, load_row
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.image_metrics import EdgeRegion, edge_mask
from sasnet_ns.fitting.signal import read_image
from sasnet_ns.networks import SASNet

PAPER_RATE = {
    "recipe": {
        "steps": 5000,
        "learning_rate": 1e-4,
        "mask_learning_rate": 5e-4,
        "schedule": "constant",
        "final_factor": None,
    }
}


def noise_causes(context: Context) -> None:
    """Noisiness of SIREN and SASNet over rate, steps, band limit, masks and sparsity, beside that of an exact fit."""
    path = context.files("images/div2k512", 1)[0]
    jobs = {
        label: image_job(context, row, path, context.seeds[0], changes)
        for label, (row, changes) in _variants(context).items()
    }
    results = dict(zip(jobs, context.run(list(jobs.values()), fields=True), strict=True))
    first = next(iter(jobs.values()))
    image = read_image(path, first.size).values
    edges = edge_mask(image, EdgeRegion(**first.region))
    lines = [
        f"### Noisiness of one image{context.mark}",
        "",
        "| fit | PSNR | noisiness | by differences | high mask, smooth | high mask, edges |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    exact = next((r["noisiness_exact"] for r in results.values() if "noisiness_exact" in r), None)
    if exact is not None:
        lines.append(f"| the image's interpolant: an exact fit | inf | {exact:.3f} | 0 | | |")
    for label, result in results.items():
        if "error" in result:
            lines.append(f"| {label} | {result['error']} | | | | |")
            continue
        masks = _highest_mask(GridField.load(result["folder"] / "checkpoint.pt"), edges)
        cells = [f"{result['psnr']:.2f}", f"{result['noisiness']:.3f}", f"{result['noisiness_differences']:.3f}"]
        lines.append(f"| {label} | {' | '.join([*cells, *masks])} |")
    share = float(edges.float().mean())
    size = f"{image.shape[0]} x {image.shape[1]} pixels, {100 * share:.0f} % of them edges"
    lines += ["", f"- {path.stem}, {size}; {context.hardware()}; seed {context.seeds[0]}."]
    context.save("noise.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _variants(context: Context) -> dict[str, tuple[Row, dict[str, Any]]]:
    siren, finer, sasnet = (load_row("images", name) for name in ("siren", "finer", "sasnet"))
    found: dict[str, tuple[Row, dict[str, Any]]] = {
        "SIREN": (siren, {}),
        "FINER": (finer, {}),
        "SASNet": (sasnet, {}),
    }
    if context.quick:
        found["SIREN, the paper's rate and steps"] = siren, PAPER_RATE
        found["SASNet, the paper's rate and steps"] = sasnet, PAPER_RATE
        slower = {"learning_rate": 5e-3, "mask_learning_rate": 2.5e-2}
        found["SASNet, a quarter of the rate"] = sasnet, {"recipe": slower}
    limit = context.choose({"band_limit": 6, "low_range": 2}, {"band_limit": 15}, {"band_limit": 30})
    found["SASNet, half the band limit"] = sasnet, {"network_config": limit}
    found["SASNet without masks"] = load_row("ablation", "fe"), {}
    for weight in (1e-3, 1e-2):
        found[f"SASNet, lambda {weight:g}"] = sasnet, {"mask_sparsity_weight": weight}
    return found


@torch.no_grad()
def _highest_mask(field: GridField, edges: torch.Tensor) -> list[str]:
    """Mean of the highest band's mask in the smooth region and in the edges; empty where there is none."""
    network = field.network
    if not isinstance(network, SASNet):
        return ["", ""]
    values = network.masks(field.points())[0]
    if values is None:
        return ["", ""]
    mask = values[:, -1].reshape(field.grid)
    return [f"{mask[~edges].mean():.2f}", f"{mask[edges].mean():.2f}"]
