"""Normals that came with a cloud, as Open3D, MeshLab and CloudCompare write them."""

from __future__ import annotations

import pytest
import torch
from primitives import cloud

from sdf_tools.cloud.given_normals import check_normals, mend_normals
from sdf_tools.geometry import PointCloud


def sides(count: int, share: float) -> torch.Tensor:
    chosen = torch.rand(count, 1, generator=torch.Generator().manual_seed(1)) < share
    return torch.where(chosen, -1.0, 1.0).double()


BALL = cloud(3000)
OUT = BALL.points
HALF = torch.where(OUT[:, :1] > 0, -1.0, 1.0).double()


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (torch.ones(3000, 1).double(), ""),
        (-torch.ones(3000, 1).double(), "pointed inward: turned 3,000 of 3,000"),
        (sides(3000, 0.5), "arbitrary sides: turned 1,"),
        (sides(3000, 0.1), "arbitrary sides"),
        (HALF, "pointed inward"),
        ((sides(3000, 0.3) + 1) / 2, "are zero: estimated those"),
        (-(sides(3000, 0.3) + 1) / 2, "pointed inward"),
        ((sides(3000, 0.7) + 1) / 2, "estimated all of them"),
    ],
)
def test_sides_are_found_and_said(factor: torch.Tensor, said: str) -> None:
    given = PointCloud(OUT, OUT * factor)
    mended, notes = mend_normals(given)
    assert float(((mended.normals * OUT).sum(1) > 0).double().mean()) > 0.999
    assert said in "; ".join(notes) and bool(notes) == bool(said)
    there = (factor != 0).reshape(-1)
    if "estimated all" not in said:  # directions are kept
        assert torch.allclose((mended.normals * OUT).sum(1)[there].abs(), torch.ones(int(there.sum())).double())
    if not said:
        assert mended is given
    assert mend_normals(given, "trust") == (given, [])


@pytest.mark.parametrize("inward", [0, 1])
def test_each_body_of_a_cloud_has_a_side_of_its_own(inward: int) -> None:
    small = cloud(1600)
    outward = torch.cat([OUT, small.points])
    given = outward.clone()
    given[slice(None, 3000) if inward == 0 else slice(3000, None)] *= -1
    mended, notes = mend_normals(PointCloud(torch.cat([OUT, small.points + torch.tensor([4.0, 0, 0])]), given))
    assert float(((mended.normals * outward).sum(1) > 0).double().mean()) > 0.999
    assert notes == [f"its normals pointed inward: turned {(3000, 1600)[inward]:,} of 4,600, their directions kept"]


def test_an_open_sheet_keeps_the_side_it_came_with() -> None:
    x = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = PointCloud(
        torch.cat([x, 0.05 * torch.sin(5 * x[:, :1])], 1), torch.tensor([[0.0, 0, -1]]).double().repeat(3000, 1)
    )
    assert mend_normals(flat)[1] == []
    found = check_normals(flat)
    assert found.opposed == 0 and abs(found.winding) < 0.2
