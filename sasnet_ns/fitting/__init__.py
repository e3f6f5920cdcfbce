"""Fitting without nerfstudio: ``fit_shape("armadillo").extract_mesh()``."""

from sasnet_ns.fitting.batch import fit_batch
from sasnet_ns.fitting.shape import FittedShape, ShapeFit, fit_shape
from sasnet_ns.training.muon import Muon
from sasnet_ns.training.objective import SDFObjective, sdf_losses
from sasnet_ns.training.recipe import Recipe, build_optimizers, learning_rate_factor

__all__ = [
    "FittedShape",
    "Muon",
    "Recipe",
    "SDFObjective",
    "ShapeFit",
    "build_optimizers",
    "fit_batch",
    "fit_shape",
    "learning_rate_factor",
    "sdf_losses",
]
