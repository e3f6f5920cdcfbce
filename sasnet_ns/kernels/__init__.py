"""Hash grid, masked sine layer and their small companions, once per backend behind one call each.

Every function has a plain-torch twin (``implementation="torch"``) that defines its result. ``"auto"`` takes Triton on
CUDA, numba on a CPU, and the twin where neither can be loaded or the dtype is not the fast path's.
"""

from sasnet_ns.kernels._process import small_products, tune
from sasnet_ns.kernels.functional import Implementation, hash_grid, mask_decoder, masked_sine, masked_sine_embedding
from sasnet_ns.kernels.fused_step import FusedStep, PointLoss, StepForm, StepLayer
from sasnet_ns.kernels.layout import HashGridLayout

__all__ = [
    "FusedStep",
    "HashGridLayout",
    "Implementation",
    "PointLoss",
    "StepForm",
    "StepLayer",
    "hash_grid",
    "mask_decoder",
    "masked_sine",
    "masked_sine_embedding",
    "small_products",
    "tune",
]
