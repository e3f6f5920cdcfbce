"""Weights in fewer bits, without retraining: half precision, or eight bits with a scale for each run, deflated."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

BITS = (8, 16, 32)
RUN = 64  # values that share a scale
FEWEST = 256  # values of a tensor that is worth packing
SCALES = ".scales"  # after the name of a tensor of 8 bits: that of its scales


def pack_state(state: Mapping[str, Tensor], trained: Iterable[str], bits: int) -> dict[str, Tensor]:
    """A ``state_dict`` with the ``trained`` float tensors of 256 values and more in fewer bits; all else as it is.

    8 bits: each run of 64 values, in the tensor's order, is ``scale * q`` with whole q of -127 to 127 and the largest
    magnitude at 127. The q are deflated into one tensor of bytes under the tensor's name, the half-precision scales lie
    beside it. 16 bits: half precision.

    Args:
        state: tensors by name.
        trained: names of the parameters; buffers (frequencies, the frame) stay exact.
        bits: 8, 16, or 32, which changes nothing.

    Raises:
        ValueError: another number of bits, or a value that half precision cannot hold.
    """
    if bits not in BITS:
        raise ValueError(f"bits must be 8, 16 or 32, not {bits}.")
    packed: dict[str, Tensor] = {}
    names = set(trained)
    for name, tensor in state.items():
        if bits == 32 or name not in names or not tensor.is_floating_point() or tensor.numel() < FEWEST:
            packed[name] = tensor
            continue
        flat = tensor.detach().cpu().float().reshape(-1)
        if not bool((flat.abs() <= torch.finfo(torch.float16).max).all()):
            raise ValueError(f"'{name}' has values that {bits} bits cannot hold; export with 32 bits.")
        if bits == 16:
            packed[name] = tensor.half()
            continue
        runs = torch.nn.functional.pad(flat, (0, -len(flat) % RUN)).reshape(-1, RUN)
        # Rounded up, so that no q leaves its range; where halves are too far apart for that, to the next one.
        largest = runs.abs().amax(1)
        scales = (largest / 127 * (1 + 2**-10)).clamp_min(2**-24).half()
        short = (scales.float() * 127 < largest).to(torch.int16)
        scales = (scales.view(torch.int16) + short).view(torch.float16)
        whole = (runs / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8).reshape(-1)[: len(flat)]
        deflated = zlib.compress(whole.numpy().tobytes(), 9)
        packed[name] = torch.from_numpy(np.frombuffer(deflated, np.uint8).copy())
        packed[name + SCALES] = scales
    return packed


def unpack_state(state: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`pack_state`, as float32; a state that is not packed comes back as it is.

    Args:
        state: tensors by name.
        shapes: the ``state_dict`` of the network that they belong to.

    Raises:
        ValueError: bytes that are not what the network's shapes ask for.
    """
    unpacked = {name: tensor for name, tensor in state.items() if not _is_scales(name, state)}
    for name in [name for name in unpacked if name + SCALES in state]:
        if name not in shapes:
            continue  # loading says which names are too many
        shape, scales, deflated = shapes[name].shape, state[name + SCALES], state[name]
        count = shape.numel()
        # No more is inflated than the network holds.
        try:
            raw = zlib.decompressobj().decompress(deflated.cpu().numpy().tobytes(), count + 1)
        except zlib.error as error:
            raise ValueError(f"the weights '{name}' are damaged ({error})") from None
        if len(raw) != count or len(scales) != -(-count // RUN):
            raise ValueError(f"the weights '{name}' are not those of this network")
        whole = torch.from_numpy(np.frombuffer(raw, np.int8).copy()).to(scales.device, torch.float32)
        unpacked[name] = (whole * scales.float().repeat_interleave(RUN)[:count]).reshape(shape)
    return unpacked


def _is_scales(name: str, state: Mapping[str, Tensor]) -> bool:
    return name.endswith(SCALES) and name.removesuffix(SCALES) in state
