"""Image and volume metrics as the paper defines them, with everything that it leaves open stated in the result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sasnet_ns.networks.base import Network

GRAY_WEIGHTS = (0.2125, 0.7154, 0.0721)
"""Weights of red, green and blue in a grey value (ITU-R BT.709, as in scikit-image's ``rgb2gray``)."""


@dataclass
class EdgeRegion:
    """How the edge region is found; the paper names Canny's detector and a disk but no thresholds, width or radius."""

    canny_sigma: float = 2.0
    """Width of the Gaussian in front of Canny's detector, pixels. With scikit-image's 1 the region is two thirds of
    DIV2K's images at 512 pixels, and PSNR minus edge PSNR cannot reach the paper's 3 dB; with 2 it is half."""
    low_threshold: float = 0.1
    """Canny's lower hysteresis threshold, grey values in [0, 1] per pixel (Sobel, scikit-image's scale)."""
    high_threshold: float = 0.2
    """Canny's upper hysteresis threshold."""
    disk_radius: int = 3
    """Radius of the disk that the edges are dilated with, pixels."""


def psnr(prediction: Float[Tensor, "*grid"], reference: Float[Tensor, "*grid"]) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10 of the mean squared error, for values in [0, 1].

    Args:
        prediction: clamped to [0, 1] first.
        reference: of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(prediction, reference)
    return _psnr_of(float((prediction.clamp(0, 1).double() - reference.double()).square().mean()))


def ssim(prediction: Float[Tensor, "*grid C"], reference: Float[Tensor, "*grid C"]) -> float:
    """Structural similarity by scikit-image with the settings of Wang et al. (2004).

    Gaussian window of standard deviation 1.5 cut off at 3.5 of them (11 pixels or voxels a side, in all dimensions of
    the grid), population covariance, K1 = 0.01, K2 = 0.03, data range 1, the mean over channels.

    Args:
        prediction: clamped to [0, 1] first.
        reference: of the same shape; every side of the grid at least 11.

    Raises:
        ValueError: the shapes differ, or the grid is smaller than the window.
    """
    from skimage.metrics import structural_similarity

    _same_shape(prediction, reference)
    if min(reference.shape[:-1]) < 11:
        raise ValueError(f"SSIM needs at least 11 samples a side for its window, got {tuple(reference.shape[:-1])}.")
    return float(
        structural_similarity(
            reference.double().cpu().numpy(),
            prediction.clamp(0, 1).double().cpu().numpy(),
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def gray(image: Float[Tensor, "*grid C"]) -> Float[Tensor, "*grid"]:
    """Grey values: weighted for three channels or more (a fourth, alpha, is left out), else the channels' mean."""
    return image[..., :3] @ image.new_tensor(GRAY_WEIGHTS) if image.shape[-1] >= 3 else image.mean(-1)


def edge_mask(image: Float[Tensor, "H W C"], region: EdgeRegion | None = None) -> Bool[Tensor, "H W"]:
    """The edge region: Canny's edges of the grey image, dilated with a disk (paper, Sec. 4.1)."""
    from skimage.feature import canny
    from skimage.morphology import dilation, disk

    region = region or EdgeRegion()
    edges = canny(
        gray(image).double().cpu().numpy(),
        sigma=region.canny_sigma,
        low_threshold=region.low_threshold,
        high_threshold=region.high_threshold,
    )
    return torch.from_numpy(dilation(edges, disk(region.disk_radius)).astype(bool))


def edge_psnr(
    prediction: Float[Tensor, "H W C"], reference: Float[Tensor, "H W C"], edges: Bool[Tensor, "H W"]
) -> float:
    """PSNR over the pixels of the edge region, dB; NaN where there are none.

    The paper's formula averages the masked error over all pixels, which would make it exceed the PSNR; its tables show
    less, so the mean is taken over the edge pixels.
    """
    _same_shape(prediction, reference)
    if not bool(edges.any()):
        return math.nan
    error = (prediction.clamp(0, 1).double() - reference.double()).square()
    return _psnr_of(float(error[edges].mean()))


def finite_difference_gradient(image: Float[Tensor, "H W"], spacing: tuple[float, float]) -> Float[Tensor, "H W 2"]:
    """Second-order finite differences of a grey image, also at its border, per coordinate unit.

    Args:
        image: grey values.
        spacing: coordinate units between rows, and between columns.
    """
    parts = np.gradient(image.double().cpu().numpy(), *spacing, edge_order=2)
    return torch.from_numpy(np.stack(parts, -1)).float()


def interpolant_gradient(image: Float[Tensor, "H W"], spacing: tuple[float, float]) -> Float[Tensor, "H W 2"]:
    """Gradient of a grey image's trigonometric interpolant, mirrored at its borders, per coordinate unit.

    The interpolant goes through every pixel and has no frequency beyond theirs: an exact fit that adds nothing. Central
    differences see a wave of frequency w (radians per pixel) at sin(w) / w of its slope, so its noisiness is not zero.

    Args:
        image: grey values.
        spacing: coordinate units between rows, and between columns.
    """
    values = image.double().cpu()
    mirrored = torch.cat([values, values.flip(0)])
    mirrored = torch.cat([mirrored, mirrored.flip(1)], dim=1)
    spectrum = torch.fft.fft2(mirrored)
    parts = []
    for axis, step in enumerate(spacing):
        count = mirrored.shape[axis]
        frequency = 2 * math.pi * torch.fft.fftfreq(count, d=step, dtype=torch.float64)
        frequency[count // 2] = 0.0  # the wave of alternating signs has no slope at the pixels
        shape = (-1, 1) if axis == 0 else (1, -1)
        slope = torch.fft.ifft2(spectrum * (1j * frequency).reshape(shape)).real
        parts.append(slope[: image.shape[0], : image.shape[1]])
    return torch.stack(parts, -1).float()


@torch.inference_mode(False)  # records gradients, whatever the caller does
def gray_gradient(
    network: Network, points: Float[Tensor, "N d"], value_scale: float = 1.0, batch: int = 16_384
) -> Float[Tensor, "N d"]:
    """Analytic gradient of a network's grey value by automatic differentiation, per coordinate unit.

    Args:
        network: from (N, d) coordinates to channels.
        points: where.
        value_scale: grey values in [0, 1] per unit of the network's output.
        batch: points at a time.
    """
    rows = []
    for part in points.split(batch):
        x = part.detach().requires_grad_(True)
        value = gray(network(x)).sum() * value_scale
        rows.append(torch.autograd.grad(value, x)[0].detach())
    return torch.cat(rows)


def noisiness(
    predicted_gradient: Float[Tensor, "H W 2"], reference_gradient: Float[Tensor, "H W 2"], edges: Bool[Tensor, "H W"]
) -> float:
    """Mean difference of the gradients' lengths over the smooth region, the complement of the edge region.

    Both gradients are of grey values in [0, 1] per coordinate unit. NaN where no pixel is smooth.
    """
    smooth = ~edges
    if not bool(smooth.any()):
        return math.nan
    difference = predicted_gradient.cpu().norm(dim=-1) - reference_gradient.cpu().norm(dim=-1)
    return float(difference.abs()[smooth].double().mean())


def _psnr_of(mse: float) -> float:
    return math.inf if mse == 0 else -10 * math.log10(mse)


def _same_shape(prediction: Tensor, reference: Tensor) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference must have one shape, got {tuple(prediction.shape)} and {tuple(reference.shape)}."
        )
