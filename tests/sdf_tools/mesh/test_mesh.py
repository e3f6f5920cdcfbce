from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from primitives import inside_out, join, sphere

from sdf_tools.errors import ShapeError
from sdf_tools.extraction import fill_holes, largest_component, simplify
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.mesh.clean import clean
from sdf_tools.mesh.repair import fill_boundary_loops, repair, watertight_remesh
from sdf_tools.mesh.summary import summarize
from sdf_tools.topology import face_components, is_watertight


def test_summary_of_a_cube_with_faults() -> None:
    import trimesh

    box = trimesh.creation.box()
    vertices, faces = torch.from_numpy(box.vertices.copy()), torch.from_numpy(box.faces.astype("int64"))
    whole = summarize(Mesh(vertices, faces))
    assert whole.watertight and whole.bodies == 1 and whole.euler == 2 and whole.holes == 0
    assert math.isclose(whole.area, 6) and math.isclose(whole.volume, 1)
    faulty = Mesh(
        torch.cat([vertices, vertices[:2], torch.full((1, 3), 9.0)]),
        torch.cat([faces[1:], faces[3:4].roll(1, 1), torch.tensor([[0, 0, 1]])]),
    )
    found = summarize(faulty)
    assert (found.duplicate_faces, found.degenerate_faces, found.duplicate_vertices) == (1, 1, 2)
    assert found.unreferenced_vertices == 3 and not found.watertight
    assert "duplicate faces" in str(found) and "watertight" in str(found)
    tidy = summarize(clean(faulty))
    assert (tidy.faces, tidy.vertices, tidy.holes, tidy.boundary_edges) == (11, 8, 1, 3)
    assert "points" in str(summarize(PointCloud(vertices)))


def test_bodies_are_counted() -> None:
    assert summarize(join(sphere(), sphere(center=(5, 0, 0)))).bodies == 2


def test_repair_turns_and_says_so() -> None:
    mesh, changes = repair(inside_out(sphere()))
    assert summarize(mesh).volume > 4 and len(changes) == 1 and "turned" in changes[0]
    mesh, changes = repair(join(sphere(), inside_out(sphere(center=(3, 0, 0)))))
    assert summarize(mesh).volume > 8 and "turned 320 triangles" in changes[0]
    assert repair(sphere())[1] == []


def test_repair_keeps_cavities() -> None:
    hollow = join(sphere(), inside_out(sphere(0.5)))
    mesh, changes = repair(hollow)
    assert changes == [] and summarize(mesh).volume < summarize(sphere()).volume


def test_repair_fixes_single_flipped_faces() -> None:
    faces = sphere().faces.clone()
    faces[::20] = faces[::20].flip(1)
    mesh, changes = repair(replace(sphere(), faces=faces))
    assert summarize(mesh).watertight and "turned 16" in changes[0]
    assert math.isclose(summarize(mesh).volume, summarize(sphere()).volume)


def test_repair_fills_holes() -> None:
    ball = sphere()
    top = ball.vertices[ball.faces].mean(1)[:, 2] > 0.8
    mesh, changes = repair(replace(ball, faces=ball.faces[~top]))
    assert summarize(mesh).watertight and any("filled 1 hole" in c for c in changes)


def test_repair_refuses_a_sheet_that_enclosed_nothing_even_when_filled() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    with pytest.raises(ShapeError, match="encloses nothing"):
        repair(Mesh(corners, torch.tensor([[0, 1, 2]])))


def test_holes_are_filled_up_to_a_number_of_edges() -> None:
    torn = replace(sphere(), faces=sphere().faces[1:])
    for most, filled in ((0, 0), (2, 0), (3, 1), (None, 1)):
        assert fill_boundary_loops(torn, most)[1] == filled
        assert summarize(fill_holes(torn, most)).holes == 1 - filled


def test_cleaning_drops_vertices_that_are_nowhere_but_in_no_triangle() -> None:
    ball = sphere()
    loose = replace(ball, vertices=torch.cat([ball.vertices, torch.full((1, 3), math.nan)]))
    assert torch.equal(clean(loose).vertices, ball.vertices)


def test_meshes_of_nothing_stay_nothing() -> None:
    nothing = Mesh(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.int64))
    for mended in (clean(nothing), simplify(nothing, 10), largest_component(nothing), fill_holes(nothing)):
        assert mended.vertices.shape == mended.faces.shape == (0, 3)


def test_watertight_remesh_of_a_torn_sphere() -> None:
    ball = sphere(subdivisions=3)
    torn = replace(ball, faces=ball.faces[torch.arange(len(ball.faces)) % 17 != 0])
    mesh, changes = repair(torn, fill_holes=False, resolution=48)
    found = summarize(mesh)
    assert found.watertight and "remeshed" in changes[-1]
    assert math.isclose(found.volume, 4 / 3 * math.pi, rel_tol=0.05)


def test_seams_separate_bodies_only_without_merging(shared_data: Path) -> None:
    # The sources call beetle 32 and spot 13 bodies: pieces between texture seams, which one surface runs across.
    for name, merged, apart in (("beetle.obj", 2, 33), ("spot.obj", 1, 13)):
        path = shared_data / "meshes" / name
        assert [summarize(load(path, merge=merge)).bodies for merge in (True, False)] == [merged, apart]


@pytest.mark.parametrize("resolution", [48, 96, 100])
@pytest.mark.parametrize("shape", ["cylinder", "box", "torn box"])
def test_a_remesh_is_closed_where_sides_lie_on_the_grid(shape: str, resolution: int) -> None:
    import trimesh

    if shape == "cylinder":
        made = trimesh.creation.cylinder(radius=0.5, height=2, sections=24)
    else:
        made = trimesh.creation.box(extents=[1, 2, 3] if shape == "box" else [1, 1, 1])
    faces = torch.from_numpy(made.faces.astype("int64"))[int(shape == "torn box") :]
    whole = Mesh(torch.from_numpy(made.vertices.copy()), faces, name=shape)
    mesh, _ = repair(whole, fill_holes=False, remesh=True, resolution=resolution)
    summary = summarize(mesh)
    assert summary.watertight and summary.bodies == 1 and summary.euler == 2
    assert math.isclose(summary.volume, made.volume, rel_tol=0.05)


def test_a_remesh_keeps_colours_and_takes_no_notice_of_loose_vertices() -> None:
    ball = sphere()
    loose = torch.cat([ball.vertices, torch.full((1, 3), 50.0, dtype=torch.float64)])
    colored = replace(ball, vertices=loose, vertex_colors=(torch.cat([ball.vertices, ball.vertices[:1]]) + 1) / 2)
    mesh = watertight_remesh(colored, 24)
    assert mesh.vertex_colors is not None and summarize(mesh).watertight
    assert (mesh.vertex_colors * 2 - 1 - mesh.vertices).norm(dim=1).max() < 0.3


def test_a_hole_of_four_edges_is_not_closed_along_an_edge_that_is_there() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    for order in ([0, 1, 2, 3], [1, 2, 3, 0], [2, 0, 3, 1], [3, 1, 0, 2]):
        place = torch.tensor(order)
        half = Mesh(corners[place.argsort()], place[torch.tensor([[1, 2, 3], [0, 3, 2]])])
        filled, count = fill_boundary_loops(half)
        summary = summarize(filled)
        assert count == 1 and summary.watertight and summary.non_manifold_edges == 0
        assert math.isclose(abs(summary.volume), 1 / 6)


def test_a_hole_of_four_edges_whose_diagonals_are_both_taken_gets_a_centre() -> None:
    ring = [[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    corners = torch.tensor([*ring, [0.5, 0.5, -1], [0.5, 0.5, 2], [0.5, 0.5, 3]], dtype=torch.float64)
    sides = [[(i + 1) % 4, i, 4] for i in range(4)]
    fins = [[0, 2, 5], [2, 0, 5], [1, 3, 6], [3, 1, 6]]  # have the diagonals
    mesh = Mesh(corners, torch.tensor([*sides, *fins]))
    filled, _ = fill_boundary_loops(mesh, max_edges=4)
    new = filled.faces[len(mesh.faces) :].tolist()
    assert len(new) == 4 and not any({0, 2} <= set(face) or {1, 3} <= set(face) for face in new)


def test_simplifying_takes_no_notice_of_a_loose_vertex_far_away() -> None:
    ball = sphere(subdivisions=4)
    far = torch.cat([ball.vertices, torch.tensor([[1e8, 0, 0]], dtype=torch.float64)])
    assert math.isclose(
        summarize(simplify(replace(ball, vertices=far), 1000)).volume, summarize(simplify(ball, 1000)).volume
    )


@pytest.mark.parametrize("seed", range(12))
def test_holes_that_touch_are_filled_each_by_itself(seed: int) -> None:
    ball = sphere()
    left_out = torch.randperm(len(ball.faces), generator=torch.Generator().manual_seed(seed))[: 3 + seed]
    keep = torch.ones(len(ball.faces), dtype=torch.bool)
    keep[: seed % 8] = False  # the middle of three that are gone hangs by its corners
    keep[left_out] = False
    mesh, changes = repair(replace(ball, faces=ball.faces[keep]))
    summary = summarize(mesh)
    assert summary.watertight and summary.euler == 2 and not any("remeshed" in change for change in changes)
    assert math.isclose(summary.volume, summarize(ball).volume, rel_tol=0.2)


@pytest.mark.parametrize("seed", (2, 18, 26))  # two of these had holes joined crosswise
def test_where_many_holes_touch_each_is_the_one_between_two_neighbouring_fans(seed: int) -> None:
    ball = sphere(subdivisions=3)
    draw = torch.Generator().manual_seed(seed)
    gone = torch.rand(len(ball.faces), generator=draw) < 0.2
    left = ball.faces[~gone]
    mesh, filled = fill_boundary_loops(replace(ball, faces=left[torch.randperm(len(left), generator=draw)]))
    assert filled == face_components(ball.faces[gone].numpy())[0]
    assert is_watertight(mesh.faces.numpy())
