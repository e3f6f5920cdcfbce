"""One name for every network: ``build_network("sasnet", in_dim=3, out_dim=1)``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sasnet_ns.networks._options import check_choices
from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.cafe import Cafe
from sasnet_ns.networks.baselines.ffn import FFN
from sasnet_ns.networks.baselines.finer import Finer
from sasnet_ns.networks.baselines.flair import Flair
from sasnet_ns.networks.baselines.gauss import Gauss
from sasnet_ns.networks.baselines.gaussian_image import GaussianImage
from sasnet_ns.networks.baselines.incode import Incode
from sasnet_ns.networks.baselines.metric_grids import MetricGrids
from sasnet_ns.networks.baselines.modulated_siren import ModulatedSiren
from sasnet_ns.networks.baselines.neurbf import NeuRBF
from sasnet_ns.networks.baselines.ngp import HashGridMLP
from sasnet_ns.networks.baselines.pemlp import PEMLP
from sasnet_ns.networks.baselines.sape import SAPE
from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.baselines.wire import Wire
from sasnet_ns.networks.presets import SASNET_PRESETS, preset_options
from sasnet_ns.networks.sasnet import SASNetConfig
from sdf_tools.ranges import require


def _sasnet(in_dim: int, out_dim: int, preset: str = "sdf", **config: Any) -> Network:
    preset = _FORMER_PRESETS.get(preset, preset)
    if preset not in SASNET_PRESETS:
        raise ValueError(f"no SASNet preset is called '{preset}'; choose from {', '.join(SASNET_PRESETS)}.")
    return getattr(SASNetConfig, preset)(in_dim=in_dim, out_dim=out_dim, **config).setup()


def _grid(in_dim: int, out_dim: int, **config: Any) -> Network:
    """The hash grid of ``sasnet-grid``, read out by one ReLU layer: what its masks and sines have to beat."""
    options = {"hidden_layers": 1, "grid_max": 160, "grid_interpolation": "smoothstep", **config}
    return HashGridMLP(in_dim=in_dim, out_dim=out_dim, **options)


_FORMER_PRESETS = {"sdf_fast": "sdf_grid"}


_BUILDERS: dict[str, Callable[..., Network]] = {
    "sasnet": _sasnet,
    "sasnet-paper": functools.partial(_sasnet, preset="sdf"),
    "sasnet-grid": functools.partial(_sasnet, preset="sdf_grid"),
    "siren": Siren,
    "finer": Finer,
    "wire": Wire,
    "gauss": Gauss,
    "pemlp": PEMLP,
    "ffn": FFN,
    "sape": SAPE,
    "incode": Incode,
    "msiren": ModulatedSiren,
    "gaussian_image": GaussianImage,
    "neurbf": NeuRBF,
    "ngp": HashGridMLP,
    "grid": _grid,
    "flair": Flair,
    "metric_grids": MetricGrids,
    "cafe": Cafe,
}


def network_names() -> tuple[str, ...]:
    """The names that :func:`build_network` knows."""
    return tuple(_BUILDERS)


def register_network(name: str, builder: Callable[..., Network]) -> None:
    """Give a network of your own a name: fitting, the fields and the console commands then build it like any other.

    Args:
        name: the new name; one that exists is not replaced.
        builder: a :class:`Network` class, or any function that returns one, called as
            ``builder(in_dim=..., out_dim=..., **options)``.

    Raises:
        ValueError: another network has that name.
    """
    if _BUILDERS.get(name, builder) is not builder:
        raise ValueError(f"a network is called '{name}' already; choose another name.")
    _BUILDERS[name] = builder


def build_network(name: str, in_dim: int, out_dim: int, **config: Any) -> Network:
    """Build a network by name.

    Args:
        name: one of :func:`network_names`.
        in_dim: number of coordinates.
        out_dim: number of output channels.
        **config: the network's own options (for ``sasnet`` the fields of :class:`SASNetConfig`), and ``preset`` to
            start from the SASNet paper's settings for a task: image, volume, sdf or toy; for ``sasnet`` also
            sdf_compact and sdf_grid, ours for short runs, and tiger_p and tiger_d, the authors' later recipes. Without
            one a network has its own paper's defaults.

    Raises:
        ValueError: no network has that name, or an option or a preset does not exist or fit.
    """
    if name not in _BUILDERS:
        raise ValueError(f"no network is called '{name}'; choose from {', '.join(_BUILDERS)}.")
    if "preset" in config and name != "sasnet":
        config = {**preset_options(name, config["preset"]), **config}
        del config["preset"]
    builder = _BUILDERS[name]
    _check_numbers(name, {"in_dim": in_dim, "out_dim": out_dim, **config})
    if isinstance(builder, type):
        check_choices(builder.__init__, config)  # type: ignore[misc]
    try:
        return builder(in_dim=in_dim, out_dim=out_dim, **config)
    except TypeError as error:
        raise ValueError(f"network '{name}' does not take these options: {error}.") from error
    except (RuntimeError, ArithmeticError, LookupError) as error:  # torch's words for sizes that cannot be
        said = str(error).splitlines()[0].removesuffix(".") if str(error) else type(error).__name__
        given = ", ".join(f"{option} {value}" for option, value in config.items()) or "none"
        raise ValueError(f"network '{name}' cannot be built with these options ({given}): {said}.") from error


_LEAST = {
    **dict.fromkeys(("in_dim", "out_dim", "width", "embedding_width", "decoder_width", "hidden_widths"), 1),
    **dict.fromkeys(("frequencies", "kernels", "neighbors", "features", "octaves", "latent_dim", "strides"), 1),
    **dict.fromkeys(("step_dim", "grid_levels", "grid_features", "levels", "polynomials", "branches"), 1),
    **dict.fromkeys(("hidden_layers", "groups", "bands", "feature_std", "frequency_seed"), 0),
    "resolution": 2,
}
"""Smallest value of options that have one, whichever network takes them."""
_ABOVE_ZERO = ("omega_0", "omega", "scale", "sigma", "period", "coordinate_scale", "frequency_scale", "sine_range")


def _check_numbers(name: str, options: dict[str, Any]) -> None:
    for option, given in options.items():
        for value in given if isinstance(given, tuple | list) else (given,):
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if option in _LEAST:
                require(f"{option} of network '{name}'", value, _LEAST[option])
            elif option in _ABOVE_ZERO:
                require(f"{option} of network '{name}'", value, 0, above=True)
