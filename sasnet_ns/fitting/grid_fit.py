"""From an image or a volume to a network in one call."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sasnet_ns.fitting.grid_field import GridField, TargetRange
from sasnet_ns.fitting.image_metrics import psnr
from sasnet_ns.fitting.signal import CoordinateGrid, Signal
from sasnet_ns.networks import SASNet, fused_step
from sasnet_ns.networks.presets import PRESETS
from sasnet_ns.networks.sasnet import ENDPOINTS_PERIOD
from sasnet_ns.training.checkpoint import Checkpoint
from sasnet_ns.training.devices import chosen_device
from sasnet_ns.training.loop import History, Report, progress_bar, seeded, train
from sasnet_ns.training.options import plain_options, tensor_digest
from sasnet_ns.training.recipe import Recipe
from sdf_tools.io.writing import write_json
from sdf_tools.losses import mask_sparsity_loss
from sdf_tools.ranges import require


def _recipe() -> Recipe:
    # The authors' later image recipe (Adam, cosine to one percent), with fewer steps.
    return Recipe(
        steps=2000, optimizer="adam", learning_rate=1e-3, mask_learning_rate=5e-3, warmup_steps=1, final_factor=0.01
    )


@dataclass
class GridFit:
    """How :func:`fit_grid` trains.

    Raises:
        ValueError: a number is out of range, see :meth:`check`.
    """

    network: str = "sasnet"
    """Registry name of the network."""
    network_config: dict[str, Any] | None = None
    """Options of the network; None takes :func:`default_network_config`."""
    recipe: Recipe = field(default_factory=_recipe)
    """Optimiser and schedule; the default is the authors' later image recipe."""
    points_per_batch: int = 0
    """Samples drawn for each step; 0 uses all of them in every step."""
    coordinates: CoordinateGrid = "centers"
    """Where samples lie in [-1, 1]: at cell centres, or with both ends included (a SASNet then has a period of 2 / 0.95
    unless its options say another)."""
    target_range: TargetRange = "symmetric"
    """What the network's output stands for: [-1, 1] or [0, 1]."""
    mask_sparsity_weight: float = 0.0
    """SASNet: weight lambda of the mean over points of the masks' sum (paper, Sec. 3.3, which gives no value)."""
    seed: int = 0
    """Seed of weights and batches."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse what nothing can be trained with; again before training, because fields may have been set since.

        Raises:
            ValueError: a number is out of range.
        """
        require("points_per_batch", self.points_per_batch, 0)
        require("mask_sparsity_weight", self.mask_sparsity_weight, 0)
        require("seed", self.seed, -(2**63), 2**64 - 1)  # what torch takes
        self.recipe.check()


def default_network_config(network: str, dims: int) -> dict[str, Any]:
    """Options that fitting starts from: the paper's for images (2 axes) or volumes (3) where it has any."""
    task = "image" if dims == 2 else "volume"
    return {"preset": task} if network == "sasnet" or task in PRESETS.get(network, {}) else {}


@dataclass
class FittedGrid:
    """A trained field, the signal it was trained on, and how training went.

    Attributes:
        field: the network on the signal's coordinates; ``field.save(path)`` keeps it.
        signal: what it was trained on.
        before: the untrained field's values, for spectra before and after; None unless asked for.
        history: loss and PSNR along the way.
        interrupted: whether Ctrl-C ended training early.
    """

    field: GridField
    signal: Signal
    history: History
    before: Tensor | None = None
    interrupted: bool = False

    def save(self, folder: Path, figures: dict[str, Any]) -> dict[str, Any]:
        """Write ``checkpoint.pt``, ``history.json`` and ``metrics.json``: ``figures``, and what every fit has.

        Returns:
            The content of ``metrics.json``.
        """
        parameters, targets, steps = self.field.network.parameter_count(), self.signal.values.numel(), self.history.step
        content = {
            **figures,
            **{key: self.field.description[key] for key in ("network", "network_config")},
            "parameters": parameters,
            "target_values": targets,
            "parameters_per_target": parameters / targets,
            "size": list(self.signal.grid),
            "channels": self.signal.channels,
            "steps": steps[-1] if steps else 0,
            "training_seconds": self.history.seconds[-1] if steps else 0.0,
            "interrupted": self.interrupted,
        }
        self.field.save(folder / "checkpoint.pt")
        write_json(folder / "metrics.json", content)
        write_json(folder / "history.json", asdict(self.history), indent=None)
        return content


@torch.inference_mode(False)  # records gradients, whatever the caller does
def fit_grid(
    signal: Signal,
    config: GridFit | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool | Report = True,
    evaluate_every: int = 0,
    keep_before: bool = False,
    checkpoint: Checkpoint | None = None,
) -> FittedGrid:
    """Fit a network to an image or a volume by the mean squared error.

    Args:
        signal: values on a grid, see :func:`read_image` and :func:`read_volume`.
        config: see :class:`GridFit`.
        device: default CUDA if there is one, else the CPU.
        progress: True for a progress bar, or a function called with the step and the loss every tenth step.
        evaluate_every: steps between PSNRs over the whole signal (a multiple of 10); 0 for the last step alone.
        keep_before: keep the untrained network's values.
        checkpoint: where training keeps its state and goes on from, see :func:`sasnet_ns.training.loop.train`; its
            options are filled in. Remove it once the results are written.

    Returns:
        The field and its history. Ctrl-C ends training early and keeps what is there.

    Raises:
        ValueError: the configuration has a number out of range or does not fit the signal, this machine has no such
            device, training diverged, or the checkpoint is another run's.
    """
    config = copy.deepcopy(config) if config else GridFit()
    config.check()
    require("evaluate_every", evaluate_every, 0)
    if evaluate_every % 10:
        raise ValueError(f"evaluate_every must be a multiple of 10, not {evaluate_every}.")
    device = chosen_device(device)
    if config.network_config is None:
        config.network_config = default_network_config(config.network, len(signal.grid))
    if config.coordinates == "endpoints" and config.network == "sasnet":
        # With the period of the domain, which all presets for cell centres have, both borders would be one place.
        config.network_config = {"period": ENDPOINTS_PERIOD, **config.network_config}
    with seeded(config.seed):
        grid_field = GridField(
            signal.grid, signal.channels, config.network, config.network_config, config.coordinates,
            config.target_range, signal.name, signal.low, signal.high, signal.bits, signal.spacing,
        )  # fmt: skip
        grid_field = grid_field.to(device)
        target = grid_field.target(signal.values).to(device)
        grid_field.network.initialize_from(target)
    fitted = FittedGrid(grid_field, signal, History(), grid_field.render() if keep_before else None)
    steps = config.recipe.steps
    step_loss = GridLoss(grid_field, target, config)
    if checkpoint is not None:
        options = {"evaluate_every": evaluate_every, "device": device.type, "data": tensor_digest(signal.values)[:12]}
        checkpoint = dataclasses.replace(checkpoint, options={**plain_options(config), **options})
    with progress_bar(progress is True, steps, f"{config.network} on {signal.name}") as bar:
        try:
            train(
                grid_field.network,
                config.recipe,
                step_loss,
                after_step=step_loss.finish,
                report=progress if callable(progress) else bar,
                evaluate=lambda: psnr(grid_field.render(), signal.values),
                evaluate_every=evaluate_every,
                history=fitted.history,
                checkpoint=checkpoint,
                generator=step_loss.generator,
            )
        except KeyboardInterrupt:
            fitted.interrupted = True
    return fitted


class GridLoss:
    """The loss of one step, called with its number: draws the points, compares, adds the networks' own terms.

    Args:
        grid_field: the field in training.
        target: (*grid, C) outputs wanted, on the field's device.
        config: batches, weights and seed.

    Raises:
        ValueError: a weight on masks that the network does not have.
    """

    def __init__(self, grid_field: GridField, target: Tensor, config: GridFit) -> None:
        self.network = grid_field.network
        self.points = grid_field.points()
        self.target = target.reshape(-1, target.shape[-1])
        self.config = config
        self.generator = torch.Generator(target.device).manual_seed(config.seed)
        self._last: tuple[Tensor, Tensor] | None = None
        self._fused = fused_step(self.network)
        masked = isinstance(self.network, SASNet) and self.network.mask_generator is not None
        if config.mask_sparsity_weight and not masked:
            raise ValueError(f"mask_sparsity_weight needs a network with masks, and '{config.network}' has none.")

    def __call__(self, step: int) -> Tensor:
        """The loss, a scalar with a graph."""
        x, wanted = self.points, self.target
        count = self.config.points_per_batch
        if 0 < count < len(x):
            index = torch.randint(len(x), (count,), generator=self.generator, device=x.device)
            x, wanted = x[index], wanted[index]
        if self._fused is None:
            error = (self.network(x) - wanted).square()
            loss = error.mean()
        else:
            loss, predicted = self._fused.with_graph(x, wanted)
            error = (predicted - wanted).square()
        self._last = (x, error.detach())
        loss = loss + self.network.penalty()
        if self.config.mask_sparsity_weight:
            assert isinstance(self.network, SASNet)
            open_masks = [mask for mask in self.network.masks(x) if mask is not None]
            loss = loss + self.config.mask_sparsity_weight * mask_sparsity_loss(open_masks)
        return loss

    def finish(self, step: int) -> None:
        """Tell the network that step number ``step`` (from 1) is done."""
        assert self._last is not None
        x, error = self._last
        self.network.on_step(step, self.config.recipe.steps, x, error.mean(-1))


def adjusted(
    config: GridFit,
    dims: int,
    channels: int,
    *,
    options: dict[str, str] | None = None,
    parameters: int | None = None,
    learning_rate: float | None = None,
    steps: int | None = None,
    points_per_batch: int | None = None,
    seed: int | None = None,
) -> GridFit:
    """A configuration with a command line's options over it.

    Args:
        config: changed in place.
        dims: axes of the signal.
        channels: of the signal.
        options: of the network, values in YAML.
        parameters: size the network to about this many.
        learning_rate: peak rate of the backbone; hash grids and mask decoders get five times as much, as in the paper.
        steps: of the recipe.
        points_per_batch: as in :class:`GridFit`.
        seed: as in :class:`GridFit`.

    Raises:
        ValueError: the network cannot be made that small, or a value is not YAML or out of range.
    """
    from sasnet_ns.networks.sizes import sized_options
    from sasnet_ns.training.config import option_value

    network_config = config.network_config
    if network_config is None:
        network_config = default_network_config(config.network, dims)
    network_config |= {
        name: option_value(value, f"the network's option {name}") for name, value in (options or {}).items()
    }
    if parameters is not None:
        network_config = sized_options(config.network, dims, channels, parameters, **network_config)
    config.network_config = network_config
    if learning_rate is not None:
        config.recipe.learning_rate, config.recipe.mask_learning_rate = learning_rate, 5 * learning_rate
    config.recipe.steps = config.recipe.steps if steps is None else steps
    config.points_per_batch = config.points_per_batch if points_per_batch is None else points_per_batch
    config.seed = config.seed if seed is None else seed
    config.check()
    return config
