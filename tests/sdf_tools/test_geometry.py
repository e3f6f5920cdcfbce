from __future__ import annotations

import pytest
import torch

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh, PointCloud, normalize, positions, with_positions

BOX = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 1]], dtype=torch.float64)


def test_box_units_and_back() -> None:
    framed = normalize(PointCloud(BOX + 1e6))
    inner = positions(framed.shape)
    assert torch.allclose(inner.amax(0) - inner.amin(0), torch.tensor([0.9, 0.45, 0.225]).double())
    assert torch.allclose(inner.amax(0) + inner.amin(0), torch.zeros(3).double(), atol=1e-9)
    assert torch.allclose(framed.to_world(inner), BOX + 1e6, rtol=0, atol=1e-9)
    assert framed.to_world(inner.float()).dtype == torch.float64
    assert torch.allclose(framed.to_box((BOX + 1e6).reshape(2, 2, 3)).reshape(4, 3), inner, atol=1e-12)


def test_mesh_goes_back_to_world() -> None:
    mesh = Mesh(BOX, torch.tensor([[0, 1, 2]]))
    framed = normalize(mesh, longest_side=1.0)
    assert isinstance(framed.shape, Mesh) and torch.allclose(framed.mesh_to_world(framed.shape).vertices, BOX)
    assert framed.scale == 0.25
    assert torch.equal(positions(with_positions(mesh, BOX + 1)), BOX + 1)


@pytest.mark.parametrize("points, word", [(BOX[:0], "no points"), (BOX * float("nan"), "NaN"), (BOX * 0, "zero size")])
def test_refusals(points: torch.Tensor, word: str) -> None:
    with pytest.raises(ShapeError, match=word):
        normalize(PointCloud(points))


def test_select_points_keeps_what_belongs_to_each() -> None:
    from sdf_tools.geometry import PointCloud, select_points

    rows = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    cloud = PointCloud(rows, rows + 1, torch.arange(4), "c", rows / 12)
    some = select_points(cloud, torch.tensor([True, False, False, True]))
    assert some.points.tolist() == rows[[0, 3]].tolist() and some.normals.tolist() == (rows + 1)[[0, 3]].tolist()
    assert some.scan_ids.tolist() == [0, 3] and some.colors.shape == (2, 3) and some.name == "c"
    assert select_points(PointCloud(rows), torch.tensor([2])).normals is None
