"""Hash grid by tiny-cuda-nn, with our table and our lattice.

tiny-cuda-nn shifts every level by half a cell (position ``scale * x + 0.5`` for x in [0, 1]), pads each level to
a multiple of 8 entries, and picks a level's resolution from a growth factor. One single-level encoding per level, fed
with points shifted back by half a cell, removes all three differences: values and first derivatives equal the other
backends' inside the box, with the same table rows, primes and order. What stays different:

* tiny-cuda-nn rounds the table to half precision where it is built with half-precision parameters (its default on GPUs
  with tensor cores; the ``dtype`` argument asks for float32), so values agree to about 1e-3 then;
* on the upper faces of the box the gradient is that of the cell outside, because its lattice goes on;
* second derivatives are those that tiny-cuda-nn has: by the points and by the table through the points' gradient;
* one launch per level. It is the compatibility path; the Triton backend is the fast one.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from sasnet_ns.kernels.layout import HashGridLayout

PADDING = 8


@functools.cache
def _encodings(layout: HashGridLayout, device: torch.device) -> list[Any]:
    """One single-level grid encoding per level; their own parameters are never used."""
    import tinycudann

    interpolation = {"linear": "Linear", "smoothstep": "Smoothstep"}[layout.interpolation]
    return [
        tinycudann.Encoding(
            layout.in_dim,
            {
                "otype": "Grid",
                "type": "Hash",
                "n_levels": 1,
                "n_features_per_level": layout.feature_dim,
                "log2_hashmap_size": layout.log2_table_size,
                "base_resolution": resolution,
                "per_level_scale": 1.0,
                "interpolation": interpolation,
            },
            dtype=torch.float32,
        ).to(device)
        for resolution in layout.resolutions
    ]


def hash_grid(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Features (N, out_dim), float32, of points x (N, in_dim) in [-1, 1].

    Raises:
        ValueError: if tiny-cuda-nn lacks the feature count (it has 1, 2, 4 and 8), the dimension (2 to 4), or lays a
            level out otherwise than expected.
    """
    if layout.in_dim < 2 or layout.feature_dim not in (1, 2, 4, 8):
        raise ValueError("tiny-cuda-nn's grid takes 2 to 4 coordinates and 1, 2, 4 or 8 features; use 'triton'.")
    unit = (torch.where(x.abs() <= 1.0, x, x.detach().clamp(-1.0, 1.0)) + 1.0) * 0.5
    features = []
    for level, encoding in enumerate(_encodings(layout, x.device)):
        entries = table[layout.offsets[level] : layout.offsets[level] + layout.level_entries[level]]
        entries = torch.nn.functional.pad(entries.float(), (0, 0, 0, -entries.shape[0] % PADDING))
        if entries.numel() != encoding.params.numel():
            raise ValueError(
                f"tiny-cuda-nn keeps {encoding.params.numel()} numbers for level {level}, not {entries.numel()}; "
                "use implementation='triton'."
            )
        # without the half cell: position = scale * (unit - 0.5 / scale) + 0.5
        shifted = unit - 0.5 / (layout.resolutions[level] - 1)
        features.append(torch.func.functional_call(encoding, {"params": entries.reshape(-1)}, (shifted,)).float())
    return torch.cat(features, dim=-1)
