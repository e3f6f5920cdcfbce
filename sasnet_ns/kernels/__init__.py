"""Hash grid, masked sine layer, sum of Gaussians and small companions, once per backend behind one call each.

Every function has a plain-torch twin (``implementation="torch"``) that defines its result. ``"auto"`` takes Triton on
CUDA, numba on a CPU, and the twin where neither can be loaded, the dtype is not the fast path's, or it is the sum of
Gaussians on CUDA.
"""

from sasnet_ns.kernels._process import tune
from sasnet_ns.kernels.functional import Implementation, hash_grid, mask_decoder, masked_sine, masked_sine_embedding
from sasnet_ns.kernels.fused_step import FusedStep
from sasnet_ns.kernels.fused_values import FusedValues
from sasnet_ns.kernels.gaussians import gaussian_sum
from sasnet_ns.kernels.layout import HashGridLayout
from sasnet_ns.kernels.optimizers import Adam, compiled_updates, muon_step
from sasnet_ns.kernels.point_loss import point_loss
from sasnet_ns.kernels.stacked_step import StackedStep
from sasnet_ns.kernels.step_form import Activation, PointLoss, StepForm, StepLayer, stack_forms

__all__ = [
    "Activation",
    "Adam",
    "FusedStep",
    "FusedValues",
    "HashGridLayout",
    "Implementation",
    "PointLoss",
    "StackedStep",
    "StepForm",
    "StepLayer",
    "compiled_updates",
    "gaussian_sum",
    "hash_grid",
    "mask_decoder",
    "masked_sine",
    "masked_sine_embedding",
    "muon_step",
    "point_loss",
    "stack_forms",
    "tune",
]
