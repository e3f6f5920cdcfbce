"""What the numba kernels share: compiling with a cache where one can be written, and threads.

A kernel is called as ``kernel(part, parts, *arguments)`` and does one of ``parts`` equal shares of the work. Beside it
stands a launcher that runs all parts on torch's own threads; where those cannot be had, Python's threads do.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from sasnet_ns.kernels import _openmp

APART = 32
"""Numbers (of four bytes or more) that keep the data of two threads apart."""
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def _digest_of_sources() -> str:
    """One hash of all kernels' sources."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


_SOURCES = _digest_of_sources()


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit`` without the GIL, with fused multiply-adds, cached on disk where a cache directory is writable."""
    try:
        compiled = numba.njit(cache=True, **_OPTIONS)(function)
        # numba compares a function's own file alone, but what is compiled holds functions of other files too: without
        # this an upgrade would go on with the old ones.
        cache = compiled._cache._cache_file
        cache._source_stamp = (cache._source_stamp, _SOURCES)
    except (RuntimeError, AttributeError):  # no writable place for a cache, or a numba that keeps it otherwise
        return numba.njit(cache=False, **_OPTIONS)(function)
    return compiled


@jit
def span(part, parts, rows):  # type: ignore[no-untyped-def]
    """First and last row (exclusive) of one of ``parts`` equal ranges."""
    size = -(-rows // parts)
    return min(rows, part * size), min(rows, (part + 1) * size)


@jit
def entry(stack, k):  # type: ignore[no-untyped-def]
    """Entry ``k`` of a stack of arrays, or None of None."""
    if stack is None:
        return None
    return stack[k]


@jit
def scratch(shape, dtype):  # type: ignore[no-untyped-def]
    """Zeros that share no cache line with another thread's data, nor the next line, which is fetched with it."""
    size = 1
    for length in shape:
        size *= length
    memory = np.zeros(size + 2 * APART, dtype)
    first = (-memory.ctypes.data) % 64 // memory.itemsize + APART // 2  # whole vectors do not straddle cache lines
    return memory[first : first + size].reshape(shape)


def run(launcher: Callable[..., None], kernel: Callable[..., None], parts: int, *arguments: Any) -> None:
    """Run ``kernel(part, parts, *arguments)`` for every part on threads and wait for all.

    Args:
        launcher: compiled function of (team, parts, *arguments) that calls ``_openmp.on_team`` on the kernel.
        kernel: compiled function.
        parts: how many; one runs at once, and where torch has one thread all of them do, in order.
        arguments: arrays and whatever else the kernel takes.
    """
    if parts <= 1 or torch.get_num_threads() == 1:
        for part in range(parts):
            kernel(part, parts, *arguments)
        return
    team = _openmp.team() if _launches() else None
    if team is not None:
        launcher(team, parts, *arguments)
        return
    futures = [_pool(parts - 1).submit(kernel, part, parts, *arguments) for part in range(1, parts)]
    kernel(0, parts, *arguments)
    for future in futures:
        future.result()


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="sasnet-kernels")


if hasattr(os, "register_at_fork"):  # a forked child has the executor, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@jit
def _mark(part, parts, marks):  # type: ignore[no-untyped-def]
    marks[part] += parts


@jit
def _mark_on_team(team, parts, *arguments):  # type: ignore[no-untyped-def]
    _openmp.on_team(_mark, team, parts, arguments)


@functools.cache
def _launches() -> bool:
    """Whether this numba compiles launchers, which use more of its inside than it promises; one line if not."""
    team, marks = _openmp.team(), np.zeros(3)
    if team is None:
        return False
    problem = "parts are missing"
    try:
        _mark_on_team(team, 3, marks)
    except Exception as error:
        problem = str(error).partition("\n")[0]
    works = bool((marks == 3).all())
    if not works:
        warnings.warn(f"Kernels run on Python's threads, which is slower: {problem}", stacklevel=2)
    return works


def threads_for(rows: int, rows_worth_a_thread: int) -> int:
    """Number of threads: as many as torch uses, fewer where there is little to do."""
    return max(1, min(torch.get_num_threads(), rows // rows_worth_a_thread))


def array(tensor: Tensor | None) -> np.ndarray | None:
    """Contiguous numpy view of a CPU tensor."""
    return None if tensor is None else tensor.detach().contiguous().numpy()
