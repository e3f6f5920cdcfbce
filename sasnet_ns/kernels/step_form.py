"""What a fused training step computes: layers in a chain, masks, a loss; each with its meaning in plain torch.

A form may hold K networks of one architecture (:func:`stack_forms`): all its tensors then have an axis of K in front.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels._torch import linear
from sasnet_ns.kernels.functional import Implementation, hash_grid, masked_sine, masked_sine_embedding
from sasnet_ns.kernels.layout import HashGridLayout
from sdf_tools.errors import ShapeError

Activation = Literal["affine", "relu", "sigmoid", "sine", "finer", "finer_detached", "gauss", "gabor"]


@dataclass(frozen=True)
class StepLayer:
    """A linear layer and what follows its product; the parameters themselves, not copies."""

    weight: Float[Tensor, "outputs inputs"]
    """A gradient is computed if it requires one."""
    bias: Float[Tensor, " outputs"]
    """The same."""
    activation: Activation
    """``affine``, ``relu``, ``sigmoid``: of ``z = h weight^T + bias``; ``sine``: ``m * sin(omega * z)``; ``finer``:
    ``sin(omega * (|z| + 1) * z)``, detached where the factor ``|z| + 1`` is a constant to the gradient; ``gauss``:
    ``exp(-(omega * z)^2)``; ``gabor``: of pairs ``z = a + i b``, first all a, then all b, real and imaginary part of
    ``exp(i omega z - |z|^2)`` in the same order."""
    omega: float = 1.0
    """SIREN's and FINER's frequency factor; a wavelet's over its inverse width; the inverse width of a Gaussian."""
    group_sizes: tuple[int, ...] = ()
    """``sine``: neurons of each masked group, the layer's last ones; a group may be empty. None: no masks."""


@dataclass(frozen=True)
class StepForm:
    """A network as :class:`FusedStep` computes it.

    Without ``decoder`` the chain reads the grid's features if there is a grid, else the coordinates. With ``decoder``
    it reads the coordinates, and the masks of all its layers come from the decoder on the grid's features, in order.
    """

    in_dim: int
    """Number of coordinates."""
    layers: tuple[StepLayer, ...]
    """From the input to the network's values."""
    table: Float[Tensor, "entries feature_dim"] | None = None
    """The hash grid's entries."""
    layout: HashGridLayout | None = None
    """The hash grid's shape."""
    decoder: tuple[StepLayer, ...] = ()
    """From the features to the masks."""

    def parameters(self) -> Iterator[Tensor]:
        """Weight and bias of every layer, the decoder's first, without the table."""
        for layer in (*self.decoder, *self.layers):
            yield layer.weight
            yield layer.bias

    def tensors(self) -> list[Tensor]:
        """All tensors: those of :meth:`parameters`, then the table if there is one."""
        return [*self.parameters()] + ([] if self.table is None else [self.table])

    def with_tensors(self, tensors: Sequence[Tensor]) -> StepForm:
        """The same architecture with other tensors, in the order of :meth:`tensors`."""
        given = iter(tensors)
        decoder, layers = (
            tuple(replace(layer, weight=next(given), bias=next(given)) for layer in chain)
            for chain in (self.decoder, self.layers)
        )
        table = None if self.table is None else next(given)
        return replace(self, decoder=decoder, layers=layers, table=table)


@dataclass(frozen=True)
class PointLoss:
    """A loss that compares each value with its target: ``mean_n w_n mean_c |f_nc - t_nc|^power``.

    ``w_n`` is the call's weight of the point; with ``near`` it is multiplied by ``max(near / (|t| + near),
    far_weight)``, except where the error exceeds ``sign_margin |t|``: the loss of
    :func:`sdf_tools.losses.distance_weighted_loss`.

    Raises:
        ValueError: ``power`` is neither 1 nor 2, or ``near`` is not positive.
    """

    power: int = 2
    """2 for squared errors, 1 for absolute ones."""
    near: float | None = None
    """Distance at which a sample counts half as much as one on the surface, in the target's units; None: no weight."""
    far_weight: float | Tensor = 0.1
    """Smallest weight of a far sample; a scalar tensor where CUDA graphs read it."""
    sign_margin: float = 0.5
    """Error that endangers a sample's sign, as a share of its distance."""
    absolute: bool = False
    """Compare ``|f|`` with the target, which is an unsigned distance (SAL, Atzmon and Lipman 2020, eq. 2)."""

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise ValueError(f"PointLoss takes power 1 or 2, not {self.power}.")
        if self.near is not None and not self.near > 0:
            raise ValueError(f"near is a distance above 0, or None for no weight; not {self.near}.")

    def __call__(
        self,
        predicted: Float[Tensor, "*K N c"],
        target: Float[Tensor, "*K N c"],
        weight: Float[Tensor, "*K N"] | None = None,
    ) -> Float[Tensor, "*K"]:
        """The loss in plain torch, of each network; what :class:`FusedStep` computes."""
        error = ((predicted.abs() if self.absolute else predicted) - target).abs()
        shares = torch.ones_like(error) if weight is None else weight[..., None].expand_as(error)
        if self.near is not None:
            far = (self.near / (target.abs() + self.near)).clamp_min(self.far_weight)
            shares = shares * torch.where(error.detach() > self.sign_margin * target.abs(), 1.0, far)
        return (shares * error.pow(self.power)).mean((-2, -1))


def evaluate(
    form: StepForm, x: Float[Tensor, "*K N in_dim"], implementation: Implementation = "torch"
) -> Float[Tensor, "*K N out_dim"]:
    """The network's values; in plain torch the definition of what :class:`FusedStep` computes.

    Args:
        form: the network, or K of them.
        x: points in [-1, 1]^in_dim; for K networks, those of each.
        implementation: of the grid and the sines.
    """
    h = x
    masks: Tensor | None = None
    if form.table is not None and form.layout is not None:
        h = hash_grid(x, form.table, form.layout, implementation)
        if form.decoder:
            for layer in form.decoder:
                h = _apply(layer, h, None, implementation)
            masks, h = h, x
    used = 0
    for layer in form.layers:
        count = len(layer.group_sizes)
        mask = None if masks is None or not count else masks[..., used : used + count]
        h = _apply(layer, h, mask, implementation)
        used += count
    return h


def _apply(layer: StepLayer, h: Tensor, mask: Tensor | None, implementation: Implementation) -> Tensor:
    if layer.activation == "sine":
        if layer.omega == 1 and not layer.weight.requires_grad:
            return masked_sine_embedding(h, layer.weight, layer.bias, mask, layer.group_sizes, implementation)
        return masked_sine(h @ layer.weight.mT, layer.bias, layer.omega, mask, layer.group_sizes, implementation)
    z = linear(h, layer.weight, layer.bias)
    if layer.activation == "gauss":
        return torch.exp(-(layer.omega * z).square())
    if layer.activation == "gabor":
        real, imaginary = z.chunk(2, dim=-1)
        envelope = torch.exp(-layer.omega * imaginary - real.square() - imaginary.square())
        phase = layer.omega * real
        return torch.cat((envelope * phase.cos(), envelope * phase.sin()), dim=-1)
    if layer.activation in ("finer", "finer_detached"):
        factor = z.abs() + 1
        return torch.sin(layer.omega * (factor.detach() if layer.activation == "finer_detached" else factor) * z)
    return {"affine": lambda: z, "relu": z.relu, "sigmoid": z.sigmoid}[layer.activation]()


def stack_forms(forms: Sequence[StepForm]) -> StepForm:
    """K networks of one architecture as one form: copies of their tensors, (K, ...), trained where theirs are.

    Raises:
        ShapeError: there is none, or they differ in more than values.
    """
    if not forms:
        raise ShapeError("There is no network to stack.")
    for form in forms:
        check(form)
        if _architecture(form) != _architecture(forms[0]):
            raise ShapeError("Networks that are computed together need the same layers and the same grid.")
    columns = zip(*(form.tensors() for form in forms), strict=True)
    return forms[0].with_tensors(
        [torch.stack([t.detach() for t in column]).requires_grad_(column[0].requires_grad) for column in columns]
    )


def _architecture(form: StepForm) -> tuple[object, ...]:
    """Everything but the values."""
    layers = [(layer.activation, layer.omega, layer.group_sizes) for layer in (*form.decoder, *form.layers)]
    tensors = [(t.shape, t.dtype, t.device, t.requires_grad) for t in form.tensors()]
    return form.in_dim, form.layout, len(form.decoder), layers, tensors


def check(form: StepForm) -> None:
    """Whether the layers of a form fit together.

    Raises:
        ShapeError: they do not.
    """
    if (form.table is None) != (form.layout is None) or (form.decoder and form.layout is None):
        raise ShapeError("A hash grid has both a table and a layout, and a mask decoder reads one.")
    if form.layout is not None and form.table is not None:
        wanted = (form.layout.total_entries, form.layout.feature_dim)
        if tuple(form.table.shape) != wanted or form.layout.in_dim != form.in_dim:
            raise ShapeError(f"The grid's table must be {wanted} on {form.in_dim} axes; got {tuple(form.table.shape)}.")
    features = 0 if form.layout is None else form.layout.out_dim
    for chain, inputs in (
        (form.decoder, features),
        (form.layers, features if (form.layout is not None and not form.decoder) else form.in_dim),
    ):
        for layer in chain:
            if layer.weight.shape[1:] != (inputs,) or layer.bias.shape != layer.weight.shape[:1]:
                raise ShapeError(
                    f"A layer on {inputs} inputs cannot have weights {tuple(layer.weight.shape)} and a bias "
                    f"{tuple(layer.bias.shape)}."
                )
            inputs = layer.weight.shape[0]
            if layer.activation == "gabor" and inputs % 2:
                raise ShapeError(f"Wavelets of pairs cannot have {inputs} parts.")
            masked = layer.group_sizes and (layer.activation != "sine" or not form.decoder)
            if masked or min(layer.group_sizes, default=0) < 0 or sum(layer.group_sizes) > inputs:
                raise ShapeError(f"Groups of {layer.group_sizes} neurons do not fit a {layer.activation} layer here.")
    masks = sum(len(layer.group_sizes) for layer in form.layers)
    if form.decoder and form.decoder[-1].weight.shape[0] != masks:
        raise ShapeError(f"The decoder gives {form.decoder[-1].weight.shape[0]} masks; the layers use {masks}.")
