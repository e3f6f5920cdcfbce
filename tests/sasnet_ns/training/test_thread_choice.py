"""The number of threads follows what the cores have left."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from sasnet_ns.training.thread_choice import RETRIED_AFTER, ThreadChoice, threads_kept


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Machine:
    """A step takes what ``wall`` says of the number of threads; its processor time is ``share`` of what it could be."""

    def __init__(self, device: str = "cpu") -> None:
        self.now = self.spent = 0.0
        self.wall: Callable[[int], float] = lambda threads: 0.008 / threads
        self.share: Callable[[int], float] = lambda threads: 1.0
        self.choice = ThreadChoice(device, lambda: self.now, lambda: self.spent)

    def steps(self, count: int) -> None:
        for _ in range(count):
            threads = torch.get_num_threads()
            self.now += self.wall(threads)
            self.spent += self.share(threads) * threads * self.wall(threads)
            self.choice.after_step()


def test_all_threads_stay_on_a_quiet_machine() -> None:
    machine = Machine()
    for _ in range(2000):
        machine.steps(1)
        assert torch.get_num_threads() == 2


def test_one_thread_beside_other_work_and_two_after_it() -> None:
    machine = Machine()
    with threads_kept():
        machine.wall, machine.share = lambda threads: {1: 0.009, 2: 0.02}[threads], lambda threads: 1.2 / threads
        machine.steps(90)
        assert torch.get_num_threads() == 1
        machine.wall, machine.share = lambda threads: 0.008 / threads, lambda threads: 1.0
        machine.steps(int(RETRIED_AFTER / 0.008) + 90)
        assert torch.get_num_threads() == 2
        machine.choice.threads = 1
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 2


def test_two_threads_stay_where_one_is_no_faster() -> None:
    machine = Machine()
    machine.wall, machine.share = lambda threads: 0.01, lambda threads: 0.5
    machine.steps(90)
    assert torch.get_num_threads() == 2


def test_the_number_that_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine = Machine()
    machine.wall, machine.share = lambda threads: 0.01 * threads, lambda threads: 0.3
    machine.steps(200)
    assert torch.get_num_threads() == 2


def test_the_processor_beside_a_gpu_is_left_alone() -> None:
    machine = Machine("cuda")
    machine.wall, machine.share = lambda threads: 0.01 * threads, lambda threads: 0.3
    machine.steps(200)
    assert torch.get_num_threads() == 2
