"""SASNet: a sinusoidal network whose neurons are multiplied, group by group, by learned spatial masks (CVPR 2026)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sasnet_ns.kernels import HashGridLayout, Implementation, masked_sine, masked_sine_embedding
from sasnet_ns.networks._options import check_choices, takes
from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.networks.frequencies import sample_frequencies
from sasnet_ns.networks.layers import linears, sine_uniform_
from sasnet_ns.networks.mask_generator import MaskGenerator

MOST_COORDINATES = 6
"""Beyond, the frequencies to draw from are too many to list."""

KEPT_WITHOUT_MASKS = 0.75
"""Share of the parameters; a network that keeps less of them without its masks is said to live from its masks."""

ENDPOINTS_PERIOD = 2 / 0.95
"""Period for coordinates that include both ends of [-1, 1] (the authors' later image recipe): no two are one place."""


@dataclass
class SASNetOptions:
    """The fields of :class:`SASNetConfig`."""

    in_dim: int = 3
    """Number of coordinates."""
    out_dim: int = 1
    """Number of output channels."""
    embedding: Literal["frozen", "siren"] = "frozen"
    """First layer: frozen integer frequencies with trainable phases, or a trainable SIREN layer (the ablation)."""
    embedding_width: int = 256
    """Neurons of the first layer."""
    hidden_widths: tuple[int, ...] = (224, 224)
    """Neurons of each hidden sine layer; each a multiple of its number of groups."""
    omega_0: float = 30.0
    """Frequency scale of the hidden layers (and of a SIREN first layer); the frozen embedding has none."""
    band_limit: int = 30
    """Largest embedded frequency B, in cycles per period."""
    low_range: int = 6
    """Largest frequency L of the low group, in cycles per period. The low group is never masked."""
    low_share: float = 0.5
    """Share of the embedding's neurons in the low group."""
    bands: int = 4
    """Number of high-frequency bands, each with a mask of its own."""
    band_spacing: Literal["linear", "exponential"] = "linear"
    """How the cut-offs between the bands lie between L and B."""
    band_allocation: Literal["lattice", "equal"] = "lattice"
    """Neurons of the bands: from a regular lattice as the authors draw them, which leaves low bands almost none in 3-D,
    or as many in each band."""
    step_dim: int = 2
    """Exponent of the frequency lattice's step formula: 2 as the authors have it, or in_dim."""
    period: float = 2.0
    """Period of the embedding in coordinate units: 2 makes [-1, 1] one period."""
    phase_init: Literal["linear", "full"] = "linear"
    """Initial phases: uniform in +-1/sqrt(in_dim) as in the authors' library, or in +-pi."""
    frequency_seed: int = 42
    """Seed of the frequency draw; independent of the run's seed."""
    masks: bool = True
    """Whether there are masks at all; without them this is a SIREN with a frozen embedding."""
    mask_embedding: bool = True
    """Whether the embedding's high bands are masked."""
    groups: tuple[int, ...] = (8, 8)
    """Masked neuron groups of each hidden layer; 0 leaves that layer unmasked."""
    grid_levels: int = 10
    """Levels of the hash grid."""
    grid_log2_entries: int = 10
    """Base-2 logarithm of the largest table of a level."""
    grid_min: int = 16
    """Resolution of the coarsest level, in grid points a side."""
    grid_max: int = 256
    """Resolution of the finest level, in grid points a side."""
    grid_features: int = 2
    """Features per table entry."""
    grid_interpolation: Literal["linear", "smoothstep"] = "linear"
    """Interpolation inside a cell; smoothstep makes the masks' first derivatives continuous."""
    grid_variant: Literal["own", "wisp"] = "own"
    """Arithmetic of the hash grid: own, all levels live and the lattice on the box's faces; or wisp, as the authors'
    library computes it: finest level zero, last cell constant, spacing 2/R. For their checkpoints; no fused step."""
    feature_std: float = 0.01
    """Standard deviation of the initial features."""
    decoder_width: int = 48
    """Hidden width of the mask decoder."""
    implementation: Implementation = "auto"
    """Kernel backend; auto takes the fastest that loads."""


@dataclass
class SASNetConfig(SASNetOptions):
    """Configuration of a SASNet. The presets are the paper's (Supp. Tab. 1), the authors' later Tiger recipes, and ours
    for runs of a minute; each takes any field of :class:`SASNetOptions` to change it.
    """

    @classmethod
    @takes(SASNetOptions)
    def image(cls, **overrides: Any) -> SASNetConfig:
        """The paper's image network: 128,867 parameters (the paper states 128,865; no hash grid gives that)."""
        values = {
            "in_dim": 2,
            "out_dim": 3,
            "omega_0": 43.0,
            "hidden_widths": (232, 232),
            "band_limit": 60,
            "low_range": 12,
            "grid_min": 4,
        }
        return cls(**{**values, **overrides})

    @classmethod
    @takes(SASNetOptions)
    def toy(cls, **overrides: Any) -> SASNetConfig:
        """The image network in small, 11,243 parameters; the paper's toy image has "approximately 11K" (Sec. 4.1.2)."""
        values = {
            "embedding_width": 64,
            "hidden_widths": (64, 64),
            "grid_levels": 6,
            "grid_log2_entries": 8,
            "grid_max": 128,
            "decoder_width": 16,
        }
        return cls.image(**{**values, **overrides})

    @classmethod
    @takes(SASNetOptions)
    def volume(cls, **overrides: Any) -> SASNetConfig:
        """The paper's volume network: 138,181 parameters."""
        values = {"hidden_widths": (192, 192), "grid_log2_entries": 11, "grid_levels": 12}
        return cls(**{**values, **overrides})

    @classmethod
    @takes(SASNetOptions)
    def sdf(cls, **overrides: Any) -> SASNetConfig:
        """The paper's SDF network: 130,917 parameters. ``band_limit=40`` for Lucy and the Thai statue."""
        return cls(**overrides)

    @classmethod
    @takes(SASNetOptions)
    def sdf_compact(cls, **overrides: Any) -> SASNetConfig:
        """The SDF network for half a minute instead of hours, ours: 117,573 parameters, 53 % in the sine layers.

        The paper's layout, a little narrower, with as many neurons in each band and a grid that starts coarser.
        """
        values = {
            "embedding_width": 128,
            "hidden_widths": (192, 192),
            "band_allocation": "equal",
            "grid_levels": 8,
            "grid_log2_entries": 12,
            "grid_min": 8,
            "grid_max": 160,
            "grid_interpolation": "smoothstep",
        }
        return cls(**{**values, **overrides})

    @classmethod
    @takes(SASNetOptions)
    def sdf_grid(cls, **overrides: Any) -> SASNetConfig:
        """The fastest fit, ours: a hash grid read out through masked sines; 132,809 parameters, 92 % in the grid.

        One narrow layer with many mask groups. What it learns, it learns by the grid; :meth:`sdf_compact` is a SASNet.
        """
        values = {
            "embedding_width": 96,
            "hidden_widths": (80,),
            "groups": (20,),
            "band_allocation": "equal",
            "grid_levels": 8,
            "grid_log2_entries": 13,
            "grid_max": 160,
            "grid_interpolation": "smoothstep",
        }
        return cls(**{**values, **overrides})

    @classmethod
    @takes(SASNetOptions)
    def sdf_fast(cls, **overrides: Any) -> SASNetConfig:
        """Former name of :meth:`sdf_grid`."""
        warnings.warn("SASNetConfig.sdf_fast is now called sdf_grid.", DeprecationWarning, stacklevel=2)
        return cls.sdf_grid(**overrides)

    @classmethod
    @takes(SASNetOptions)
    def tiger_p(cls, **overrides: Any) -> SASNetConfig:
        """The authors' later image recipe, smaller network: 129,841 parameters."""
        values = {
            "in_dim": 2,
            "out_dim": 3,
            "hidden_widths": (232, 232),
            "band_limit": 42,
            "low_range": 9,
            "period": ENDPOINTS_PERIOD,
            "grid_min": 8,
            "grid_max": 128,
        }
        return cls(**{**values, **overrides})

    @classmethod
    @takes(SASNetOptions)
    def tiger_d(cls, **overrides: Any) -> SASNetConfig:
        """The authors' later image recipe, larger network: 214,001 parameters."""
        return cls.tiger_p(**{"hidden_widths": (256, 256, 256), "groups": (8, 8, 8), **overrides})

    def setup(self) -> SASNet:
        """Build the network; weights follow torch's global random state, frequencies ``frequency_seed``.

        Raises:
            ValueError: widths, groups and frequency ranges do not fit together.
        """
        return SASNet(self)


class SASNet(Network):
    """Frequency embedding, masked sine layers, affine output (SASNet, Eqs. 2, 3 and 6).

    ``h_0 = M_0 * sin(W_0 x + phi)`` with ``W_0 = 2 pi k / period`` frozen, then
    ``h_i = M_i * sin(omega_0 (W_i h_{i-1} + b_i))``, and the output ``W h + b``. The masks M are in [0, 1], one per
    group of neurons, and multiply activations; the embedding's low group has none. The products of the embedding and of
    the output stay in fp32 under autocast: phases reach hundreds of radians.

    Args:
        config: see :class:`SASNetConfig`.
    """

    def __init__(self, config: SASNetConfig) -> None:
        super().__init__(config.in_dim, config.out_dim)
        _check(config)
        self.config = config
        frequencies = sample_frequencies(
            config.embedding_width,
            config.in_dim,
            config.band_limit,
            config.low_range,
            config.low_share,
            config.bands,
            config.band_spacing,
            config.step_dim,
            config.frequency_seed,
            config.band_allocation,
        )
        self.band_sizes = frequencies.group_sizes
        widths = (config.embedding_width, *config.hidden_widths)
        self.phase = nn.Parameter(torch.empty(widths[0]))
        bound = math.pi if config.phase_init == "full" else 1 / math.sqrt(config.in_dim)
        nn.init.uniform_(self.phase, -bound, bound)
        if config.embedding == "frozen":
            self.register_buffer(
                "frequencies", frequencies.multipliers.to(self.phase.dtype) * (2 * math.pi / config.period)
            )
        else:
            weight = torch.empty(widths[0], config.in_dim).uniform_(-1 / config.in_dim, 1 / config.in_dim)
            # Sorted by frequency, so that contiguous groups are bands here as well.
            self.frequencies = nn.Parameter(weight[weight.abs().amax(1).argsort()])
        self.hidden = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(widths))
        self.output = nn.Linear(widths[-1], config.out_dim)
        for layer in (*self.hidden, self.output):
            sine_uniform_(layer.weight, config.omega_0)

        self.mask_counts = _mask_counts(config)
        self.mask_generator = _mask_generator(config) if sum(self.mask_counts) else None
        _warn(config, self.band_sizes, self.parameter_count())

    def _role(self, name: str, parameter: nn.Parameter) -> ParameterRole:
        if name.startswith("mask_generator."):
            return "masks"
        return "hidden" if name.startswith("hidden.") and parameter.ndim == 2 else "backbone"

    def masks(self, x: Float[Tensor, "*batch d"]) -> tuple[Float[Tensor, "*batch groups"] | None, ...]:
        """The masks of every layer.

        Args:
            x: (..., in_dim) coordinates in [-1, 1].

        Returns:
            One (..., groups) tensor in [0, 1] per sine layer, the embedding first (its high bands, from low to high);
            None for a layer without masks.
        """
        if self.mask_generator is None:
            return (None,) * len(self.mask_counts)
        with torch.autocast(x.device.type, enabled=False):
            values = self.mask_generator(x.reshape(-1, self.in_dim)).reshape(*x.shape[:-1], sum(self.mask_counts))
        parts = values.split(self.mask_counts, dim=-1)
        return tuple(part if part.shape[-1] else None for part in parts)

    def forward(self, x: Float[Tensor, "*batch d"], bands: int | None = None) -> Float[Tensor, "*batch out"]:
        """Evaluate the network.

        Args:
            x: (..., in_dim) coordinates in [-1, 1].
            bands: use the low group and only this many high bands of the embedding, for a coarse preview (the neurons
                left out cost nothing); None uses all.

        Returns:
            (..., out_dim) values.

        Raises:
            ValueError: ``bands`` is not between 0 and the number of bands.
        """
        points = x.reshape(-1, self.in_dim).to(self.phase.dtype)
        masks = list(self.masks(points))
        low, *bands_sizes = self.band_sizes
        if bands is not None:
            if not 0 <= bands <= self.config.bands:
                raise ValueError(f"bands must be between 0 and {self.config.bands}, got {bands}.")
            bands_sizes = bands_sizes[:bands]
            masks[0] = None if masks[0] is None or bands == 0 else masks[0][:, :bands]
        kept = low + sum(bands_sizes)
        with torch.autocast(x.device.type, enabled=False):
            h = self._embed(points, masks[0], bands_sizes, kept)
        for index, layer in enumerate(linears(self.hidden)):
            weight = layer.weight[:, :kept] if index == 0 else layer.weight
            mask, groups = masks[index + 1], self.config.groups[index]
            sizes = () if mask is None else (layer.out_features // groups,) * groups
            z = torch.nn.functional.linear(h, weight)
            h = masked_sine(z, layer.bias, self.config.omega_0, mask, sizes, self.config.implementation)
        with torch.autocast(x.device.type, enabled=False):
            return self.output(h.to(self.output.weight.dtype)).reshape(*x.shape[:-1], self.out_dim)

    def _embed(self, points: Tensor, mask: Tensor | None, bands_sizes: list[int], kept: int) -> Tensor:
        """The first ``kept`` neurons of the embedding layer, (N, kept)."""
        sizes = () if mask is None else bands_sizes
        weight, phase, implementation = self.frequencies[:kept], self.phase[:kept], self.config.implementation
        if self.config.embedding == "frozen":
            return masked_sine_embedding(points, weight, phase, mask, sizes, implementation)
        return masked_sine(points @ weight.T, phase, self.config.omega_0, mask, sizes, implementation)


def _mask_counts(config: SASNetConfig) -> tuple[int, ...]:
    """Number of masks of each sine layer, the embedding first; 0 where a layer has none."""
    if not config.masks:
        return (0,) * (1 + len(config.hidden_widths))
    return (config.bands if config.mask_embedding else 0, *config.groups)


def _warn(config: SASNetConfig, band_sizes: Sequence[int], parameters: int) -> None:
    """Say what a configuration leaves of a SASNet where that is not much."""
    empty = [str(band) for band, size in enumerate(band_sizes[1:], 1) if not size]
    if empty:
        warnings.warn(
            f"no neuron of {config.embedding_width} is in band {', '.join(empty)} of {len(band_sizes) - 1}: "
            "band_allocation='equal' gives every band as many; fewer bands or a wider embedding help as well.",
            stacklevel=4,
        )
    if not config.masks and config.in_dim <= 4:  # beyond, there are no masks to lose
        with torch.device("meta"):  # neither memory nor random numbers
            generator = _mask_generator(dataclasses.replace(config, masks=True))
        lost = sum(parameter.numel() for parameter in generator.parameters())
        if parameters < KEPT_WITHOUT_MASKS * (parameters + lost):
            warnings.warn(
                f"without its masks this network has {parameters:,} of {parameters + lost:,} parameters; much of what "
                "it can do is gone with them: give it wider hidden_widths for a comparison at equal size.",
                stacklevel=4,
            )


def _mask_generator(config: SASNetConfig) -> MaskGenerator:
    layout = HashGridLayout.geometric(
        config.in_dim,
        levels=config.grid_levels,
        min_resolution=config.grid_min,
        max_resolution=config.grid_max,
        log2_table_size=config.grid_log2_entries,
        feature_dim=config.grid_features,
        interpolation=config.grid_interpolation,
    )
    return MaskGenerator(
        layout,
        sum(_mask_counts(config)),
        config.decoder_width,
        config.feature_std,
        config.implementation,
        config.grid_variant == "wisp",
    )


def _check(config: SASNetConfig) -> None:
    check_choices(SASNetOptions, vars(config))
    if config.in_dim > MOST_COORDINATES:
        raise ValueError(f"SASNet takes 1 to {MOST_COORDINATES} coordinates, with masks 1 to 4; not {config.in_dim}.")
    if len(config.groups) != len(config.hidden_widths):
        raise ValueError(
            f"groups has {len(config.groups)} entries for {len(config.hidden_widths)} hidden layers; give one each."
        )
    for width, groups in zip(config.hidden_widths, config.groups, strict=True):
        if groups < 0:
            raise ValueError(f"groups are numbers of masks, 0 for none; not {groups}.")
        if groups and width % groups:
            raise ValueError(f"a hidden width of {width} does not divide into {groups} groups; choose a multiple.")
