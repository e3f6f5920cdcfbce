"""WIRE's training step in one pass: its complex layers as real ones of twice the width."""

from __future__ import annotations

import torch
from torch import Tensor

from sasnet_ns.kernels import FusedStep, PointLoss, StepForm, StepLayer
from sasnet_ns.networks.baselines.wire import ComplexLinear, Wire


class WireStep(FusedStep):
    """The fused step of a WIRE.

    A row of the form holds a complex neuron's real part, one half of the layer further down its imaginary part. sigma
    is in the weights: ``exp(i omega z - |sigma z|^2)`` is ``exp(i (omega / sigma) y - |y|^2)`` of ``y = sigma z``.

    Args:
        network: with sigma above zero; read again in every step.
    """

    def __init__(self, network: Wire) -> None:
        self._network = network
        self._hidden = [layer for layer in network.hidden if isinstance(layer, ComplexLinear)]
        ratio = network.omega / network.sigma
        layers = [StepLayer(t, b, "gabor", ratio) for t, b in zip(*[iter(self._spread())] * 2, strict=True)]
        output = StepLayer(layers[-1].weight, layers[-1].bias, "affine")
        super().__init__(StepForm(network.in_dim, (*layers[:-1], output)), coordinate_scale=network.coordinate_scale)

    def _spread(self) -> list[Tensor]:
        """Weight and bias of every layer as real numbers, with gradients."""
        network, sigma = self._network, self._network.sigma
        first, output = network.first, network.output
        with torch.no_grad():
            found = [
                torch.cat((sigma * first.weight, torch.zeros_like(first.weight))),
                torch.cat((sigma * first.bias, torch.zeros_like(first.bias))),
            ]
            for layer in self._hidden:
                real, imaginary = (sigma * layer.weight).unbind(-1)
                top, bottom = torch.cat((real, -imaginary), dim=1), torch.cat((imaginary, real), dim=1)
                found += [torch.cat((top, bottom)), torch.cat((sigma * layer.bias).unbind(-1))]
            real, imaginary = output.weight.unbind(-1)
            found += [torch.cat((real, -imaginary), dim=1), output.bias[:, 0].clone()]
        return [tensor.requires_grad_() for tensor in found]

    def _compute(
        self, x: Tensor, target: Tensor, loss: PointLoss | None, weight: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        with torch.no_grad():
            for tensor, value in zip(self.form.tensors(), self._spread(), strict=True):
                tensor.copy_(value)
        value, predicted, gradients = super()._compute(x, target, loss, weight, scale)
        found = self._gather([gradient for _, gradient in gradients])
        return value, predicted, [(tensor, gradient) for tensor, gradient in found if tensor.requires_grad]

    def _gather(self, gradients: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The network's own parameters and their gradients."""
        network, sigma = self._network, self._network.sigma
        first, output, width = network.first, network.output, network.first.out_features
        found = [(first.weight, sigma * gradients[0][:width]), (first.bias, sigma * gradients[1][:width])]
        for layer, by_weight, by_bias in zip(self._hidden, gradients[2:-2:2], gradients[3:-2:2], strict=True):
            top, bottom = by_weight.chunk(2)
            (a, b), (c, d) = top.chunk(2, dim=1), bottom.chunk(2, dim=1)
            found += [
                (layer.weight, sigma * torch.stack((a + d, c - b), dim=-1)),
                (layer.bias, sigma * torch.stack(by_bias.chunk(2), dim=-1)),
            ]
        real, imaginary = gradients[-2].chunk(2, dim=1)
        found += [
            (output.weight, torch.stack((real, -imaginary), dim=-1)),
            (output.bias, torch.stack((gradients[-1], torch.zeros_like(gradients[-1])), dim=-1)),
        ]
        return found
