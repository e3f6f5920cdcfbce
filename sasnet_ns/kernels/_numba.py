"""What the numba kernels share: compiling with a cache where one can be written, and the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

LOCK = threading.Lock()
"""Held during every kernel: numba's fallback thread pool aborts the process when two threads enter it at once."""


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit`` without the GIL, with fused multiply-adds, cached on disk where a cache directory is writable."""
    return _compile(function, _OPTIONS)


def jit_parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """:func:`jit` with ``prange`` loops on numba's threads."""
    return _compile(function, {**_OPTIONS, "parallel": True})


def _compile(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no writable place for its cache
        return numba.njit(cache=False, **options)(function)


def use_threads() -> int:
    """Let numba use as many threads as torch does, and return their number."""
    threads = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(threads)
    return threads


def array(tensor: Tensor | None) -> np.ndarray | None:
    """Contiguous numpy view of a CPU tensor."""
    return None if tensor is None else tensor.detach().contiguous().numpy()
