"""Every hash grid backend against the float64 torch reference, and the reference against its definition."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from sasnet_ns.kernels import HashGridLayout, _choose, hash_grid
from sdf_tools.errors import MissingLibraryError, ShapeError


@pytest.mark.parametrize(
    ("in_dim", "levels", "low", "high", "bits", "entries"),
    [(2, 10, 8, 128, 10, 6609), (2, 10, 4, 256, 10, 6122), (3, 10, 16, 256, 10, 10240), (3, 12, 16, 256, 11, 24576)],
)
def test_published_parameter_counts(in_dim: int, levels: int, low: int, high: int, bits: int, entries: int) -> None:
    layout = HashGridLayout.geometric(in_dim, levels, low, high, bits)
    assert layout.total_entries == entries == layout.offsets[-1] + layout.level_entries[-1]


def test_published_resolutions() -> None:
    layout = HashGridLayout.geometric(2, 10, 8, 128, 10)
    assert layout.resolutions == (8, 10, 14, 20, 27, 37, 50, 69, 94, 127)


def test_layout_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="1 to 4 coordinates"):
        HashGridLayout(5, (4,), 4)
    with pytest.raises(ValueError, match="resolution of at least 2"):
        HashGridLayout(2, (1, 4), 4)


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("in_dim", [1, 2, 3])
def test_reference_passes_gradgradcheck(in_dim: int, interpolation: str) -> None:
    layout = HashGridLayout(in_dim, (3, 5), 3, 2, interpolation)
    generator = torch.Generator().manual_seed(in_dim)
    x = (torch.rand(4, in_dim, generator=generator, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    table = torch.randn(layout.total_entries, 2, generator=generator, dtype=torch.float64).requires_grad_()
    function = lambda x, table: hash_grid(x, table, layout, "torch")  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, table))
    assert torch.autograd.gradgradcheck(function, (x, table))


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_lattice_points_return_table_values(backend: str) -> None:
    layout = HashGridLayout(2, (3, 5), 6, 1)
    table = torch.arange(layout.total_entries, dtype=torch.float32)[:, None]
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    # 3x3 rows 0..8 with the first axis fastest, then 5x5 rows 9..33
    expected = torch.tensor([[0.0, 9.0], [2.0, 13.0], [6.0, 29.0], [8.0, 33.0], [4.0, 21.0]])
    assert torch.equal(hash_grid(corners, table, layout, backend), expected)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_weights_add_up_to_one(backend: str) -> None:
    layout = HashGridLayout.geometric(4, 3, 3, 9, 6, interpolation="smoothstep")
    x = torch.rand(200, 4) * 4 - 2
    features = hash_grid(x, torch.ones(layout.total_entries, 2), layout, backend)
    assert torch.allclose(features, torch.ones(200, 6), atol=1e-6)


def derivatives(x: Tensor, table: Tensor, layout: HashGridLayout, backend: str, seed: int) -> list[Tensor]:
    """Value, both gradients, and the gradients of a random function of those by table, points and cotangent."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)  # noqa: E731
    x, table = x.clone().requires_grad_(), table.clone().requires_grad_()
    value = hash_grid(x, table, layout, backend)
    g = draw(value).requires_grad_()
    grad_x, grad_table = torch.autograd.grad(value, (x, table), g, create_graph=True)
    mixed = (grad_x * draw(grad_x)).sum() + (grad_table * draw(grad_table)).sum()
    return [value, grad_x, grad_table, *torch.autograd.grad(mixed, (x, table, g))]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    names = ("value", "d/dx", "d/dtable", "d2/dx", "d2/dtable", "d2/dg")
    for name, a, b in zip(names, found, wanted, strict=True):
        error = (a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12)
        assert error < tolerance, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("in_dim", [1, 2, 3, 4])
def test_numba_matches_float64_reference(in_dim: int, interpolation: str) -> None:
    # the first levels are dense, the later ones hashed; a fifth of the points lies outside the box
    layout = HashGridLayout.geometric(in_dim, 6, 3, 200 if in_dim < 4 else 40, 7, interpolation=interpolation)
    assert True in layout.dense and False in layout.dense
    generator = torch.Generator().manual_seed(in_dim)
    x = torch.rand(700, in_dim, generator=generator) * 2.2 - 1.1
    table = torch.randn(layout.total_entries, 2, generator=generator)
    reference = derivatives(x.double(), table.double(), layout, "torch", seed=5)
    assert_close(derivatives(x, table, layout, "numba", seed=5), reference, 1e-5)


@pytest.mark.parametrize("in_dim", [1, 2, 3])
def test_numba_takes_the_same_cell_on_borders(in_dim: int) -> None:
    layout = HashGridLayout(in_dim, (5, 9, 17), 7)
    generator = torch.Generator().manual_seed(in_dim)
    # lattice coordinates of all levels, both faces, and beyond
    x = torch.randint(-18, 19, (500, in_dim), generator=generator) / 16
    table = torch.randn(layout.total_entries, 2, generator=generator)
    reference = derivatives(x.double(), table.double(), layout, "torch", seed=2)
    assert_close(derivatives(x, table, layout, "numba", seed=2), reference, 1e-5)


def test_numba_and_torch_agree_on_rounded_borders() -> None:
    # resolution 50: lattice points are not exact in float32, so the cell depends on the order of the arithmetic
    layout = HashGridLayout(2, (50, 94), 10)
    x = torch.cartesian_prod(*[torch.arange(94) * 2 / 93 - 1] * 2)
    table = torch.randn(layout.total_entries, 2, generator=torch.Generator().manual_seed(0))
    found, wanted = (derivatives(x, table, layout, backend, seed=3) for backend in ("numba", "torch"))
    assert_close(found, wanted, 3e-5)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_outside_the_box_is_clamped(backend: str) -> None:
    layout = HashGridLayout(2, (4, 9), 5)
    table = torch.randn(layout.total_entries, 2)
    x = torch.tensor([[3.0, 0.3], [1.0, 0.3]], requires_grad=True)
    features = hash_grid(x, table, layout, backend)
    assert torch.allclose(features[0], features[1])
    (gradient,) = torch.autograd.grad(features[0].sum(), x)
    assert gradient[0, 0] == 0 and gradient[0, 1] != 0


def test_half_table_float64_empty_and_batch_shapes() -> None:
    layout = HashGridLayout(3, (4, 16), 6)
    table = torch.randn(layout.total_entries, 2).half().requires_grad_()
    x = torch.rand(5, 7, 3) * 2 - 1
    features = hash_grid(x, table, layout, "numba")
    assert features.shape == (5, 7, 4) and features.dtype == torch.float32
    assert torch.allclose(features, hash_grid(x, table.float(), layout, "torch"), atol=1e-5)
    features.sum().backward()
    assert table.grad is not None and table.grad.dtype == torch.float16
    assert hash_grid(x.double(), table, layout, "numba").dtype == torch.float64
    assert hash_grid(x[:0], table, layout, "numba").shape == (0, 7, 4)


def test_many_threads_give_the_same_table_gradient() -> None:
    from sasnet_ns.kernels import _numba_grid

    layout = HashGridLayout(2, (5, 30), 7)
    x, g = torch.rand(2, 9000, 2) * 2 - 1, torch.randn(2, 9000, 4)  # of two networks
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = _numba_grid.scatter(x, None, g, layout)
        torch.set_num_threads(6)
        assert torch.allclose(_numba_grid.scatter(x, None, g, layout), one, atol=1e-3)
    finally:
        torch.set_num_threads(threads)


def test_gradient_by_points_alone_skips_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from sasnet_ns.kernels import _numba_grid

    calls: list[str] = []
    real = _numba_grid.scatter
    monkeypatch.setattr(_numba_grid, "scatter", lambda *arguments: calls.append("scatter") or real(*arguments))
    layout = HashGridLayout(2, (5, 9), 7)
    x = (torch.rand(10, 2) * 2 - 1).requires_grad_()
    table = torch.randn(layout.total_entries, 2, requires_grad=True)
    torch.autograd.grad(hash_grid(x, table * 1.0, layout, "numba").sum(), x)
    assert not calls
    hash_grid(x, table * 1.0, layout, "numba").sum().backward()
    assert calls == ["scatter"] and table.grad is not None


def test_wrong_shapes_and_names_are_refused() -> None:
    layout = HashGridLayout(2, (5, 9), 7)
    table = torch.zeros(layout.total_entries, 2)
    with pytest.raises(ShapeError, match=r"points \(\.\.\., 2\)"):
        hash_grid(torch.zeros(4, 3), table, layout)
    with pytest.raises(ShapeError, match="table must be"):
        hash_grid(torch.zeros(4, 2), table[1:], layout)
    with pytest.raises(ValueError, match="Unknown implementation"):
        hash_grid(torch.zeros(4, 2), table, layout, "cuda")  # type: ignore[arg-type]
    with pytest.raises((MissingLibraryError, ValueError)):
        hash_grid(torch.zeros(4, 2), table, layout, "tcnn")


def test_falls_back_to_torch_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it now raises
    monkeypatch.setattr(_choose, "_load_error", _choose._load_error.__wrapped__)
    _choose._warn_once.cache_clear()
    layout = HashGridLayout(2, (5, 9), 7)
    x, table = torch.rand(4, 2), torch.randn(layout.total_entries, 2)
    with pytest.warns(UserWarning, match="pip install numba") as record:
        first = hash_grid(x, table, layout)
        hash_grid(x, table, layout)
    assert len(record) == 1
    assert torch.equal(first, hash_grid(x, table, layout, "torch"))
    with pytest.raises(MissingLibraryError, match="pip install numba"):
        hash_grid(x, table, layout, "numba")


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_traces_for_export(backend: str) -> None:
    layout = HashGridLayout(2, (5, 9), 7)

    class Grid(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(layout.total_entries, 2))

        def forward(self, x: Tensor) -> Tensor:
            return hash_grid(x, self.table, layout, backend)  # type: ignore[arg-type]

    grid, x = Grid(), torch.rand(6, 2)
    exported = torch.export.export(grid, (x,), strict=False)
    assert torch.allclose(exported.module()(x), grid(x), atol=1e-6)


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_what_is_no_number_touches_no_foreign_memory(backend: str, dtype: torch.dtype, interpolation: str) -> None:
    """NaN comes out as NaN and stays in its row; infinity is on the border of the box."""
    layout = HashGridLayout.geometric(3, 6, 4, 600, 9, interpolation=interpolation)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(layout.total_entries, 2, generator=generator, dtype=dtype).requires_grad_()
    x = torch.rand(700, 3, generator=generator, dtype=dtype) * 2 - 1
    clean = hash_grid(x, table, layout, backend).detach()
    for bad, place in ((float("nan"), 0), (float("inf"), 1), (-float("inf"), 2), (1e30, 0)):
        broken = x.clone()
        broken[::3, place] = bad
        broken.requires_grad_()
        features = hash_grid(broken, table, layout, backend)
        (slope,) = torch.autograd.grad(features.sum(), broken, create_graph=True)
        torch.autograd.grad(slope.square().sum() + features.sum(), (broken, table))
        rest = torch.arange(700) % 3 != 0
        assert torch.equal(features[rest], clean[rest])
        if bad != bad:
            assert features[::3].isnan().all()
        else:
            border = x.clone()
            border[::3, place] = 1.0 if bad > 0 else -1.0
            assert torch.allclose(features, hash_grid(border, table, layout, backend))
    everywhere = torch.full((5000, 3), float("nan"), dtype=dtype, requires_grad=True)
    features = hash_grid(everywhere, table, layout, backend)
    (slope,) = torch.autograd.grad(features.sum(), everywhere, create_graph=True)
    torch.autograd.grad(slope.sum() + features.sum(), (everywhere, table))
    assert features.isnan().all()
