"""A network's values in one call, without autograd: what extraction, pictures and metrics ask for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sasnet_ns.kernels._choose import choose
from sasnet_ns.kernels.functional import Implementation
from sasnet_ns.kernels.step_form import StepForm, check, evaluate


class FusedValues:
    """Values of a network where nothing is to be differentiated.

    Several threads may call one at once. A point's value has the same bits whatever the others and however many
    threads there are.

    Args:
        form: the network. Its tensors are read in every call and must stay the same objects.
        implementation: ``auto``, ``torch`` (the definition) or ``numba`` (CPU, float32).

    Attributes:
        form: the network.
        backend: which of them runs.

    Raises:
        ShapeError: the layers do not fit together.
        MissingLibraryError: numba is asked for by name and is not installed.
        ValueError: the implementation is unknown or cannot run on the tensors.
    """

    def __init__(self, form: StepForm, implementation: Implementation = "auto") -> None:
        check(form)
        self.form = form
        tensors = form.tensors()
        device = tensors[0].device
        fast = all(tensor.dtype == torch.float32 for tensor in tensors)
        if implementation == "auto" and device.type != "cpu":
            implementation = "torch"
        self.backend = choose(implementation, device, fast, ("numba",))
        if self.backend == "numba":
            from sasnet_ns.kernels._numba_step_plan import CompiledValues

            self._compiled = CompiledValues(form)

    def __call__(self, x: Float[Tensor, "N in_dim"], scale: float = 1.0) -> Float[Tensor, "N out_dim"]:
        """Values without a graph at points of which the network sees ``scale * x``, in [-1, 1].

        Points outside, infinite or not numbers are safe.
        """
        with torch.no_grad():
            return self._compiled(x, scale) if self.backend == "numba" else evaluate(self.form, scale * x)
