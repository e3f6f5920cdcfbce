"""The settings that the SASNet paper gives each network on each of its tasks."""

from __future__ import annotations

from typing import Any

TASKS: dict[str, tuple[int, int]] = {"image": (2, 3), "volume": (3, 1), "sdf": (3, 1), "toy": (2, 3)}
"""Coordinates and channels of the paper's tasks: RGB images, densities, signed distances, the toy image of Fig. 4."""

# The paper names SAPE's program for FFN and SAPE (256 frequencies), and FINER's for volumes and SDFs, whose three
# layers have 256 neurons. On images it asks for "a similar number of parameters": a first layer of 512 features leaves
# room for a width of 160.
_FOURIER = {"width": 160, "frequencies": 256, "frequency_scale": 20.0}
# Supp. Sec. 3.2 sets FINER's bias scale to 0 without naming a task; FINER's own script for shapes has 1.
_FINER_IMAGE = {"omega_0": 43.0, "first_bias_scale": 0.0}
_FINER_SHAPE = {"coordinate_scale": 0.5}  # its programs feed the box as [-0.5, 0.5]^3

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "siren": {"image": {"omega_0": 43.0}, "volume": {}, "sdf": _FINER_SHAPE, "toy": {"omega_0": 43.0}},
    "finer": {"image": _FINER_IMAGE, "volume": {"first_bias_scale": 0.0}, "sdf": _FINER_SHAPE, "toy": _FINER_IMAGE},
    "wire": {"image": {"sigma": 30.0}, "volume": {}, "sdf": _FINER_SHAPE, "toy": {"omega": 4.0, "sigma": 10.0}},
    "gauss": {"image": {}, "volume": {}, "sdf": _FINER_SHAPE},
    "pemlp": {"image": {}, "volume": {}, "sdf": _FINER_SHAPE},
    "ffn": {task: {**_FOURIER, "frequency_law": "radial"} for task in ("image", "toy")},
    "sape": {"image": _FOURIER, "toy": _FOURIER},
    "gaussian_image": {"image": {}, "toy": {}},
    # As its authors' program for DIV2K.
    "neurbf": {"image": {"sine_range": (1.0, 1000.0)}, "toy": {"grid_log2_entries": 10, "width": 32, "kernels": 197}},
    # Later than the SASNet paper, which does not have them; their authors' settings for a task.
    "flair": {"image": {"hidden_layers": 3, "sigma": 2.0}, "sdf": _FINER_SHAPE},
    "metric_grids": {"image": {}, "sdf": {}},
    "cafe": {"image": {}},
    # These two are only timed. MSIREN's codes are given beforehand; its tiles have 32 pixels, stride 16, on 512 pixels.
    "incode": {"image": {"hidden_layers": 2}},
    "msiren": {"image": {"width": 156, "codes": "fixed", "strides": 32}},
}
"""Options by network and task; what is not named is the network's own published default."""

SASNET_PRESETS = ("image", "volume", "sdf", "sdf_compact", "sdf_grid", "toy", "tiger_p", "tiger_d")
"""The class methods of :class:`sasnet_ns.networks.SASNetConfig` that build a preset."""


def preset_options(name: str, preset: str) -> dict[str, Any]:
    """The options of a baseline's preset.

    Args:
        name: registry name, not ``sasnet``.
        preset: task of the paper: image, volume, sdf or toy.

    Raises:
        ValueError: the network has no such preset.
    """
    known = PRESETS.get(name, {})
    if preset not in known:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"network '{name}' has no preset '{preset}'; {has}.")
    return known[preset]
