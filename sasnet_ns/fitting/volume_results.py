"""What a fitted volume is written out as: arrays, pictures, slices of masks, renders."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.fitting import pictures
from sasnet_ns.fitting.grid_fit import FittedGrid
from sasnet_ns.fitting.image_metrics import psnr, ssim
from sasnet_ns.fitting.signal import encode_png, own_values
from sasnet_ns.networks import SASNet
from sdf_tools.io.writing import write_atomically


@torch.no_grad()
def render_volume(
    density: Float[Tensor, "D H W"],
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    *,
    azimuth: float = 30.0,
    size: int = 320,
    steps: int | None = None,
    opacity: float = 25.0,
    threshold: float = 0.0,
    cmap: str = "pink",
    shading: float = 0.75,
    largest: float | None = None,
) -> Float[Tensor, "R C 3"]:
    """A picture of a volume by emission and absorption along parallel rays (Max 1995), the first axis up.

    A sample's opacity is ``1 - exp(-opacity * value * step)`` with the step in units of the longest side; its colour is
    the map's at its value relative to the largest, darker where the volume's gradient is turned away from a light above
    the camera.

    Args:
        density: values in [0, 1].
        spacing: size of a cell along each axis, any unit.
        azimuth: degrees around the first axis.
        size: pixels along the picture's longer side.
        steps: samples along a ray; None for a few a cell, at most 256.
        opacity: per unit of value and of the longest side.
        threshold: values up to it are transparent.
        cmap: matplotlib's name of a colour map.
        shading: share of the light that depends on the gradient; 0 for none.
        largest: value at the colour map's end; None for the volume's largest.
    """
    from matplotlib import colormaps

    extent = torch.tensor([n * s for n, s in zip(density.shape, spacing, strict=True)])
    extent = extent / extent.max()
    reach = float(extent.norm())
    steps = steps or min(256, 4 * max(density.shape))
    tall, wide = 0.52 * float(extent[0]), 0.52 * float(extent[1:].norm())
    rows, columns = (max(1, round(size * side / max(tall, wide))) for side in (tall, wide))
    lines = torch.linspace(tall, -tall, rows), torch.linspace(-wide, wide, columns)
    up, across = torch.meshgrid(*lines, indexing="ij")
    angle = math.radians(azimuth)
    right = torch.tensor([0.0, -math.sin(angle), math.cos(angle)])
    ahead = torch.tensor([0.0, math.cos(angle), math.sin(angle)])
    base = up[..., None] * torch.tensor([1.0, 0.0, 0.0]) + across[..., None] * right
    table = torch.from_numpy(colormaps[cmap](np.linspace(0, 1, 256))[:, :3]).float()
    clear, colour = torch.ones(rows, columns), torch.zeros(rows, columns, 3)
    values = density.detach().cpu().float()
    light = torch.nn.functional.normalize(0.8 * torch.tensor([1.0, 0.0, 0.0]) - ahead + 0.4 * right, dim=0)
    largest = largest or float(values.max()) or 1.0
    field = torch.stack([values, _lit(values, spacing, light)])[None]
    for depth in torch.linspace(-reach / 2, reach / 2, steps):
        # grid_sample wants x, y, z, the last axis first.
        place = ((base + depth * ahead) / (extent / 2)).flip(-1)[None, None]
        value, lit = torch.nn.functional.grid_sample(field, place, align_corners=False)[0, :, 0].clamp(0, 1)
        value = torch.where(value > threshold, value, torch.zeros_like(value))
        alpha = 1 - torch.exp(-opacity * value * reach / steps)
        bright = 1 - shading + shading * lit
        colour += (clear * alpha * bright)[..., None] * table[(value / largest * 255).long().clamp_max(255)]
        clear *= 1 - alpha
    return colour + clear[..., None] * 0.06


def _lit(
    values: Float[Tensor, "D H W"], spacing: tuple[float, ...], light: Float[Tensor, "3"]
) -> Float[Tensor, "D H W"]:
    """Cosine between the outward normal (against the gradient) and the light; 1 where there is no gradient."""
    if min(values.shape) < 2:
        return torch.ones_like(values)
    gradient = torch.stack(torch.gradient(values, spacing=[s / max(spacing) for s in spacing]), -1)
    length = gradient.norm(dim=-1)
    cosine = -(gradient @ light) / length.clamp_min(1e-12)
    return torch.where(length > 1e-6, cosine.clamp(0, 1), torch.ones_like(length))


def write_volume_results(
    fitted: FittedGrid, folder: Path, *, draw: bool = True, threshold: float = 0.0
) -> dict[str, Any]:
    """Write reconstruction, metrics, history, pictures and checkpoint into a folder.

    Args:
        fitted: the fit.
        folder: created if it is missing.
        draw: write the reconstruction, slices, masks and the rendering as well.
        threshold: values in [0, 1] up to it are transparent in the rendering.

    Returns:
        The content of ``metrics.json``.
    """
    signal, prediction = fitted.signal, fitted.field.render()
    quality = psnr(prediction, signal.values)
    figures = {
        "psnr": quality,
        "ssim": ssim(prediction, signal.values) if min(signal.grid) >= 11 else math.nan,
        "volume": signal.name,
        "spacing": list(signal.spacing),
        "window": [signal.low, signal.high],
        "settings": {
            "psnr": "values in [0, 1] (the window), clamped",
            "ssim": "scikit-image: Gaussian window in three dimensions, sigma 1.5, 11 voxels a side, data range 1, "
            "population covariance",
        },
    }
    content = fitted.save(folder, figures)
    (folder / "masks.png").unlink(missing_ok=True)  # an earlier fit's, of a network that had some
    if draw:
        for name, data in _volume_pictures(fitted, prediction, quality, threshold).items():
            write_atomically(folder / name, data)
    return content


def _volume_pictures(fitted: FittedGrid, prediction: Tensor, quality: float, threshold: float) -> dict[str, bytes]:
    field, signal = fitted.field, fitted.signal
    buffer = io.BytesIO()
    own = own_values(signal, prediction)
    np.savez_compressed(buffer, volume=own, spacing=np.asarray(signal.spacing or (1.0, 1.0, 1.0)))
    files = {"reconstruction.npz": buffer.getvalue()}
    truth, found = signal.values.mean(-1), prediction.clamp(0, 1).mean(-1)
    slices = []
    for axis, name in enumerate(("slice", "row", "column")):
        middle = signal.grid[axis] // 2
        one, other = truth.select(axis, middle), found.select(axis, middle)
        largest = max(0.02, float((one - other).abs().max()))
        slices += [(f"volume, {name} {middle}", one), (f"fit, {quality:.2f} dB", other)]
        slices.append((f"error, white {largest:.3f}", (one - other).abs() / largest))
    files["slices.png"] = pictures.panels(slices, 3, "gray", (0.0, 1.0))
    spacing = signal.spacing or (1.0, 1.0, 1.0)
    largest = float(truth.max())
    options: dict[str, Any] = {"largest": largest, "threshold": threshold}
    views = [(title, render_volume(v, spacing, **options)) for title, v in (("volume", truth), ("fit", found))]
    files["rendering.png"] = pictures.panels(views, 2, width=4.0)
    files["fit.png"] = encode_png(views[1][1])
    if fitted.history.step:
        title = f"{field.description['network']}, {field.network.parameter_count():,} parameters"
        files["curves.png"] = pictures.curves(fitted.history, field.value_scale, title)
    masks = mask_slices(fitted)
    if masks:
        files["masks.png"] = pictures.panels(masks, 4, "coolwarm", (0.0, 1.0), "mask")
    return files


@torch.no_grad()
def mask_slices(fitted: FittedGrid) -> list[tuple[str, Float[Tensor, "H W"]]]:
    """Title and middle slice of every mask of a SASNet; none for other networks."""
    field = fitted.field
    if not isinstance(field.network, SASNet):
        return []
    _, height, width = field.grid
    middle = field.grid[0] // 2
    points = field.points().reshape(*field.grid, 3)[middle].reshape(-1, 3)
    found = []
    for layer, values in enumerate(field.network.masks(points)):
        if values is not None:
            what = "band" if layer == 0 else "group"
            for k, mask in enumerate(values.T.cpu()):
                found.append((f"layer {layer + 1}, {what} {k + 1}", mask.reshape(height, width)))
    return found
