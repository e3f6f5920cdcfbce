"""Settings of the process without which a training step on a CPU takes up to twice as long (docs/speed.md)."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

import torch

KEPT_BYTES = 1 << 30
"""Freed memory that stays with the process instead of going back to the system."""
MAPPED_BYTES = 1 << 25
"""Arrays from this size on still go back when they are freed; the largest value that glibc takes."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_matmul = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9


@functools.cache
def tune() -> None:
    """Keep freed memory for the next step, and let AMD processors with AVX-512 use it. Acts once per process.

    A step allocates and frees the same few hundred MB; where glibc hands them back, each step faults them in again page
    by page. MKL, which computes torch's matrix products, keeps to AVX2 on processors that are not Intel's; oneDNN,
    which comes with torch as well, does not.
    """
    if not sys.platform.startswith("linux"):
        return
    keep_freed_memory()
    if "AuthenticAMD" in _processor() and torch.backends.cpu.get_cpu_capability() == "AVX512":
        use_onednn()


def keep_freed_memory() -> bool:
    """Ask the C library to keep up to ``KEPT_BYTES`` of freed memory; False where it is not glibc."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(set_option(_MMAP_THRESHOLD, MAPPED_BYTES) and set_option(_TRIM_THRESHOLD, KEPT_BYTES))


def use_onednn() -> bool:
    """Compute torch's float32 products by oneDNN, if that stays exact here and nobody has chosen otherwise.

    torch offers oneDNN under the name of a precision that it may lower products to. Without matrix units for bfloat16
    it computes in float32 all the same; where the error tells that it does not, everything stays as it was.
    """
    if _matmul is None or _matmul.fp32_precision != "none" or not torch.backends.mkldnn.is_available():
        return False
    a = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    _matmul.fp32_precision = "bf16"
    if float(((a @ a).double() - a.double() @ a.double()).abs().max()) < 1e-4:  # bfloat16 errs by 1e-2
        return True
    _matmul.fp32_precision = "none"
    return False


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
