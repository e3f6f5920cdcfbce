"""Fitting without nerfstudio: ``fit_shape("armadillo").extract_mesh()``."""

from sasnet_ns.fitting.muon import Muon
from sasnet_ns.fitting.objective import SDFObjective, sdf_losses
from sasnet_ns.fitting.recipe import Recipe, build_optimizers, learning_rate_factor
from sasnet_ns.fitting.shape import FittedShape, ShapeFit, fit_shape

__all__ = [
    "FittedShape",
    "Muon",
    "Recipe",
    "SDFObjective",
    "ShapeFit",
    "build_optimizers",
    "fit_shape",
    "learning_rate_factor",
    "sdf_losses",
]
