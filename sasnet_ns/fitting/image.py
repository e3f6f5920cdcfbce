"""What a fitted image is written out as: numbers, pictures, curves, a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sasnet_ns.analysis.contribution import group_contributions, neuron_contributions
from sasnet_ns.fitting import image_metrics, pictures
from sasnet_ns.fitting.grid_field import GridField
from sasnet_ns.fitting.grid_fit import FittedGrid
from sasnet_ns.fitting.image_metrics import EdgeRegion, gray
from sasnet_ns.fitting.signal import Signal, axis_coordinates, encode_png, encode_tiff, grid_coordinates
from sasnet_ns.networks import SASNet
from sdf_tools.io.writing import write_atomically

MAX_PICTURE = 512
"""Longest side of pictures of masks, gradients and contributions; larger images are sampled more coarsely."""


@dataclasses.dataclass
class ImageMetrics:
    """Metrics of the paper's Section 4.1; see :mod:`sasnet_ns.fitting.image_metrics` for definitions.

    Attributes:
        psnr: dB.
        ssim: of 1; NaN for images smaller than its window.
        psnr_edge: dB over the edge region; NaN without edges.
        noisiness: grey values per unit of [-1, 1]; NaN for networks without an analytic gradient.
        noisiness_differences: the same with finite differences of the network's pixels, as for the image's: what is
            between the pixels, and what differences do to sharp images, is not in it.
        noisiness_exact: noisiness of the image's own interpolant: of an exact fit that adds nothing between the pixels.
        edge_share: share of pixels in the edge region.
    """

    psnr: float
    ssim: float
    psnr_edge: float
    noisiness: float
    noisiness_differences: float
    noisiness_exact: float
    edge_share: float


def pixel_spacing(field: GridField) -> tuple[float, ...]:
    """Coordinate units between neighbouring samples, axis by axis."""
    return tuple(2 / n if field.coordinates == "centers" else 2 / max(1, n - 1) for n in field.grid)


def analytic_gradient(field: GridField, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"] | None:
    """Gradient of the field's grey value per coordinate unit; None where the network is not differentiable in x."""
    if field.description["network"] == "gaussian_image":
        return None
    return image_metrics.gray_gradient(field.network, points, field.value_scale)


def evaluate_image(
    field: GridField, signal: Signal, region: EdgeRegion | None = None, prediction: Tensor | None = None
) -> tuple[ImageMetrics, Bool[Tensor, "H W"]]:
    """Metrics of a field against the image it was fitted to, and the edge region.

    Args:
        field: the fit.
        signal: the image.
        region: how edges are found.
        prediction: ``field.render()``, when it is at hand.
    """
    prediction = field.render() if prediction is None else prediction
    edges = image_metrics.edge_mask(signal.values, region)
    noise = differences = exact = math.nan
    if min(signal.grid) >= 3:
        (height, width), image = pixel_spacing(field), gray(signal.values)
        reference = image_metrics.finite_difference_gradient(image, (height, width))
        own = image_metrics.finite_difference_gradient(gray(prediction.clamp(0, 1)), (height, width))
        differences = image_metrics.noisiness(own, reference, edges)
        interpolant = image_metrics.interpolant_gradient(image, (height, width))
        exact = image_metrics.noisiness(interpolant, reference, edges)
        gradient = analytic_gradient(field, field.points())
        if gradient is not None:
            noise = image_metrics.noisiness(gradient.cpu().reshape(*signal.grid, 2), reference, edges)
    return (
        ImageMetrics(
            psnr=image_metrics.psnr(prediction, signal.values),
            ssim=image_metrics.ssim(prediction, signal.values) if min(signal.grid) >= 11 else math.nan,
            psnr_edge=image_metrics.edge_psnr(prediction, signal.values, edges),
            noisiness=noise,
            noisiness_differences=differences,
            noisiness_exact=exact,
            edge_share=float(edges.float().mean()),
        ),
        edges,
    )


def write_image_results(
    fitted: FittedGrid, folder: Path, region: EdgeRegion | None = None, *, draw: bool = True
) -> dict[str, Any]:
    """Write reconstruction, metrics, history, pictures and checkpoint into a folder.

    Args:
        fitted: the fit.
        folder: created if it is missing.
        region: how edges are found.
        draw: write pictures besides the reconstruction; without it those of an earlier fit stay.

    Returns:
        The content of ``metrics.json``.
    """
    field, signal = fitted.field, fitted.signal
    prediction = field.render()
    metrics, edges = evaluate_image(field, signal, region, prediction)
    figures = {
        **dataclasses.asdict(metrics),
        "image": signal.name,
        "bits": signal.bits,
        "settings": {
            "psnr": "values in [0, 1], clamped",
            "ssim": "scikit-image: Gaussian window, sigma 1.5, 11 x 11, data range 1, population covariance",
            "edges": dataclasses.asdict(region or EdgeRegion()),
            "noisiness": "grey in [0, 1] per unit of [-1, 1]; finite differences of second order for the image",
        },
    }
    content = fitted.save(folder, figures)
    files = reconstruction_files(signal, prediction)
    if draw:
        files |= image_pictures(fitted, prediction, metrics, edges)
    for name in ("reconstruction.tif", *(("gradient.png", "masks.png", "contributions.png") if draw else ())):
        if name not in files:  # of an earlier fit in the same folder
            (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data)
    return content


def reconstruction_files(
    signal: Signal, values: Float[Tensor, "H W C"], stem: str = "reconstruction"
) -> dict[str, bytes]:
    """Values in [0, 1] as an 8-bit PNG, and as a TIFF in the signal's own numbers where a PNG loses some."""
    files = {}
    if signal.channels <= 4:
        files[f"{stem}.png"] = encode_png(values)
    if signal.bits != 8 or signal.channels > 4:
        files[f"{stem}.tif"] = encode_tiff(signal, values)
    return files


def image_pictures(
    fitted: FittedGrid, prediction: Tensor, metrics: ImageMetrics, edges: Bool[Tensor, "H W"]
) -> dict[str, bytes]:
    """File name to content of everything there is to see of a fit besides its reconstruction."""
    field, signal = fitted.field, fitted.signal
    files: dict[str, bytes] = {}
    files["error.png"] = pictures.error_map(prediction, signal.values, f"{metrics.psnr:.2f} dB")
    files["edges.png"] = encode_png(edges[..., None].float())
    if fitted.history.step:
        title = f"{field.description['network']}, {field.network.parameter_count():,} parameters"
        files["curves.png"] = pictures.curves(fitted.history, field.value_scale, title)
    spectra = [("image", gray(signal.values)), ("fit", gray(prediction.clamp(0, 1)))]
    if fitted.before is not None:
        spectra.append(("network before training", gray(fitted.before)))
    shown = [(title, pictures.spectrum(values)) for title, values in spectra]
    files["spectrum.png"] = pictures.panels(shown, 3, "magma", (-6.0, -1.5), "log10 of the amplitude")
    points, size = _picture_points(field)
    gradient = analytic_gradient(field, points)
    if gradient is not None:
        files["gradient.png"] = _gradient_picture(field, signal, gradient.cpu().norm(dim=-1).reshape(size))
    masks = mask_pictures(field, points, size)
    if masks:
        files["masks.png"] = pictures.panels(masks, 4, "coolwarm", (0.0, 1.0), "mask")
    contributions = contribution_pictures(field, points, size)
    if contributions:
        files["contributions.png"] = pictures.panels(contributions, 6, "viridis", width=2.0)
    return files


@torch.no_grad()
def mask_pictures(
    field: GridField, points: Float[Tensor, "N 2"], size: tuple[int, int]
) -> list[tuple[str, Float[Tensor, "H W"]]]:
    """Title and picture of every mask of a SASNet; none for other networks."""
    network = field.network
    if not isinstance(network, SASNet):
        return []
    found = []
    for layer, values in enumerate(network.masks(points)):
        if values is None:
            continue
        what = "band" if layer == 0 else "group"
        for k, mask in enumerate(values.T.cpu()):
            found.append((f"layer {layer + 1}, {what} {k + 1}, mean {float(mask.mean()):.2f}", mask.reshape(size)))
    return found


def contribution_pictures(
    field: GridField, points: Float[Tensor, "N 2"], size: tuple[int, int], per_layer: int = 6
) -> list[tuple[str, Float[Tensor, "H W"]]]:
    """The neurons that contribute most on average in each layer; for SASNet's hidden layers, the mask groups."""
    network, found = field.network, []
    layers = neuron_contributions(network, points)
    for index, (name, values) in enumerate(layers.items()):
        groups = 0
        if isinstance(network, SASNet) and index > 0:
            groups = network.config.groups[index - 1]
        shown = group_contributions(values, groups) if groups else values.abs()
        best = shown.mean(0).argsort(descending=True)[:per_layer]
        what = "group" if groups else "neuron"
        for k in best.sort().values.tolist():
            found.append((f"into {name.removesuffix('.weight')}, {what} {k + 1}", shown[:, k].cpu().reshape(size)))
    return found


def _picture_points(field: GridField) -> tuple[Tensor, tuple[int, int]]:
    """Coordinates of a picture no larger than MAX_PICTURE a side, and its rows and columns."""
    longest = max(field.grid)
    sides = [n if longest <= MAX_PICTURE else max(1, round(n * MAX_PICTURE / longest)) for n in field.grid]
    axes = [axis_coordinates(n, field.coordinates) for n in sides]
    return grid_coordinates(axes).to(field.device), (sides[0], sides[1])


def _gradient_picture(field: GridField, signal: Signal, network: Float[Tensor, "H W"]) -> bytes:
    found = [("network, analytic", network)]
    largest = float(network.quantile(0.99)) if network.numel() < 2**24 else float(network.max())
    if min(signal.grid) >= 3:
        differences = image_metrics.finite_difference_gradient(gray(signal.values), pixel_spacing(field))  # type: ignore[arg-type]
        reference = differences.norm(dim=-1)
        largest = float(reference.flatten().kthvalue(max(1, int(0.99 * reference.numel()))).values)
        found.insert(0, ("image, finite differences", reference))
    return pictures.panels(found, 2, "gray", (0.0, max(largest, 1e-6)), "gradient per unit of [-1, 1]", 4.0)
