"""Work shared out over threads, torch's own or Python's."""

from __future__ import annotations

import threading

import pytest
import torch

pytest.importorskip("numba")
from sasnet_ns.kernels import _numba, _openmp


@pytest.fixture(params=["torch's threads", "Python's threads"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "Python's threads":
        monkeypatch.setattr(_openmp, "runtime", lambda: None)
    elif _openmp.runtime() is None:
        pytest.skip("this torch has no OpenMP library that takes work")


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_every_part_runs_once(runtime: None, parts: int) -> None:
    done: list[int] = []
    _numba.share_out(parts, done.append)
    assert sorted(done) == list(range(parts))


def test_parts_run_at_the_same_time(runtime: None) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        both = threading.Barrier(2, timeout=20)
        _numba.share_out(2, lambda part: both.wait() and None)
    finally:
        torch.set_num_threads(threads)


def test_an_error_in_a_part_is_raised(runtime: None) -> None:
    def work(part: int) -> None:
        if part == 1:
            raise ValueError("part 1")

    with pytest.raises(ValueError, match="part 1"):
        _numba.share_out(2, work)
