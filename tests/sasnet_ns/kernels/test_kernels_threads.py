"""Work shared out over threads, torch's own or Python's."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

pytest.importorskip("numba")
from sasnet_ns.kernels import _numba, _openmp


@_numba.jit
def note(part, parts, scale, threads, nothing, axes, marks):  # type: ignore[no-untyped-def]
    """Every part fills its own range, and says on which thread."""
    begin, end = _numba.span(part, parts, marks.shape[0])
    for row in range(begin, end):
        marks[row] += scale * (part + 1) + len(axes)
        if nothing is not None:
            marks[row] = -1
    threads[part] = part


@_numba.jit
def note_on_team(team, parts, *arguments):  # type: ignore[no-untyped-def]
    _openmp.on_team(note, team, parts, arguments)


@pytest.fixture(params=["torch's threads", "Python's threads"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "Python's threads":
        monkeypatch.setattr(_openmp, "team", lambda: None)
    elif _openmp.team() is None:
        pytest.skip("this torch has no OpenMP library that takes work")
    else:
        assert _numba._launches()


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_every_part_runs_once(runtime: None, parts: int) -> None:
    """Also more parts than threads, with scalars, None and tuples among the arguments."""
    marks, threads = np.zeros(20), np.full(parts, -1)
    _numba.run(note_on_team, note, parts, np.float32(10), threads, None, (0, 0, 0), marks)
    size = -(-20 // parts)
    assert marks.tolist() == [10.0 * (row // size + 1) + 3 for row in range(20)]
    assert threads.tolist() == list(range(parts))


@_numba.jit
def meet(part, parts, arrived, patience):  # type: ignore[no-untyped-def]
    """Wait until all parts have arrived, or patience runs out."""
    arrived[part] = 1
    for _ in range(patience):
        if arrived.sum() >= parts:
            arrived[parts + part] = 1
            return


@_numba.jit
def meet_on_team(team, parts, *arguments):  # type: ignore[no-untyped-def]
    _openmp.on_team(meet, team, parts, arguments)


def test_parts_run_at_the_same_time(runtime: None) -> None:
    threads = torch.get_num_threads()
    arrived = np.zeros(4)
    try:
        torch.set_num_threads(2)
        _numba.run(meet_on_team, meet, 2, arrived, 2_000_000_000)
    finally:
        torch.set_num_threads(threads)
    assert arrived.tolist() == [1, 1, 1, 1]


def test_a_numba_that_cannot_compile_launchers_is_lived_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no such thing")

    _numba._launches.cache_clear()
    monkeypatch.setattr(_numba, "_mark_on_team", refuse)
    monkeypatch.setattr(_openmp, "team", lambda: (1, 2, 3, 2))
    try:
        with pytest.warns(UserWarning, match="no such thing"):
            assert not _numba._launches()
        marks = np.zeros(6)
        _numba.run(refuse, note, 2, 1.0, np.zeros(2), None, (), marks)
        assert marks.tolist() == [1, 1, 1, 2, 2, 2]
    finally:
        _numba._launches.cache_clear()


def test_kernels_work_from_other_threads() -> None:
    """Training may run off the main thread, as nerfstudio's viewer renders there."""
    found: list[list[float]] = []

    def work() -> None:
        marks = np.zeros(4)
        _numba.run(note_on_team, note, 2, 1.0, np.zeros(2), None, (), marks)
        found.append(marks.tolist())

    several = [threading.Thread(target=work) for _ in range(3)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert found == [[1, 1, 2, 2]] * 3
