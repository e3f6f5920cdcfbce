"""Which numbers are accepted: a sentence where one is not."""

from __future__ import annotations

import math

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
