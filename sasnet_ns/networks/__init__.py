"""SASNet, its parts, and the networks it is compared with."""

from sasnet_ns.networks.base import Network
from sasnet_ns.networks.conditioned import Incode, ModulatedSiren
from sasnet_ns.networks.encodings import FFN, PEMLP
from sasnet_ns.networks.frequencies import FrequencyBands, sample_frequencies
from sasnet_ns.networks.fused import fused_step, step_form
from sasnet_ns.networks.gaussian_image import GaussianImage
from sasnet_ns.networks.local import Gauss, Wire
from sasnet_ns.networks.masks import MaskGenerator
from sasnet_ns.networks.neurbf import NeuRBF
from sasnet_ns.networks.ngp import HashGridMLP
from sasnet_ns.networks.registry import build_network, network_names
from sasnet_ns.networks.sape import SAPE
from sasnet_ns.networks.sasnet import SASNet, SASNetConfig
from sasnet_ns.networks.sdf import SignedDistanceField
from sasnet_ns.networks.sine import Finer, Siren
from sasnet_ns.networks.sizes import parameter_count, parameter_counts, sized_options

__all__ = [
    "FFN",
    "PEMLP",
    "SAPE",
    "Finer",
    "FrequencyBands",
    "Gauss",
    "GaussianImage",
    "HashGridMLP",
    "Incode",
    "MaskGenerator",
    "ModulatedSiren",
    "Network",
    "NeuRBF",
    "SASNet",
    "SASNetConfig",
    "SignedDistanceField",
    "Siren",
    "Wire",
    "build_network",
    "fused_step",
    "network_names",
    "parameter_count",
    "parameter_counts",
    "sample_frequencies",
    "sized_options",
    "step_form",
]
