from . import analysis, fields, fitting, kernels, networks, shapes, training
from .fitting import FittedShape, ShapeFit, fit_shape
from .networks import Network, SASNet, SASNetConfig, SignedDistanceField, build_network, network_names, register_network
from .training import Recipe, SDFObjective

__version__: str

__all__ = [
    "FittedShape",
    "Network",
    "Recipe",
    "SASNet",
    "SASNetConfig",
    "SDFObjective",
    "ShapeFit",
    "SignedDistanceField",
    "analysis",
    "build_network",
    "fields",
    "fit_shape",
    "fitting",
    "kernels",
    "network_names",
    "networks",
    "register_network",
    "shapes",
    "training",
]
