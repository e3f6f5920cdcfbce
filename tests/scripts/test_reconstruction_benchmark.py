"""scripts/benchmarks/reconstruction.py: what each row trains, and how its surface is measured."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from benchmarks import reconstruction
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return reconstruction


def test_rows_of_a_scene_differ_in_their_field_only(benchmark: Any, tmp_path: Path) -> None:
    for scene, rows in (("fox", benchmark.RADIANCE_ROWS), ("armadillo", benchmark.SURFACE_ROWS)):
        configs = [benchmark.build_config(scene, tmp_path, row, 40, tmp_path) for row in rows]
        assert {config.pipeline.datamanager.train_num_rays_per_batch for config in configs} in ({256}, {512})
        assert {config.max_num_iterations for config in configs} == {40}
        assert not any(config.mixed_precision for config in configs)
        assert len({str(config.timestamp) for config in configs}) == len(rows)
        samples = {tuple(config.pipeline.model.num_proposal_samples_per_ray) for config in configs}
        assert samples == {(96, 48)}
    fields = [
        benchmark.build_config("armadillo", tmp_path, row, 1, tmp_path).pipeline.model.sdf_field.network
        for row in benchmark.SURFACE_ROWS
        if row.startswith("sasnet")
    ]
    assert fields == ["sasnet", "ngp", "siren"]


@pytest.mark.parametrize("kind", ["distance", "density", "nothing"])
def test_the_surface_is_measured_against_the_truth(benchmark: Any, tmp_path: Path, kind: str) -> None:
    """A ball of radius 0.42 against one of 0.4: a fortieth of the truth's longest side, everywhere."""
    from sdf_tools.extraction import extract_mesh
    from sdf_tools.io.loading import save_mesh

    truth = extract_mesh(lambda p: p.norm(dim=1) - 0.4, 64, bounds=[[-1.0] * 3, [1.0] * 3])
    save_mesh(truth, tmp_path / "mesh.ply")
    if kind == "distance":
        field: Any = SimpleNamespace(forward_geonetwork=lambda p: (p.norm(dim=1) - 0.42)[:, None])
    else:
        slope = 100.0 if kind == "density" else -1.0
        field = SimpleNamespace(density_fn=lambda p: 10 + slope * (0.42 - p.norm(dim=1, keepdim=True)).clamp(-0.1))
        if kind == "nothing":
            field = SimpleNamespace(density_fn=lambda p: torch.zeros_like(p[:, :1]))
    model = SimpleNamespace(eval=lambda: None, field=field, device="cpu")
    found = benchmark.surface_error(model, tmp_path)
    if kind == "nothing":
        assert found == {}
        return
    assert found["components"] == 1
    assert found["mesh_to_truth"] == pytest.approx(0.025, rel=0.03)
    assert found["truth_to_mesh"] == pytest.approx(0.025, rel=0.03)
