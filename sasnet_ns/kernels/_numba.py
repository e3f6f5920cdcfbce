"""What the numba kernels share: compiling with a cache where one can be written, and threads.

The threads are torch's own where they can be had, otherwise Python's: kernels release the GIL, compiling takes half as
long as with numba's parallel loops, and no second OpenMP pool competes with torch's for the cores.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels import _openmp

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit`` without the GIL, with fused multiply-adds, cached on disk where a cache directory is writable."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba found no writable place for its cache
        return numba.njit(cache=False, **_OPTIONS)(function)


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="sasnet-kernels")


if hasattr(os, "register_at_fork"):  # a forked child has the executor, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def share_out(parts: int, work: Callable[[int], None]) -> None:
    """Run ``work(0)`` to ``work(parts - 1)`` on threads and wait for all."""
    if parts <= 1:
        work(0)
        return
    library = _openmp.runtime()
    if library is not None:
        _openmp.share_out(library, parts, work)
        return
    futures = [_pool(parts - 1).submit(work, part) for part in range(1, parts)]
    work(0)
    for future in futures:
        future.result()


def share_rows(rows: int, threads: int, work: Callable[[int, int], None]) -> None:
    """Run ``work(begin, end)`` on equal ranges of rows, one per thread."""
    size = -(-rows // threads)
    share_out(threads, lambda part: work(min(rows, part * size), min(rows, (part + 1) * size)))


def threads_for(rows: int, rows_worth_a_thread: int) -> int:
    """Number of threads: as many as torch uses, fewer where there is little to do."""
    return max(1, min(torch.get_num_threads(), rows // rows_worth_a_thread))


def array(tensor: Tensor | None) -> np.ndarray | None:
    """Contiguous numpy view of a CPU tensor."""
    return None if tensor is None else tensor.detach().contiguous().numpy()
