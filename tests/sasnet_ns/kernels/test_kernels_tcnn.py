"""The mapping onto tiny-cuda-nn, against a stand-in with tiny-cuda-nn's documented lattice (no GPU needed)."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sasnet_ns.kernels import HashGridLayout, _tcnn, hash_grid

PRIMES = (1, 2654435761, 805459861, 3674653429)


class Encoding(nn.Module):
    """Single-level grid: position = scale * x + 0.5, padded table, dense while the strides fit."""

    def __init__(self, dims: int, config: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        assert config["n_levels"] == 1 and dtype == torch.float32
        self.resolution, self.features = config["base_resolution"], config["n_features_per_level"]
        padded = -(-(self.resolution**dims) // 8) * 8
        self.entries = min(padded, 1 << config["log2_hashmap_size"])
        self.params = nn.Parameter(torch.randn(self.entries * self.features))

    def forward(self, x: Tensor) -> Tensor:
        position = x * (self.resolution - 1) + 0.5
        cell = position.detach().floor()
        fraction = position - cell
        table = self.params.view(self.entries, self.features)
        total = torch.zeros(x.shape[0], self.features, dtype=x.dtype)
        for bits in itertools.product((0, 1), repeat=x.shape[1]):
            corner = cell.long() + torch.tensor(bits)
            weight = torch.where(torch.tensor(bits, dtype=torch.bool), fraction, 1 - fraction).prod(-1, keepdim=True)
            index, stride = torch.zeros(x.shape[0], dtype=torch.long), 1
            for axis in range(x.shape[1]):
                if stride <= self.entries:
                    index = index + corner[:, axis] * stride
                    stride *= self.resolution
            if stride > self.entries:
                index = torch.zeros_like(index)
                for axis in range(x.shape[1]):
                    index = index ^ (corner[:, axis] * PRIMES[axis] & 0xFFFFFFFF)
            total = total + weight * table[index % self.entries]
        return total


def test_mapping_gives_our_hash_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Encoding))  # type: ignore[arg-type]
    _tcnn._encodings.cache_clear()
    layout = HashGridLayout(3, (3, 4, 9), 6)
    x = (torch.rand(200, 3) * 2.2 - 1.1).requires_grad_()
    table = torch.randn(layout.total_entries, 2, requires_grad=True)
    found, wanted = _tcnn.hash_grid(x, table, layout), hash_grid(x, table, layout, "torch")
    assert torch.allclose(found, wanted, atol=2e-5)
    g = torch.randn_like(found)
    for a, b in zip(torch.autograd.grad(found, (x, table), g), torch.autograd.grad(wanted, (x, table), g), strict=True):
        assert torch.allclose(a, b, atol=1e-3)
    with pytest.raises(ValueError, match="1, 2, 4 or 8 features"):
        _tcnn.hash_grid(x, table, HashGridLayout(3, (3,), 6, 3))
    _tcnn._encodings.cache_clear()
