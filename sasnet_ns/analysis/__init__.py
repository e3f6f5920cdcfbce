"""What a network is made of: Theorem 1 in numbers, input frequencies, spectra."""

from sasnet_ns.analysis.bessel import SineSeries, expand_network, expand_neuron
from sasnet_ns.analysis.spectrum import input_frequencies, radial_spectrum

__all__ = ["SineSeries", "expand_network", "expand_neuron", "input_frequencies", "radial_spectrum"]
