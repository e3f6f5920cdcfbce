"""Networks trained by the authors' program (github.com/Fengyee/SASNet_inr), read into ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sasnet_ns.networks.sasnet import SASNet, SASNetConfig
from sasnet_ns.networks.weights import read_weights


def read_authors(weights: Path | str, config: Path | str) -> SASNet:
    """Read a ``final_model.pt`` of their ``fit_image.py`` with the ``run_config.yaml`` beside it.

    Raises:
        ValueError: a file is missing or is not theirs, or see :func:`from_authors`.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(config).read_text())
        state = read_weights(weights)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file '{error.filename}'.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"'{config}' is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f"'{config}' has no section 'model', as the authors' run_config.yaml has.")
    # What their program passes to the class, whatever the file says.
    return from_authors(state, {**content["model"], "has_low_freq_mask": False})


def from_authors(state: Mapping[str, Tensor], model: Mapping[str, Any]) -> SASNet:
    """A network of the authors' ``SASNet`` class as ours, with the hash grid of their library.

    Values agree with theirs to rounding at every point of [-1, 1]^d. The octree that their grid carries along is left
    out; what the weights do not say, the configuration has to.

    Args:
        state: their ``state_dict()``.
        model: the arguments of their class as their YAML files have them (``hidden_features``, ``omega_0``, ``period``,
            ``bandlimit``, ``low_range``, ``perc_low_freqs``, ``num_high_freq_bands``, ``masked_hidden_layer_groups``,
            ``use_masks``, ``hash_grid``, ...); without ``use_masks`` the weights tell.

    Raises:
        ValueError: weights and configuration do not fit, or the network has what ours has not: a mask of the low group,
            or an unmasked hidden layer before a masked one, whose mask their program gives to the wrong layer.
    """
    network = _config(state, model).setup()
    renamed = _renamed(state, network)
    own = network.state_dict()
    missing, unknown = own.keys() - renamed.keys(), renamed.keys() - own.keys()
    if missing or unknown:
        names = ", ".join(sorted(missing | unknown))
        raise ValueError(f"these weights and this configuration do not fit: only one of them has {names}.")
    for name, value in renamed.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"'{name}' is {tuple(value.shape)} in the weights and {tuple(own[name].shape)} by the configuration."
            )
    network.load_state_dict(renamed)
    _check_bands(network)
    return network


def _config(state: Mapping[str, Tensor], model: Mapping[str, Any]) -> SASNetConfig:
    try:
        in_dim, out_dim = state["input_layer.linear.weight"].shape[1], state["output_layer.weight"].shape[0]
        masks = bool(model.get("use_masks", "decoder.out.weight" in state))
        widths = [int(width) for width in model["hidden_features"]]
        groups = tuple(model.get("masked_hidden_layer_groups") or [0] * (len(widths) - 1))
        grid = model.get("hash_grid") or {}
        astray = list(groups) != sorted(groups, key=lambda count: count == 0)
        if masks and (model.get("has_low_freq_mask") or astray):
            raise ValueError(
                "masks of the low group, and unmasked hidden layers before masked ones, have no counterpart here."
            )
        return SASNetConfig(
            in_dim=in_dim,
            out_dim=out_dim,
            embedding_width=widths[0],
            hidden_widths=tuple(widths[1:]),
            omega_0=float(model.get("omega_0", 30.0)),
            band_limit=int(model.get("bandlimit") or model.get("omega_0", 30)),
            low_range=int(model.get("low_range", 15)),
            low_share=float(model.get("perc_low_freqs", 0.7)),
            bands=int(model.get("num_high_freq_bands", 1)),
            period=float(model.get("period", 2.0)),
            masks=masks,
            groups=groups if masks else (0,) * len(groups),
            grid_levels=int(grid.get("num_lods", 10)),
            grid_log2_entries=int(grid.get("codebook_bitwidth", 10)),
            grid_min=int(grid.get("min_grid_res", 16)),
            grid_max=int(grid.get("max_grid_res", 256)),
            grid_features=int(grid.get("feature_dim", 2)),
            grid_variant="wisp",
            decoder_width=state["decoder.hidden.weight"].shape[0] if masks else 48,
        )
    except KeyError as error:
        raise ValueError(f"the authors' weights or configuration lack {error}.") from None


def _renamed(state: Mapping[str, Tensor], network: SASNet) -> dict[str, Tensor]:
    names = {
        "input_layer.linear.weight": "frequencies",
        "input_layer.linear.bias": "phase",
        "output_layer.weight": "output.weight",
        "output_layer.bias": "output.bias",
        "grid.codebook.feats": "mask_generator.table",
        "decoder.hidden.weight": "mask_generator.decoder_in.weight",
        "decoder.hidden.bias": "mask_generator.decoder_in.bias",
        "decoder.out.weight": "mask_generator.decoder_out.weight",
        "decoder.out.bias": "mask_generator.decoder_out.bias",
    }
    for index in range(len(network.hidden)):
        for part in ("weight", "bias"):
            names[f"middle_layers.{index}.linear.{part}"] = f"hidden.{index}.{part}"
    found = {}
    for name, value in state.items():
        if name in names:
            found[names[name]] = value
        elif not name.startswith("grid."):  # counts of the tables and the octree follow from the configuration
            found[name] = value
    return found


def _check_bands(network: SASNet) -> None:
    """The weights' frequencies lie in the bands that the configuration gives them, else masks would go astray."""
    config = network.config
    frequencies = network.frequencies
    assert isinstance(frequencies, Tensor)
    largest = (frequencies * (config.period / (2 * math.pi))).abs().amax(1).round()
    cuts = torch.linspace(config.low_range, config.band_limit + 1, config.bands + 1)
    low, start = network.band_sizes[0], network.band_sizes[0]
    fits = bool((largest[:low] <= config.low_range).all())
    for band, size in enumerate(network.band_sizes[1:]):
        own = largest[start : start + size]
        fits &= bool(((own >= cuts[band]) & (own < cuts[band + 1])).all())
        start += size
    if not fits:
        raise ValueError(
            "the frequencies in the weights are not in the bands that bandlimit, low_range, perc_low_freqs and "
            "num_high_freq_bands give them."
        )
