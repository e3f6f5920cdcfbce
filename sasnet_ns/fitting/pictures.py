"""Pictures of fits: error maps, masks, spectra, gradients, contributions and curves, as PNG bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.training.loop import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(
    rows: int, columns: int, cell: tuple[float, float] = (3.0, 3.0), heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure without a display and its axes, row by row.

    Args:
        rows: of axes.
        columns: of axes.
        cell: width and height of one, inches.
        heights: of each row, instead.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = sum(heights) if heights else cell[1] * rows
    figure = Figure(figsize=(cell[0] * columns, total), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)


def figure_png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def panels(
    pictures: Sequence[tuple[str, Float[Tensor, "H W"] | Float[Tensor, "H W C"]]],
    columns: int = 4,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
    bar: str | None = None,
    width: float = 3.0,
) -> bytes:
    """Titled pictures side by side.

    Args:
        pictures: title and (H, W) values, coloured by ``cmap``, or (H, W, 3) colours in [0, 1].
        columns: pictures in a row.
        cmap: matplotlib's name of a colour map.
        limits: values at its ends; None takes each picture's own.
        bar: label of a colour bar for all; only with ``limits``.
        width: of a picture, inches.
    """
    rows = math.ceil(len(pictures) / columns)
    columns = min(columns, len(pictures))
    shapes = [values.shape[:2] for _, values in pictures]
    sides = [max(h / w for h, w in shapes[k : k + columns]) for k in range(0, len(shapes), columns)]
    heights = [min(2 * width, width * side) + 0.35 for side in sides]
    figure, axes = new_figure(rows, columns, (width, 0.0), heights)
    shown = None
    for axis, (title, values) in zip(axes, pictures, strict=False):
        array = values.detach().cpu().numpy()
        if array.ndim == 3:
            axis.imshow(np.clip(array, 0, 1), interpolation="nearest")
        else:
            low, high = limits if limits else (None, None)
            shown = axis.imshow(array, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    if bar and shown is not None and limits:
        figure.colorbar(shown, ax=axes, label=bar, shrink=0.8)
    return figure_png(figure)


def spectrum(gray: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """log10 of the amplitudes of a grey image's Fourier coefficients, zero frequency in the middle."""
    transform = torch.fft.fftshift(torch.fft.fft2(gray.double() - gray.double().mean(), norm="forward"))
    return transform.abs().clamp_min(1e-8).log10().float()


def curves(history: History, value_scale: float, title: str) -> bytes:
    """Loss over steps, and PSNR over seconds of training.

    The PSNR is that of the batch's loss (all samples, when every step sees them), dots are PSNRs of the clamped signal.
    """
    figure, (left, right) = new_figure(1, 2, (4.5, 3.2))
    left.plot(history.step, history.loss, linewidth=1)
    left.set(xlabel="step", ylabel="loss", yscale="log", title=title)
    from_loss = [-10 * math.log10(max(loss, 1e-20) * value_scale**2) for loss in history.loss]
    right.plot(history.seconds, from_loss, linewidth=1, label="of the loss")
    known = [(s, p) for s, p in zip(history.seconds, history.psnr, strict=True) if math.isfinite(p)]
    if known:
        right.plot(*zip(*known, strict=True), "o", markersize=3, label="of the whole signal")
        right.legend()
    right.set(xlabel="seconds of training", ylabel="PSNR (dB)")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    return figure_png(figure)


def error_map(prediction: Float[Tensor, "H W C"], reference: Float[Tensor, "H W C"], title: str) -> bytes:
    """Absolute error, mean over channels; the colours reach to its 99th percentile, at least to 2 % as in the paper."""
    error = (prediction.clamp(0, 1) - reference).abs().mean(-1)
    largest = max(0.02, float(error.flatten().kthvalue(max(1, int(0.99 * error.numel()))).values))
    return panels([(title, error)], 1, "jet", (0.0, largest), "absolute error", 5.0)
