from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from primitives import inside_out, join, sphere

from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.io.loading import load
from sdf_tools.mesh.clean import clean
from sdf_tools.mesh.repair import repair
from sdf_tools.mesh.summary import summarize


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
