"""Adam and Muon in one compiled call against torch's step by step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")
from sasnet_ns.kernels.optimizers import Adam, compiled_updates, muon_step
from sasnet_ns.training.muon import Muon, orthogonalize, orthogonalize_all


@pytest.mark.parametrize("shape", [(128, 128), (96, 80), (20, 48), (37, 53), (5, 3), (1, 7)])
def test_muon(shape: tuple[int, int]) -> None:
    """Two matrices and three steps, against the iteration in float64; orthogonalised singular values lie near 1."""
    torch.manual_seed(0)
    found = [torch.randn(shape) for _ in range(2)]
    wanted = [p.double() for p in found]
    buffers = [torch.zeros(shape) for _ in range(2)]
    moments = [b.double() for b in buffers]
    for _ in range(3):
        gradients = [1e-3 * torch.randn(shape) for _ in range(2)]
        before = [p.clone() for p in found]
        muon_step(found, gradients, buffers, lr=0.01, momentum=0.95, ns_steps=5)
        for p, g, b in zip(wanted, gradients, moments, strict=True):
            b.lerp_(g.double(), 0.05)
            p.sub_(orthogonalize(g.double().lerp(b, 0.95), 5), alpha=0.01 * 0.2 * max(shape) ** 0.5)
        for p, q, old in zip(found, wanted, before, strict=True):
            assert (p - q).abs().max() < 1e-5
            values = torch.linalg.svdvals((old - p).double()) / (0.01 * 0.2 * max(shape) ** 0.5)
            assert values.max() < 1.3
    assert all((b - m).norm() < 1e-6 * m.norm() for b, m in zip(buffers, moments, strict=True))


@pytest.mark.parametrize("more", [{"weight_decay": 0.5}, {"maximize": True}])
def test_adam_obeys_the_options_of_a_group(more: dict[str, object]) -> None:
    found, wanted = (torch.full((5,), 3.0, requires_grad=True) for _ in range(2))
    mine, theirs = Adam([{"params": [found], **more}], lr=0.1), torch.optim.Adam([wanted], lr=0.1, **more)  # type: ignore[arg-type]
    for _ in range(5):
        for p, optimizer in ((found, mine), (wanted, theirs)):
            optimizer.zero_grad()
            (p - 1).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(found, wanted)


def test_adam_passes_a_step_over_that_a_grad_scaler_found_infinite() -> None:
    p = torch.ones(5, requires_grad=True)
    optimizer, scaler = Adam([p], lr=0.1), torch.amp.GradScaler("cpu")
    scaler.scale((p * float("inf")).sum()).backward()
    scaler.step(optimizer)
    assert p.tolist() == [1.0] * 5


@pytest.mark.parametrize("kind", [Adam, lambda p: Muon(p, lr=0.1)])
def test_autograd_notices_an_update(kind: object) -> None:
    p = torch.ones(4, 4, requires_grad=True)
    optimizer = kind([p])  # type: ignore[operator]
    loss = p.pow(3).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("threads", [1, 2])
def test_adam(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of torch's, its state dictionary, and a parameter that has no gradient at first."""
    from sasnet_ns.kernels import optimizers

    monkeypatch.setattr(optimizers, "SIZE_PER_THREAD", 100)
    before = torch.get_num_threads()
    torch.manual_seed(0)
    found = [torch.randn(size).requires_grad_() for size in ((64, 33), (7,), ())]
    wanted = [p.detach().clone().requires_grad_() for p in found]
    groups: list[list[dict[str, object]]] = [
        [{"params": both[:1]}, {"params": both[1:], "lr": 1e-3}] for both in (found, wanted)
    ]
    mine = Adam(groups[0], lr=1e-2, betas=(0.9, 0.99), eps=1e-15)
    theirs = torch.optim.Adam(groups[1], lr=1e-2, betas=(0.9, 0.99), eps=1e-15)
    try:
        torch.set_num_threads(threads)
        for step in range(10):
            for p, q in zip(found, wanted, strict=True):
                q.grad = torch.randn_like(q) if step > 3 or q.ndim else None
                p.grad = None if q.grad is None else q.grad.clone()
            mine.step()
            theirs.step()
            if step == 5:
                mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    finally:
        torch.set_num_threads(before)
    for p, q in zip(found, wanted, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)


def test_closure_and_other_tensors() -> None:
    """What has no compiled path is torch's own."""
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = Adam([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) is not None
    assert optimizer.step(closure).item() == pytest.approx(3 * 0.9**2)
    assert not compiled_updates([p])
    assert not compiled_updates([torch.ones(4, 3).t()])
    assert not compiled_updates([])


def test_matrices_of_all_shapes_are_orthogonalised_as_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 16), (16, 24), (24, 24), (5, 40)]
    matrices = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for found, matrix in zip(orthogonalize_all(matrices), matrices, strict=True):
        torch.testing.assert_close(found, orthogonalize(matrix), rtol=1e-10, atol=1e-12)
    assert orthogonalize_all([]) == []


def test_stacked_matrices_are_updated_alike_on_both_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled path, and the batched one that CUDA takes."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((3, 24, 16), (16, 40), (2, 8, 8))]
    gradients = [torch.randn(t.shape, generator=generator) for t in start]
    found = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr("sasnet_ns.training.muon.compiled_updates", lambda tensors: False)
        parameters = [t.clone().requires_grad_() for t in start]
        optimizer = Muon(parameters, lr=0.01)
        for _ in range(3):
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g.clone()
            optimizer.step()
        found.append([*parameters, *(optimizer.state[p]["momentum_buffer"] for p in parameters)])
    for a, b, before in zip(*found, [*start, *start], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert not torch.equal(a, before)
