"""Which devices a configuration may name."""

from __future__ import annotations

import torch


def chosen_device(device: torch.device | str | None = None) -> torch.device:
    """The device of that name; CUDA where there is one, else the CPU, where none is named.

    Raises:
        ValueError: this machine has no such device, or it is neither a CPU nor of CUDA.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return torch.device("cuda" if count else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type == "cpu" or (chosen.type == "cuda" and (chosen.index or 0) < count):
            return chosen
    except RuntimeError:  # no name of a device at all
        chosen = None
    if chosen is not None and chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"devices of the kind '{chosen.type}' are not used here; choose cpu or cuda.")
    there = ", ".join(["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))])
    raise ValueError(f"there is no device '{device}' on this machine, which has: {there}.")
