"""Work for torch's own OpenMP threads.

torch's idle workers spin for a while after each of its products, in wait for the next. Threads of our own would have to
take the cores from them; work handed to that same team starts at once.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@functools.cache
def runtime() -> ctypes.CDLL | None:
    """The OpenMP library that comes with torch and is loaded already; None where there is none that can be asked."""
    try:
        loaded = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    folder = f"{Path(torch.__file__).parent / 'lib'}/"
    for line in loaded:
        path = line[line.find("/") :]
        if path.startswith(folder) and Path(path).name.startswith(("libgomp", "libiomp5", "libomp")):
            library = ctypes.CDLL(path)
            if hasattr(library, "GOMP_parallel"):
                return library
    return None


def share_out(library: ctypes.CDLL, parts: int, work: Callable[[int], None]) -> None:
    """Run ``work(0)`` to ``work(parts - 1)`` on torch's threads and wait for all.

    Raises:
        BaseException: the first that a part raised.
    """
    errors: list[BaseException] = []

    def body(_: int | None) -> None:
        try:
            for part in range(library.omp_get_thread_num(), parts, library.omp_get_num_threads()):
                work(part)
        except BaseException as error:  # none may cross the foreign frame
            errors.append(error)

    # Always torch's own number of threads: a team of another size would be built anew each time.
    library.GOMP_parallel(_BODY(body), None, torch.get_num_threads(), 0)
    if errors:
        raise errors[0]
