"""Weights in the layout of the authors' module, and the hash grid of their library."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import yaml

from sasnet_ns.kernels import HashGridLayout
from sasnet_ns.networks import SASNet, from_authors, fused_step, read_authors, sample_frequencies
from sasnet_ns.networks.wisp_grid import wisp_grid

MODEL = {
    "hidden_features": [24, 16, 8],
    "masked_hidden_layer_groups": [4, 2],
    "omega_0": 20.0,
    "period": 2 / 0.95,
    "bandlimit": 14,
    "low_range": 4,
    "perc_low_freqs": 0.5,
    "num_high_freq_bands": 2,
    "use_masks": True,
    "hash_grid": {"feature_dim": 2, "num_lods": 4, "codebook_bitwidth": 8, "min_grid_res": 16, "max_grid_res": 64},
}
RESOLUTIONS = (16, 25, 40, 63)  # floor(16 * 4**(l / 3)); 16 x 16 is as large as the largest table, so hashed


def grid_by_definition(points: np.ndarray, feats: np.ndarray, begins: list[int], bits: int) -> np.ndarray:
    """Every level's features at each point, in double precision, corner by corner; the finest level is zero."""
    out = np.zeros((len(points), 2 * len(RESOLUTIONS)))
    for level, resolution in enumerate(RESOLUTIONS[:-1]):
        table = feats[begins[level] : begins[level + 1]]
        for i, point in enumerate(points):
            u = np.clip(resolution * (point * 0.5 + 0.5), 0, resolution - 1 - 1e-5)
            cell = np.floor(u).astype(int)
            for corner in itertools.product((0, 1), repeat=2):
                weight = np.prod([t if c else 1 - t for t, c in zip(u - cell, corner, strict=True)])
                k = cell + corner
                if resolution**2 < 2**bits:
                    row = k[0] + resolution * k[1]
                else:
                    row = (int(k[0]) ^ (int(k[1]) * 2654435761 % 2**32)) % 2**bits
                out[i, 2 * level : 2 * level + 2] += weight * table[row]
    return out


def authors_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by their names, the frequencies drawn as theirs are."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    entries = [min(r * r, 256) for r in RESOLUTIONS]
    multipliers = sample_frequencies(24, 2, 14, 4, 0.5, 2).multipliers.float()
    return {
        "input_layer.linear.weight": 2 * math.pi * multipliers / MODEL["period"],
        "input_layer.linear.bias": draw(24),
        "middle_layers.0.linear.weight": draw(16, 24, scale=0.05),
        "middle_layers.0.linear.bias": draw(16),
        "middle_layers.1.linear.weight": draw(8, 16, scale=0.05),
        "middle_layers.1.linear.bias": draw(8),
        "output_layer.weight": draw(3, 8),
        "output_layer.bias": draw(3),
        "grid.codebook.feats": draw(sum(entries), 2, scale=1.0),
        "grid.codebook.begin_idxes": torch.tensor([0, *np.cumsum(entries)]),
        "grid.codebook.num_feats": torch.tensor(entries),
        "decoder.hidden.weight": draw(12, 8, scale=1.0),
        "decoder.hidden.bias": draw(12),
        "decoder.out.weight": draw(8, 12, scale=1.0),
        "decoder.out.bias": draw(8),
    }


def values_by_definition(state: dict[str, torch.Tensor], points: np.ndarray) -> np.ndarray:
    """What their module computes, in numpy."""
    w = {name: value.double().numpy() for name, value in state.items()}
    begins = state["grid.codebook.begin_idxes"].tolist()
    features = grid_by_definition(points, w["grid.codebook.feats"], begins, 8)
    hidden = np.maximum(features @ w["decoder.hidden.weight"].T + w["decoder.hidden.bias"], 0)
    masks = 1 / (1 + np.exp(-(hidden @ w["decoder.out.weight"].T + w["decoder.out.bias"])))
    sizes = sample_frequencies(24, 2, 14, 4, 0.5, 2).group_sizes
    embedding = np.concatenate([np.ones((len(points), sizes[0])), np.repeat(masks[:, :2], sizes[1:], axis=1)], axis=1)
    h = embedding * np.sin(points @ w["input_layer.linear.weight"].T + w["input_layer.linear.bias"])
    for layer, (first, groups, width) in enumerate(((2, 4, 4), (6, 2, 4))):
        z = h @ w[f"middle_layers.{layer}.linear.weight"].T + w[f"middle_layers.{layer}.linear.bias"]
        h = np.repeat(masks[:, first : first + groups], width, axis=1) * np.sin(20.0 * z)
    return h @ w["output_layer.weight"].T + w["output_layer.bias"]


@pytest.fixture
def points() -> np.ndarray:
    inner = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    edges = [[-1, -1], [1, 1], [1, -0.3], [0.97, 0.999], [0.0, 0.0]]
    return np.concatenate([inner, edges])


def test_values_are_those_of_their_module(points):
    state = authors_weights()
    network = from_authors(state, MODEL)
    found = network(torch.from_numpy(points).float()).detach().numpy()
    assert isinstance(network, SASNet)
    np.testing.assert_allclose(found, values_by_definition(state, points), atol=2e-4)


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_the_grid_is_that_of_their_library(points, implementation):
    layout = HashGridLayout(2, RESOLUTIONS, 8)
    table = torch.randn(layout.total_entries, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = wisp_grid(torch.from_numpy(points).float(), table, layout, implementation)
    wanted = grid_by_definition(points, table.detach().double().numpy(), [*layout.offsets, layout.total_entries], 8)
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=2e-4)
    (gradient,) = torch.autograd.grad(found.sum(), table)
    assert gradient[: layout.offsets[-1]].abs().sum() > 0 and gradient[layout.offsets[-1] :].abs().sum() == 0


def test_a_network_on_their_grid_trains_without_the_fused_step():
    network = from_authors(authors_weights(), MODEL)
    assert fused_step(network) is None
    network(torch.rand(50, 2) * 2 - 1).square().mean().backward()
    assert network.mask_generator is not None and network.mask_generator.table.grad is not None


def test_files_of_a_run_are_read(tmp_path, points):
    state = {**authors_weights(), "grid.blas.octree": torch.zeros(5, dtype=torch.uint8)}
    torch.save(state, tmp_path / "final_model.pt")
    x = torch.from_numpy(points).float()
    by_default = {name: value for name, value in MODEL.items() if name != "use_masks"}
    for model in (MODEL, by_default, {**MODEL, "has_low_freq_mask": True}):  # their program ignores the last
        (tmp_path / "run_config.yaml").write_text(yaml.safe_dump({"model": model, "train": {"steps": 3}}))
        network = read_authors(tmp_path / "final_model.pt", tmp_path / "run_config.yaml")
        assert torch.equal(network(x), from_authors(state, MODEL)(x))
    with pytest.raises(ValueError, match="no counterpart"):
        from_authors(state, {**MODEL, "has_low_freq_mask": True})


def test_what_does_not_fit_is_refused(tmp_path):
    state = authors_weights()
    with pytest.raises(ValueError, match=r"'mask_generator\.table' is \(\d+, 2\) in the weights"):
        from_authors(state, {**MODEL, "hash_grid": {**MODEL["hash_grid"], "codebook_bitwidth": 10}})
    with pytest.raises(ValueError, match="no counterpart"):
        from_authors(state, {**MODEL, "masked_hidden_layer_groups": [0, 2]})
    with pytest.raises(ValueError, match="not in the bands"):
        from_authors(state, {**MODEL, "low_range": 2, "bandlimit": 30})
    with pytest.raises(ValueError, match="lack 'input_layer"):
        from_authors({}, MODEL)
    with pytest.raises(ValueError, match="middle_layers"):
        from_authors({**state, "middle_layers.2.linear.weight": torch.zeros(8, 8)}, MODEL)
    with pytest.raises(ValueError, match="there is no file"):
        read_authors(tmp_path / "a.pt", tmp_path / "b.yaml")
    (tmp_path / "b.yaml").write_text("train: {}")
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no section 'model'"):
        read_authors(tmp_path / "a.pt", tmp_path / "b.yaml")
