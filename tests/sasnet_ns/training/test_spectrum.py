"""Noise lowers the band limit, and with it what goes along."""

import pytest

from sasnet_ns.fitting.shape import default_network_config
from sasnet_ns.networks import SASNetConfig
from sasnet_ns.training.spectrum import fit_spectrum
from sdf_tools.errors import ShapeWarning


def test_noise_lowers_the_band_limit_and_clean_input_keeps_it():
    plain = SASNetConfig.sdf_compact()
    assert fit_spectrum(plain, 0.0) == plain == fit_spectrum(plain, 1e-4)
    noisy = fit_spectrum(plain, 0.0034)
    assert noisy.band_limit == 9 and noisy.low_range < 9 and noisy.omega_0 == 10.0 and noisy.grid_max == 48
    assert fit_spectrum(plain, 0.1).band_limit == 8
    network = noisy.setup()
    assert min(network.band_sizes) > 0 and int(network.frequencies.abs().max() / 3.1415926) <= 9


def test_what_was_chosen_is_said():
    assert default_network_config("sasnet") == {"preset": "sdf_compact"}
    with pytest.warns(ShapeWarning, match="band limit 9"):
        options = default_network_config("sasnet", 0.0034)
    assert options["band_limit"] == 9 and options["preset"] == "sdf_compact"
