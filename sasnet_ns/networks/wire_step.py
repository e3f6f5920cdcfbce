"""WIRE's training step in one pass: its complex layers as real ones of twice the width."""

from __future__ import annotations

import torch
from torch import Tensor

from sasnet_ns.kernels import FusedStep, PointLoss, StepForm, StepLayer
from sasnet_ns.networks.baselines.wire import ComplexLinear, Wire


class WireStep(FusedStep):
    """The fused step of a WIRE.

    A row of the form holds a complex neuron's real part, the row half a layer further down its imaginary part. sigma is
    in the weights: ``exp(i omega z - |sigma z|^2)`` is ``exp(i (omega / sigma) y - |y|^2)`` of ``y = sigma z``.

    Args:
        network: with sigma above zero; read again in every step.
    """

    def __init__(self, network: Wire) -> None:
        self._network = network
        self._hidden = [layer for layer in network.hidden if isinstance(layer, ComplexLinear)]
        *wavelets, (weight, bias) = [(w.requires_grad_(), b.requires_grad_()) for w, b in self._as_real()]
        layers = [StepLayer(w, b, "gabor", network.omega / network.sigma) for w, b in wavelets]
        form = StepForm(network.in_dim, (*layers, StepLayer(weight, bias, "affine")))
        super().__init__(form, coordinate_scale=network.coordinate_scale)

    @torch.no_grad()
    def _as_real(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of every layer."""
        first, output, sigma = self._network.first, self._network.output, self._network.sigma
        weight, bias = (sigma * torch.cat((t, torch.zeros_like(t))) for t in (first.weight, first.bias))
        found = [(weight, bias)]
        for layer in self._hidden:
            real, imaginary = (sigma * layer.weight).unbind(-1)
            rows = torch.cat((real, -imaginary), dim=1), torch.cat((imaginary, real), dim=1)
            found.append((torch.cat(rows), sigma * torch.cat(layer.bias.unbind(-1))))
        real, imaginary = output.weight.unbind(-1)
        found.append((torch.cat((real, -imaginary), dim=1), output.bias[:, 0].clone()))
        return found

    def _compute(
        self, x: Tensor, target: Tensor, loss: PointLoss | None, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        with torch.no_grad():
            for layer, (own_weight, own_bias) in zip(self.form.layers, self._as_real(), strict=True):
                layer.weight.copy_(own_weight)
                layer.bias.copy_(own_bias)
        value, predicted, found = super()._compute(x, target, loss, weight, scale)
        gradients = self._as_complex([gradient for _, gradient in found])
        return value, predicted, [(tensor, gradient) for tensor, gradient in gradients if tensor.requires_grad]

    def _as_complex(self, gradients: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The network's own parameters and their gradients, from those of the form's tensors."""
        first, output, sigma = self._network.first, self._network.output, self._network.sigma
        found = [
            (t, sigma * gradient[: len(t)])
            for t, gradient in zip((first.weight, first.bias), gradients[:2], strict=True)
        ]
        for layer, by_weight, by_bias in zip(self._hidden, gradients[2:-2:2], gradients[3:-2:2], strict=True):
            top, bottom = by_weight.chunk(2)
            (a, b), (c, d) = top.chunk(2, dim=1), bottom.chunk(2, dim=1)
            found.append((layer.weight, sigma * torch.stack((a + d, c - b), dim=-1)))
            found.append((layer.bias, sigma * torch.stack(by_bias.chunk(2), dim=-1)))
        real, imaginary = gradients[-2].chunk(2, dim=1)
        found.append((output.weight, torch.stack((real, -imaginary), dim=-1)))
        found.append((output.bias, torch.stack((gradients[-1], torch.zeros_like(gradients[-1])), dim=-1)))
        return found
