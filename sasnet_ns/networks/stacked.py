"""K networks of one architecture whose tensors lie together, so that they are trained in one go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels import Implementation, StackedStep, StepForm, stack_forms
from sasnet_ns.kernels.step_form import evaluate
from sasnet_ns.networks.base import Network, ParameterRole
from sasnet_ns.networks.fused import step_form


class StackedNetworks:
    """Copies of K networks' tensors, each with an axis of K in front.

    There is a way for what has a form: SASNet, SIREN, FINER, Gauss and ngp, see :func:`~sasnet_ns.networks.step_form`.

    Args:
        networks: of one architecture, on one device.
        implementation: kernels of the steps and the values.

    Attributes:
        form: the tensors.
        step: losses and gradients of all networks in one call.

    Raises:
        ValueError: there is no network, no way for its kind, or they differ in more than values.
    """

    def __init__(self, networks: Sequence[Network], implementation: Implementation = "auto") -> None:
        self._networks = list(networks)
        found = [step_form(network) for network in networks]
        self._forms = [form for form in found if form is not None]
        if len(self._forms) < len(networks):
            name = type(self._networks[0]).__name__
            raise ValueError(f"{name} cannot be trained together with others; sasnet, siren and ngp can.")
        self.form: StepForm = stack_forms(self._forms)
        self.step = StackedStep(self.form, implementation)

    def __len__(self) -> int:
        return len(self._networks)

    def parameter_roles(self) -> dict[ParameterRole, list[Tensor]]:
        """Trained tensors by role, as of one network."""
        stacked = {id(own): tensor for own, tensor in zip(self._forms[0].tensors(), self.form.tensors(), strict=True)}
        roles = self._networks[0].parameter_roles()
        return {role: [stacked[id(parameter)] for parameter in parameters] for role, parameters in roles.items()}

    def __call__(self, x: Float[Tensor, "K N d"]) -> Float[Tensor, "K N out"]:
        """Values of each network at points of its own in [-1, 1]^d, differentiable twice."""
        return evaluate(self.form, x, self.step.backend)

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the tensors back into the networks."""
        for k, form in enumerate(self._forms):
            for own, stacked in zip(form.tensors(), self.form.tensors(), strict=True):
                own.copy_(stacked[k])
