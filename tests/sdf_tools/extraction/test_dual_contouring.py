"""Dual contouring: sharp edges stay sharp, surfaces stay closed."""

from __future__ import annotations

import pytest
import torch
from primitives import box_distance

from sdf_tools.extraction import extract_mesh
from sdf_tools.mesh.summary import summarize

ROTATION = torch.tensor([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]], dtype=torch.float64)


def turned_box(points: torch.Tensor) -> torch.Tensor:
    return 0.54 * box_distance(points @ ROTATION.T.to(points) / 0.54)


def tangle(points: torch.Tensor) -> torch.Tensor:
    """Dense in ambiguous cells: waves about as short as four cells of a lattice of 48."""
    x, y, z = (32 * points).unbind(-1)
    return (x + 0.3 * y * z / 32).sin() * y.cos() + y.sin() * z.cos() + z.sin() * (1.1 * x).cos()


def test_edges_and_corners_of_a_turned_box() -> None:
    error, volume = {}, {}
    for method in ("marching_cubes", "dual_contouring"):
        mesh = extract_mesh(turned_box, 48, method=method)
        facts = summarize(mesh)
        assert facts.watertight and facts.bodies == 1 and facts.euler == 2 and facts.degenerate_faces == 0
        error[method] = turned_box(mesh.vertices[mesh.faces].mean(1)).abs()
        volume[method] = facts.volume
    assert error["dual_contouring"].mean() < 0.3 * error["marching_cubes"].mean()
    assert error["dual_contouring"].max() < 0.5 * error["marching_cubes"].max()
    truth = 0.54**3
    assert abs(volume["dual_contouring"] - truth) < 0.3 * abs(volume["marching_cubes"] - truth)


def test_a_smooth_surface_is_closed_and_outward() -> None:
    mesh = extract_mesh(lambda p: p.norm(dim=-1) - 0.4, 32, method="dual_contouring")
    facts = summarize(mesh)
    assert facts.watertight and facts.euler == 2 and facts.volume == pytest.approx(4 / 3 * torch.pi * 0.4**3, rel=3e-3)
    density = extract_mesh(lambda p: 0.4 - p.norm(dim=-1), 32, method="dual_contouring", inside="above")
    assert summarize(density).volume == pytest.approx(facts.volume, rel=1e-6)


def test_ambiguous_cells_leave_no_holes() -> None:
    mesh = extract_mesh(tangle, 48, method="dual_contouring", cap=True)
    cubes = extract_mesh(tangle, 48, cap=True)
    facts = summarize(mesh)
    # Two cells that share an ambiguous face may meet twice along one edge, which then has four faces; never one.
    assert facts.boundary_edges == 0 and facts.non_manifold_edges < 1e-3 * facts.faces
    assert facts.bodies == summarize(cubes).bodies and facts.volume == pytest.approx(summarize(cubes).volume, rel=0.02)


def test_vertices_stay_in_their_cells_and_numpy_fields_work() -> None:
    mesh = extract_mesh(lambda p: turned_box(torch.as_tensor(p)).numpy(), 24, method="dual_contouring")
    cells = torch.floor((mesh.vertices + 0.5) * 24 - 1e-9)
    assert (torch.floor((mesh.vertices + 0.5) * 24 + 1e-9) - cells <= 1).all()
    assert len(torch.unique(cells, dim=0)) > 0.97 * len(cells)

    def leaves_torch(points: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(turned_box(torch.from_numpy(points.numpy())).numpy())  # has no gradient in torch

    same = extract_mesh(leaves_torch, 24, method="dual_contouring")
    assert torch.equal(same.faces, mesh.faces) and (same.vertices - mesh.vertices).abs().max() < 1e-3 / 24
    assert extract_mesh(leaves_torch, 24, normals=True).vertex_normals is not None
    with pytest.raises(ValueError, match="dual_contouring"):
        extract_mesh(turned_box, 24, method="surface_nets")
