"""Where this package's modules moved to; runs and imports made before find them."""

from __future__ import annotations

MODULES: dict[str, tuple[str, ...]] = {
    **{
        f"fitting.{name}": (f"training.{name}",)
        for name in ("config", "loop", "muon", "objective", "recipe", "sphere_start")
    },
    **{f"fitting.{name}": (f"analysis.{name}",) for name in ("contribution", "step_cost")},
    "data.shapes": ("shapes.named",),
    "data.download": ("shapes.download",),
    "data.packing": ("shapes.packing",),
    "models.texture": (":sdf_tools.pictures.texture_baking",),
    "networks.cells": ("networks.interpolation",),
    "networks.conditioned": ("networks.baselines.incode", "networks.baselines.modulated_siren"),
    "networks.encodings": (
        "networks.baselines.encoded_relu",
        "networks.baselines.pemlp",
        "networks.baselines.ffn",
    ),
    "networks.gaussian_image": ("networks.baselines.gaussian_image",),
    "networks.local": ("networks.baselines.wire", "networks.baselines.gauss"),
    "networks.masks": ("networks.mask_generator",),
    "networks.neurbf": ("networks.baselines.neurbf",),
    "networks.ngp": ("networks.baselines.ngp",),
    "networks.sape": ("networks.baselines.sape",),
    "networks.sine": ("networks.baselines.siren", "networks.baselines.finer", "networks.layers"),
}
