from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sasnet_ns.kernels import _process

FAULTS = """
import resource, torch
from sasnet_ns.kernels import tune
tune()
x = torch.ones(2_000_000)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        y = x + 1
        z = y + 1
        del y, z
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator only")
def test_freed_memory_is_reused_without_page_faults() -> None:
    """Each of 40 arrays of 8 MB has 2,000 pages; glibc alone hands them back every time."""
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    assert int(output) < 2_000


@pytest.mark.parametrize("size", [24, 300])
def test_products_stay_exact_once_training_has_begun(size: int) -> None:
    _process.tune()
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ a.double()
    before = None if _process._matmul is None else _process._matmul.fp32_precision
    assert float(((a @ a).double() - exact).abs().max()) < 1e-6 * size
    _process.tune()  # acts once
    assert before == (None if _process._matmul is None else _process._matmul.fp32_precision)


@pytest.mark.skipif(_process._matmul is None, reason="torch before 2.9 has no such setting")
def test_a_precision_that_was_chosen_is_kept() -> None:
    settings = _process._matmul
    assert settings is not None
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "ieee"
        assert not _process.use_onednn()
        assert settings.fp32_precision == "ieee"
    finally:
        settings.fp32_precision = before


CACHED = """
import sys
sys.path.insert(0, sys.argv[1])
from sasnet_ns.kernels import _numba
_numba._SOURCES = sys.argv[2]
import doubled
doubled.twice(3)
print(sum(doubled.twice.stats.cache_misses.values()))
"""


def test_compiled_kernels_are_not_kept_beyond_their_sources(tmp_path: Path) -> None:
    """A kernel's code holds functions of other files, which numba does not compare."""
    (tmp_path / "doubled.py").write_text(
        "from sasnet_ns.kernels._numba import jit\n\n\n@jit\ndef twice(x):\n    return x + x\n"
    )
    command = [sys.executable, "-c", CACHED, str(tmp_path)]
    misses = [
        int(subprocess.run([*command, sources], capture_output=True, text=True, check=True).stdout)
        for sources in ("old", "old", "new", "new")
    ]
    assert misses == [1, 0, 1, 0]
