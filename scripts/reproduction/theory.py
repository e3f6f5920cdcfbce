"""Theorem 1 in numbers: a network with one hidden sine layer beside its expansion into a sum of sines."""

from __future__ import annotations

import math
from typing import Any

import torch

from reproduction.context import Context
from sasnet_ns.analysis import expand_network
from sasnet_ns.analysis.bessel import merge_frequencies
from sasnet_ns.fitting import pictures
from sasnet_ns.networks import build_network
from sdf_tools.io.writing import write_atomically

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_FROZEN = {
    "embedding_width": 6, "hidden_widths": (5,), "groups": (0,), "masks": False, "band_limit": 6, "low_range": 2,
    "bands": 1,
}  # fmt: skip
CASES: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("SIREN, 4 neurons a layer", "siren", 2, {"width": 4, "hidden_layers": 1}),
    ("SASNet without masks, 6 and 5 neurons", "sasnet", 2, _FROZEN),
)
"""Label, registry name, coordinates and options."""


def theorem(context: Context) -> None:
    """Theorem 1 (Eq. 5): the expansion's error and its bound, and a frozen embedding's line spectrum."""
    lines = ["### Theorem 1: a network and its expansion into sines", "",
             "| network | smallest amplitude kept | terms | largest error | bound on it | network's deviation |",
             "| --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for label, name, in_dim, options in CASES:
        torch.manual_seed(context.seeds[0])
        network = build_network(name, in_dim, 1, **options).double()
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(1_000, in_dim, dtype=torch.float64, generator=generator) * 2 - 1
        with torch.no_grad():
            values = network(x)
            for tolerance in TOLERANCES:
                series = expand_network(network, tolerance=tolerance)
                error = float((series(x) - values).abs().max())
                bound = float(series.error_bound.max())
                lines.append(
                    f"| {label} | {tolerance:.0e} | {len(series.phases):,} | {error:.1e} | {bound:.1e} | "
                    f"{float(values.std()):.2f} |"
                )
    lines += ["", "- Double precision, 1,000 random points; a term is sin(<k, W x + phi> + b) with amplitude "
              "prod_l J_(k_l)(w_l), k of whole numbers.", f"- Seed {context.seeds[0]}."]  # fmt: skip
    text = "\n".join(lines) + "\n"
    for name, data in {"theorem1.md": text.encode(), "theorem1.png": _line_spectrum(context)}.items():
        write_atomically(context.output / name, data)
        context.done.append(context.output / name)
    print(text)


@torch.no_grad()
def _line_spectrum(context: Context) -> bytes:
    """Amplitudes from the theorem and from a Fourier transform of the same 1-D network with a frozen embedding."""
    torch.manual_seed(context.seeds[0])
    options = {**_FROZEN, "embedding_width": 4, "hidden_widths": (3,)}
    network = build_network("sasnet", 1, 1, **options).double()
    series = merge_frequencies(expand_network(network, tolerance=1e-9))
    half = len(series.amplitudes) // 2
    cycles = (series.frequencies[:half, 0] / math.pi).round()
    amplitude = torch.hypot(series.amplitudes[:half, 0], series.amplitudes[half:, 0])
    samples = 512
    x = torch.arange(samples, dtype=torch.float64)[:, None] * 2 / samples - 1
    measured = torch.fft.rfft(network(x)[:, 0]).abs() * 2 / samples
    figure, (axis,) = pictures.new_figure(1, 1, (6.0, 3.6))
    shown = (cycles > 0) & (cycles < 80)
    axis.plot(range(1, 80), measured[1:80].tolist(), "o", fillstyle="none", label="Fourier transform of the network")
    axis.plot(cycles[shown].tolist(), amplitude[shown].tolist(), "x", label="Theorem 1")
    axis.set(xlabel="cycles per side", ylabel="amplitude", yscale="log", ylim=(1e-10, None))
    axis.set_title("a frozen embedding makes whole frequencies only", fontsize=9)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return pictures.figure_png(figure)
