"""Which device a launch goes to."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes a tensor's GPU the current one for a ``with``: Triton launches there, wherever the tensors are."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
