"""Numbers out of text, fast: one pass of C code where lines are alike."""

from __future__ import annotations

import warnings

import numpy as np


def numbers(text: bytes) -> np.ndarray:
    """All numbers of a text in which white space separates them, as (N,) float64.

    Raises:
        ValueError: something in it is no number.
    """
    if not text.strip():
        return np.zeros(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how numpy says that it stopped at a word
        try:
            return np.fromstring(text, dtype=np.float64, sep=" ")
        except DeprecationWarning:
            raise ValueError("a word among numbers") from None


def words_per_line(text: bytes) -> np.ndarray:
    """(L,) how many words separated by white space each line holds; lines end in a line feed."""
    codes = np.frombuffer(text, np.uint8)
    if len(codes) == 0:
        return np.zeros(0, np.int64)
    space = codes <= 32
    begins = ~space & np.concatenate([[True], space[:-1]])
    ends = np.flatnonzero(codes == 10)
    total = np.concatenate([[0], np.cumsum(begins)])
    bounds = np.concatenate([[0], ends + 1, [len(codes)]]) if codes[-1] != 10 else np.concatenate([[0], ends + 1])
    return np.diff(total[bounds])


def table(lines: list[bytes], least: int) -> np.ndarray:
    """(L, W) numbers of lines, cut to what the shortest line holds if they differ.

    Raises:
        ValueError: a word, or a line of fewer than ``least`` numbers.
    """
    text = b"\n".join(lines)
    widths = words_per_line(text)
    if len(widths) != len(lines) or widths.min(initial=least) < least:
        raise ValueError("a line that is too short")
    values = numbers(text)
    if len(values) != widths.sum():
        raise ValueError("a word among numbers")
    if (widths == widths[0]).all():
        return values.reshape(len(lines), -1)
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    return values[starts[:, None] + np.arange(widths.min())]
