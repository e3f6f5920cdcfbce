from __future__ import annotations

import subprocess
import sys

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
