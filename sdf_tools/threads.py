"""Work shared among as many threads as torch uses (``torch.set_num_threads``, ``OMP_NUM_THREADS``)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def in_threads(work: Callable[[slice], None], count: int, least: int = 2048) -> None:
    """Call ``work`` on slices that together cover ``range(count)``; ``work`` should release the GIL.

    Threads of our own: numba's would be one more pool beside torch's, and warn about old TBB libraries.

    Args:
        work: called once a slice, in any order, from several threads at once.
        count: length of the range.
        least: slices are not made shorter than this.
    """
    threads = torch.get_num_threads()
    # Several slices a thread, so that none waits long for a thread with slower slices. Their number does not depend on
    # the threads: where ties are broken by what came before in a slice, any number of threads gives the same bits.
    step = max(least, -(-count // 64))
    parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))
