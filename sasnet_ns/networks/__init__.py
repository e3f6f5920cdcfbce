"""SASNet, its parts, and the networks it is compared with."""

from sasnet_ns.networks.authors import from_authors, read_authors
from sasnet_ns.networks.base import Network
from sasnet_ns.networks.baselines.cafe import Cafe
from sasnet_ns.networks.baselines.ffn import FFN
from sasnet_ns.networks.baselines.finer import Finer
from sasnet_ns.networks.baselines.flair import Flair
from sasnet_ns.networks.baselines.gauss import Gauss
from sasnet_ns.networks.baselines.gaussian_image import GaussianImage
from sasnet_ns.networks.baselines.incode import Incode
from sasnet_ns.networks.baselines.metric_grids import MetricGrids
from sasnet_ns.networks.baselines.modulated_siren import ModulatedSiren
from sasnet_ns.networks.baselines.neurbf import NeuRBF
from sasnet_ns.networks.baselines.ngp import HashGridMLP
from sasnet_ns.networks.baselines.pemlp import PEMLP
from sasnet_ns.networks.baselines.sape import SAPE
from sasnet_ns.networks.baselines.siren import Siren
from sasnet_ns.networks.baselines.wire import Wire
from sasnet_ns.networks.choice import NetworkChoice, NetworkName
from sasnet_ns.networks.frequencies import FrequencyBands, sample_frequencies
from sasnet_ns.networks.fused import fused_step, network_values, step_form
from sasnet_ns.networks.mask_generator import MaskGenerator
from sasnet_ns.networks.registry import build_network, network_names, register_network
from sasnet_ns.networks.sasnet import SASNet, SASNetConfig
from sasnet_ns.networks.sdf import SignedDistanceField
from sasnet_ns.networks.sizes import parameter_count, parameter_counts, sized_options
from sasnet_ns.networks.stacked import StackedNetworks

__all__ = [
    "FFN",
    "PEMLP",
    "SAPE",
    "Cafe",
    "Finer",
    "Flair",
    "FrequencyBands",
    "Gauss",
    "GaussianImage",
    "HashGridMLP",
    "Incode",
    "MaskGenerator",
    "MetricGrids",
    "ModulatedSiren",
    "Network",
    "NetworkChoice",
    "NetworkName",
    "NeuRBF",
    "SASNet",
    "SASNetConfig",
    "SignedDistanceField",
    "Siren",
    "StackedNetworks",
    "Wire",
    "build_network",
    "from_authors",
    "fused_step",
    "network_names",
    "network_values",
    "parameter_count",
    "parameter_counts",
    "read_authors",
    "register_network",
    "sample_frequencies",
    "sized_options",
    "step_form",
]
