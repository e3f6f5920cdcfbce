"""SASNet, its parts, and the networks it is compared with."""

from sasnet_ns.networks.base import Network
from sasnet_ns.networks.frequencies import FrequencyBands, sample_frequencies
from sasnet_ns.networks.masks import MaskGenerator
from sasnet_ns.networks.ngp import HashGridMLP
from sasnet_ns.networks.registry import build_network, network_names
from sasnet_ns.networks.sasnet import SASNet, SASNetConfig
from sasnet_ns.networks.sdf import SignedDistanceField
from sasnet_ns.networks.sine import Finer, Siren

__all__ = [
    "Finer",
    "FrequencyBands",
    "HashGridMLP",
    "MaskGenerator",
    "Network",
    "SASNet",
    "SASNetConfig",
    "SignedDistanceField",
    "Siren",
    "build_network",
    "network_names",
    "sample_frequencies",
]
