"""How networks are trained, below both front doors: recipe, optimisers, objective, loop."""

from sasnet_ns.training.muon import Muon
from sasnet_ns.training.objective import SDFObjective, sdf_losses
from sasnet_ns.training.recipe import Recipe, build_optimizers, learning_rate_factor

__all__ = ["Muon", "Recipe", "SDFObjective", "build_optimizers", "learning_rate_factor", "sdf_losses"]
