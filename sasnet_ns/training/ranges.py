"""What the numbers of a configuration may be, and the devices that it may name: a sentence where they are not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

LARGEST_SEED = 2**63 - 1
"""Up to here every library takes a seed."""


def require(
    name: str, value: float | None, least: float = -math.inf, most: float = math.inf, *, above: bool = False
) -> None:
    """Refuse a number that is not finite or out of range; None stands for no number and passes.

    Args:
        name: of the field, as the sentence has it.
        value: of the field.
        least: smallest value.
        most: largest value.
        above: whether ``least`` itself is too small.

    Raises:
        ValueError: it is out of range.
    """
    if value is None or (-math.inf < value < math.inf and least <= value <= most and not (above and value == least)):
        return
    low = f"more than {least}" if above else f"{least} or more"
    wanted = "a finite number" if least == -math.inf else low if most == math.inf else f"from {least} to {most}"
    if not -math.inf < value < math.inf and "finite" not in wanted:
        wanted += " and finite"
    raise ValueError(f"{name} must be {wanted}, not {value}.")


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


@contextlib.contextmanager
def building(network: str, options: dict[str, Any] | None) -> Iterator[None]:
    """Around what builds a network: whatever torch says of its options becomes a sentence.

    Raises:
        ValueError: the options make no network.
    """
    width = (options or {}).get("width")
    if isinstance(width, int | float) and not isinstance(width, bool):
        require(f"width of network '{network}'", width, 1)
    try:
        yield
    except (RuntimeError, ArithmeticError, LookupError, TypeError) as error:
        said = str(error).splitlines()[0].removesuffix(".") if str(error) else type(error).__name__
        given = ", ".join(f"{name} {value}" for name, value in (options or {}).items()) or "none"
        raise ValueError(f"network '{network}' cannot be built with these options ({given}): {said}.") from error
