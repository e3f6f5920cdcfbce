"""How many parameters a network has, and which width gives it as many as another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sasnet_ns.networks.presets import TASKS
from sasnet_ns.networks.registry import build_network
from sasnet_ns.networks.sasnet import SASNetConfig

ROWS: dict[str, tuple[str, ...]] = {
    "image": ("siren", "ffn", "sape", "wire", "finer", "gaussian_image", "neurbf", "sasnet"),
    "volume": ("pemlp", "siren", "gauss", "wire", "finer", "sasnet"),
    "sdf": ("pemlp", "gauss", "siren", "wire", "finer", "sasnet"),
    "toy": ("siren", "ffn", "sape", "wire", "finer", "gaussian_image", "neurbf", "sasnet"),
    "step": ("siren", "msiren", "incode", "sasnet"),
}
"""Networks of the SASNet paper's Tables 1 (image), 2 (volume) and 3 (sdf), Fig. 4 (toy), Supp. Table 2 (step times)."""

_TABLES = ("ngp", "grid", "metric_grids")
_LARGEST_TABLE, _NARROWEST = 19, 16  # log2 of a table's entries, and neurons that it is worth to keep room for
_SIZE_OPTIONS = {"gaussian_image": "gaussians", "neurbf": "kernels"}


@dataclass(frozen=True)
class Size:
    """One row of a table of parameter counts.

    Attributes:
        network: registry name.
        paper: trainable values at the paper's setting (the preset).
        table: trainable values of the network that the table compares, see :func:`table_options`.
        options: the options that make the latter.
    """

    network: str
    paper: int
    table: int
    options: dict[str, Any]


def parameter_count(name: str, in_dim: int, out_dim: int, **config: Any) -> int:
    """Number of trainable values of a network, see :meth:`Network.parameter_count`; leaves random states alone."""
    with torch.random.fork_rng(devices=[]):
        return build_network(name, in_dim, out_dim, **config).parameter_count()


def sized_options(name: str, in_dim: int, out_dim: int, parameters: int, **config: Any) -> dict[str, Any]:
    """Options that give a network as close to a number of parameters as its size can be set.

    What grows is the width of every layer, the number of Gaussians (``gaussian_image``) or of kernels (``neurbf``), and
    for ``sasnet`` the width of the hidden layers alone, as in the paper's scalability study (Sec. 4.1.3).

    Args:
        name: registry name.
        in_dim: number of coordinates.
        out_dim: number of output channels.
        parameters: trainable values wanted.
        **config: further options, ``preset`` among them; they are part of the result.

    A hash grid (``ngp``, ``grid``, ``metric_grids``) whose table alone has more gets a smaller one, unless the options
    give its size.

    Raises:
        ValueError: even the smallest such network is more than a tenth larger, or an option is none of the network's.
    """
    preset = {"sasnet": None, "sasnet-paper": "sdf", "sasnet-grid": "sdf_grid"}
    if name in preset:
        parameter_count(name, in_dim, out_dim, **config)  # says what is wrong with the options
        set_size = _sasnet_size(config if preset[name] is None else {"preset": preset[name], **config})
    else:
        set_size = _named_size(_SIZE_OPTIONS.get(name, "width"))

    def count(size: int) -> int:
        return parameter_count(name, in_dim, out_dim, **{**config, **set_size(size)})

    if name in _TABLES and "grid_log2_entries" not in config:
        for log2_entries in range(_LARGEST_TABLE, 7, -1):
            if count(_NARROWEST) <= parameters:
                break
            config = {**config, "grid_log2_entries": log2_entries}
    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    best = min((low, high), key=lambda size: abs(count(size) - parameters))
    if best == 1 and count(best) > 1.1 * parameters:
        raise ValueError(
            f"network '{name}' with these options has at least {count(best):,} parameters, not {parameters:,}; make "
            "smaller what does not grow with its width (embedding_width, grid_log2_entries, grid_levels)."
        )
    return {**config, **set_size(best)}


def _named_size(option: str) -> Callable[[int], dict[str, Any]]:
    return lambda size: {option: size}


def _sasnet_size(config: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Hidden widths in steps that every layer's number of mask groups divides."""
    fields = {name: value for name, value in config.items() if name != "preset"}
    preset = getattr(SASNetConfig, config.get("preset", "sdf"))(**fields)
    groups = preset.groups if preset.masks else (0,) * len(preset.groups)
    step = math.lcm(*(count or 1 for count in groups))
    return lambda size: {"hidden_widths": (size * step,) * len(groups), "groups": groups}


def table_options(name: str, table: str) -> dict[str, Any]:
    """Options of a network in one of the paper's tables, with as many parameters as SASNet has there.

    The paper's own settings (the presets) differ by up to thirteen percent in a table. These keep every setting but
    the size.

    Args:
        name: registry name.
        table: key of :data:`ROWS`.
    """
    task = "image" if table == "step" else table
    if name == "sasnet":
        return {"preset": task}
    target = parameter_count("sasnet", *TASKS[task], preset=task)
    return sized_options(name, *TASKS[task], target, preset=task)


def parameter_counts(table: str) -> list[Size]:
    """The rows of one of the paper's tables with their numbers of trainable values.

    Args:
        table: key of :data:`ROWS`: image, volume, sdf, toy or step.

    Raises:
        ValueError: there is no such table.
    """
    if table not in ROWS:
        raise ValueError(f"no table is called '{table}'; choose from {', '.join(ROWS)}.")
    task = "image" if table == "step" else table
    rows = []
    for name in ROWS[table]:
        options = table_options(name, table)
        paper = parameter_count(name, *TASKS[task], preset=task)
        rows.append(Size(name, paper, parameter_count(name, *TASKS[task], **options), options))
    return rows
