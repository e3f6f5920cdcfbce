"""Our threads are as many as torch's, and the bits do not depend on how many that is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from primitives import box

from sdf_tools.distance import SignedDistance
from sdf_tools.spatial import winding_tree
from sdf_tools.threads import in_threads


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_threads_work_than_torch_was_given(count: int) -> None:
    torch.set_num_threads(count)
    seen: set[int] = set()
    covered = np.zeros(10_000, int)

    def work(rows: slice) -> None:
        seen.add(threading.get_ident())
        time.sleep(0.002)
        covered[rows] += 1

    in_threads(work, len(covered), least=100)
    assert len(seen) == count and (covered == 1).all()


def test_winding_fields_keep_to_torch_s_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, seen = winding_tree._kernel(), set()

    def watched(*arguments: object) -> None:
        seen.add(threading.get_ident())
        kernel(*arguments)

    monkeypatch.setattr(winding_tree, "_kernel", lambda: watched)
    torch.set_num_threads(1)
    points = np.random.default_rng(0).normal(size=(5_000, 3))
    winding_tree.WindingTree(points).winding(points, 0.1)
    assert seen == {threading.get_ident()}


def test_one_thread_and_three_give_the_same_bits() -> None:
    # Box and lattice are symmetric: most points have several triangles equally near.
    axis = torch.linspace(-0.4, 0.4, 25, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis, axis)
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        closest = SignedDistance(box()).closest(points)
        field = winding_tree.WindingTree(points.numpy()).winding(points.numpy(), 0.01)
        found.append((closest.points, closest.normals, closest.faces, torch.from_numpy(field)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
