# ruff: noqa: E501
"""The inside that a person sees: each kind of mesh as it is found in the wild, against the true inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from primitives import inside_out, join, sphere

from sdf_tools.distance.signed_distance import SignedDistance
from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.mesh.prepare import enclosure, prepare_mesh
from sdf_tools.mesh.repair import repair
from sdf_tools.mesh.summary import summarize
from sdf_tools.topology import drop_unreferenced, merge_vertices

Inside = Callable[[torch.Tensor], torch.Tensor]


def double(mesh: Mesh) -> Mesh:
    return replace(mesh, faces=torch.cat([mesh.faces, mesh.faces.flip(1)]))


def mixed(mesh: Mesh, share: float = 0.5) -> Mesh:
    faces = mesh.faces.clone()
    chosen = torch.rand(len(faces), generator=torch.Generator().manual_seed(0)) < share
    faces[chosen] = faces[chosen].flip(1)
    return replace(mesh, faces=faces)


def block(low: tuple[float, ...], high: tuple[float, ...]) -> Mesh:
    import trimesh

    box = trimesh.creation.box(bounds=[low, high]).subdivide().subdivide()
    return Mesh(torch.from_numpy(box.vertices.copy()), torch.from_numpy(box.faces.astype("int64")))


def in_block(low: tuple[float, ...], high: tuple[float, ...]) -> Inside:
    return lambda p: ((p > torch.tensor(low)) & (p < torch.tensor(high))).all(1)


LEGS = [((x, 0.0, z), (x + 0.15, 1.0, z + 0.15)) for x in (0.0, 0.85) for z in (0.0, 0.85)]
PARTS = [*LEGS, ((0.0, 1.0, 0.0), (1.0, 1.15, 1.0)), ((0.0, 1.1, 0.0), (1.0, 2.2, 0.12))]


def chair() -> Mesh:
    mesh = block(*PARTS[0])
    for part in PARTS[1:]:
        mesh = join(mesh, block(*part))
    return mesh


def in_chair(p: torch.Tensor) -> torch.Tensor:
    return torch.stack([in_block(*part)(p) for part in PARTS]).any(0)


def in_ball(center: float = 0.0, radius: float = 1.0) -> Inside:
    return lambda p: (p - torch.tensor([center, 0, 0])).norm(dim=1) < radius


def either(a: Inside, b: Inside) -> Inside:
    return lambda p: a(p) | b(p)


def holed(mesh: Mesh) -> Mesh:
    return replace(mesh, faces=mesh.faces[mesh.vertices[mesh.faces].mean(1)[:, 2] < 0.8])


def sheet() -> Mesh:
    corners = torch.tensor([[0, 2, 0], [1, 2, 0], [1, 2, 1], [0, 2, 1]], dtype=torch.float64)
    return Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), name="sheet")


def terrain() -> Mesh:
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21), indexing="ij")
    points = np.stack([x, y, 0.2 * np.sin(3 * x) * np.cos(2 * y)], -1).reshape(-1, 3)
    at = np.arange(441).reshape(21, 21)
    a, b, c, d = (part.reshape(-1) for part in (at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]))
    return Mesh(
        torch.from_numpy(points), torch.from_numpy(np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    )


def far(mesh: Mesh, x: float) -> Mesh:
    return replace(mesh, vertices=mesh.vertices + torch.tensor([x, 0.0, 0.0], dtype=torch.float64))


BALL = sphere(subdivisions=3)
SMALL = sphere(0.5, subdivisions=3)
HOLLOW = join(BALL, inside_out(SMALL))


def in_hollow(p: torch.Tensor) -> torch.Tensor:
    return in_ball()(p) & ~in_ball(radius=0.5)(p)


def one_turned(mesh: Mesh, face: int = 0) -> Mesh:
    faces = mesh.faces.clone()
    faces[face] = faces[face].flip(0)
    return replace(mesh, faces=faces)


CORE = sphere(0.25, subdivisions=2)


def in_hollow_with_core(p: torch.Tensor) -> torch.Tensor:
    return in_hollow(p) | in_ball(radius=0.25)(p)


def welded(*meshes: Mesh) -> Mesh:
    """One mesh of all, vertices at one place joined."""
    whole = meshes[0]
    for mesh in meshes[1:]:
        whole = join(whole, mesh)
    return merge_vertices(whole)


CUBE, CORNER_CUBE = block((0, 0, 0), (1, 1, 1)), block((1, 1, 0), (2, 2, 1))
in_cubes = either(in_block((0, 0, 0), (1, 1, 1)), in_block((1, 1, 0), (2, 2, 1)))


def ground(height: float, size: float) -> Mesh:
    corners = torch.tensor([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=torch.float64) * size
    corners += torch.tensor([0.5, 0.5, height], dtype=torch.float64)
    return Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))


def fine_ground(height: float, size: float) -> Mesh:
    import trimesh

    coarse = ground(height, size)
    fine = trimesh.Trimesh(coarse.vertices.numpy(), coarse.faces.numpy(), process=False).subdivide().subdivide()
    return Mesh(torch.from_numpy(fine.vertices.copy()), torch.from_numpy(fine.faces.astype("int64")))


def twice_on_top(mesh: Mesh, times: int = 2) -> Mesh:
    top = mesh.faces[(mesh.vertices[mesh.faces][..., 2] == mesh.vertices[:, 2].max()).all(1)]
    return replace(mesh, faces=torch.cat([mesh.faces, *[top] * (times - 1)]))


SHELF, UPPER_SHELF = block((0, 0, 0), (1, 1, 0.05)), block((0, 0, 0.15), (1, 1, 0.2))

CASES: dict[str, tuple[Mesh, Inside, str]] = {
    "as it should be": (BALL, in_ball(), ""),
    "inside out": (inside_out(BALL), in_ball(), "turned 1,280"),
    "every face twice": (double(BALL), in_ball(), "1,280 triangles were there twice"),
    "half of the faces turned": (mixed(BALL), in_ball(), "turned"),
    "a tenth of the faces turned": (mixed(BALL, 0.1), in_ball(), "turned"),
    "chair": (chair(), in_chair, ""),
    "double-sided chair": (double(chair()), in_chair, "1,152 triangles were there twice"),
    "mixed chair": (mixed(chair()), in_chair, "turned"),
    "double-sided chair with a sheet": (join(double(chair()), double(sheet())), in_chair, "left out 2 triangles of sheets"),
    "overlapping bodies of opposite sides": (
        join(BALL, inside_out(far(BALL, 1.0))), either(in_ball(), in_ball(1.0)), "turned 1,280"),
    "inside out beside a body with a hole": (
        join(inside_out(far(BALL, 3.0)), holed(BALL)), either(in_ball(), in_ball(3.0)), "turned 1,280"),
    "a body with a hole inside out": (join(far(BALL, 3.0), inside_out(holed(BALL))), either(in_ball(), in_ball(3.0)), "turned"),
    "a cavity": (HOLLOW, in_hollow, ""),
    "a cavity, all inside out": (inside_out(HOLLOW), in_hollow, "turned 2,560"),
    "a ball with a hole, mixed": (mixed(holed(BALL)), in_ball(), "turned"),
    "a cavity, one face of the outside turned": (one_turned(HOLLOW), in_hollow, "turned 1 triangle"),
    "a cavity, one face of its own turned": (one_turned(HOLLOW, -1), in_hollow, "turned 1 triangle"),
    "a cavity, all inside out, one face turned": (one_turned(inside_out(HOLLOW)), in_hollow, "turned 2,559"),
    "a cavity, the outside twice at one face": (
        replace(HOLLOW, faces=torch.cat([HOLLOW.faces, HOLLOW.faces[:1].flip(1)])), in_hollow, "1 triangle was there twice"),
    "a cavity, the outside mixed": (join(mixed(BALL), inside_out(SMALL)), in_hollow, "turned"),
    "a core in a cavity, one face turned": (one_turned(join(HOLLOW, CORE)), in_hollow_with_core, "turned 1 triangle"),
    "a hollow ball with a hole beside a double sheet": (
        join(join(holed(BALL), inside_out(SMALL)), double(sheet())), in_hollow, "left out 2 triangles of sheets"),
    "two cubes at an edge": (welded(CUBE, CORNER_CUBE), in_cubes, ""),
    "two cubes at an edge, one inside out": (welded(CUBE, inside_out(CORNER_CUBE)), in_cubes, "turned 192"),
    "the same beside a body with a hole": (
        join(welded(CUBE, inside_out(CORNER_CUBE)), holed(far(BALL, 5.0))), either(in_cubes, in_ball(5.0)), "turned 192"),
    "shelves whose tops are there twice": (
        join(twice_on_top(SHELF), twice_on_top(UPPER_SHELF)),
        either(in_block((0, 0, 0), (1, 1, 0.05)), in_block((0, 0, 0.15), (1, 1, 0.2))), "dropped 64 triangles"),
    "a shelf whose top is there three times": (twice_on_top(SHELF, 3), in_block((0, 0, 0), (1, 1, 0.05)), "dropped 64 triangles"),
    "a cube above a wide ground": (join(CUBE, ground(-0.3, 3.0)), in_block((0, 0, 0), (1, 1, 1)), "left out 2 triangles of sheets"),
    "a cube above a small ground": (join(CUBE, ground(-0.3, 0.6)), in_block((0, 0, 0), (1, 1, 1)), "left out 2 triangles of sheets"),
    "a ground between two cubes": (
        join(join(CUBE, ground(-0.3, 3.0)), block((2, 0, 0), (3, 1, 1))),
        either(in_block((0, 0, 0), (1, 1, 1)), in_block((2, 0, 0), (3, 1, 1))), "left out 2 triangles of sheets"),
    "two grounds before two cubes": (
        join(join(ground(-0.3, 3.0), ground(-0.6, 2.0)), join(CUBE, block((2, 0, 0), (3, 1, 1)))),
        either(in_block((0, 0, 0), (1, 1, 1)), in_block((2, 0, 0), (3, 1, 1))), "left out 4 triangles of sheets"),
    "a cube close above a ground with one face turned": (
        join(CUBE, one_turned(fine_ground(-0.02, 0.8))), in_block((0, 0, 0), (1, 1, 1)), "triangles of sheets"),
    "a cube above three sheets": (
        welded(CUBE, *(ground(z, 0.5) for z in (-0.3, -0.35, -0.4))), in_block((0, 0, 0), (1, 1, 1)), "left out 6 triangles of sheets"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_inside_is_what_a_person_sees(name: str) -> None:
    mesh, truth, said = CASES[name]
    low, high = mesh.vertices.amin(0) - 0.1, mesh.vertices.amax(0) + 0.1
    points = low + (high - low) * torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ready, notes = prepare_mesh(mesh)
    inside, expected = SignedDistance(ready).contains(points), truth(points)
    overlap = float((inside & expected).sum() / (inside | expected).sum())
    assert overlap > (0.94 if "hole" in name else 0.985), overlap
    assert (said in "; ".join(notes)) and (bool(notes) == bool(said)), notes
    if not said:
        assert ready is mesh


def test_panels_that_enclose_something_together_stay() -> None:
    """Six sides of a box with gaps between them: each alone is a sheet, together they are a body."""
    sides = [face * 0.98 + face.mean(0) * 0.02 for face in CUBE.vertices[CUBE.faces].reshape(6, -1, 3)]
    corners = torch.cat(sides)
    panels = Mesh(corners, torch.arange(len(corners)).reshape(-1, 3))
    ready, notes = prepare_mesh(merge_vertices(panels))
    assert ready.faces.shape[0] == 192 and not any("sheets" in note for note in notes)


def test_closed_bodies_that_touch_are_not_remeshed() -> None:
    cubes = welded(CUBE, CORNER_CUBE)
    assert "no (closed, but with edges" in str(summarize(cubes)) and "volume                        2\n" in str(
        summarize(cubes)
    )
    mended, changes = repair(cubes, resolution=32)
    assert changes == ["gave 2 bodies that touch along edges vertices of their own"]
    assert summarize(mended).watertight and summarize(mended).volume == pytest.approx(2, rel=1e-12)
    beside = welded(CUBE, block((1, 0, 0), (2, 1, 1)))
    mended, changes = repair(beside, resolution=32)
    assert summarize(mended).volume == pytest.approx(2, rel=1e-12) and not any("remeshed" in c for c in changes)


def test_a_loose_vertex_far_away_does_not_make_bodies_sheets() -> None:
    lidless = replace(
        CORNER_CUBE, faces=CORNER_CUBE.faces[(CORNER_CUBE.vertices[CORNER_CUBE.faces][..., 2] < 1).any(1)]
    )
    both = join(CUBE, replace(lidless, vertices=lidless.vertices + 3))
    for place in (1e4, float("nan")):
        loose = replace(both, vertices=torch.cat([both.vertices, torch.full((1, 3), place).double()]))
        mended, changes = repair(loose)
        assert summarize(mended).volume == pytest.approx(2, rel=1e-9) and "filled 1 holes" in changes, changes


def test_a_filled_hole_has_the_colours_around_it() -> None:
    colors = torch.full((len(BALL.vertices), 3), 0.25)
    open_ball = drop_unreferenced(holed(replace(BALL, vertex_colors=colors)))
    mended, changes = repair(open_ball)
    assert summarize(mended).watertight and mended.vertex_colors is not None, changes
    torch.testing.assert_close(mended.vertex_colors, torch.full((len(mended.vertices), 3), 0.25))


def test_walls_hidden_inside_are_left_out() -> None:
    wall = Mesh(
        torch.tensor([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]]) * 0.2, torch.tensor([[0, 1, 2], [0, 2, 3]])
    )
    ready, notes = prepare_mesh(join(BALL, double(replace(wall, vertices=wall.vertices.double()))))
    assert ready.faces.shape[0] == 1280 and summarize(ready).watertight
    assert any("walls hidden inside" in note for note in notes)


@pytest.mark.parametrize("change", [lambda m: m, double, mixed])
@pytest.mark.parametrize("make", [sheet, terrain])
def test_a_sheet_that_encloses_nothing_is_refused(make: Callable[[], Mesh], change: Callable[[Mesh], Mesh]) -> None:
    for orientation in ("check", "guess"):
        with pytest.raises(ShapeError, match=r"encloses nothing.*sign_agnostic") as caught:
            prepare_mesh(change(make()), orientation)
        assert "\n" not in str(caught.value)
    assert prepare_mesh(change(make()), "trust")[1] == []


def test_a_guess_needs_the_users_word() -> None:
    bowl = replace(BALL, faces=BALL.faces[BALL.vertices[BALL.faces].mean(1)[:, 2] < 0])
    with pytest.raises(ShapeError, match=r"would be a guess.*orientation guess"):
        prepare_mesh(mixed(bowl))
    ready, notes = prepare_mesh(mixed(bowl), "guess")
    inner = SignedDistance(ready).contains(torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, 1.5]]))
    assert inner.tolist() == [True, False] and notes
    # The file says which way it faces: that is no guess, but worth a word.
    _, notes = prepare_mesh(bowl)
    assert any("open" in note for note in notes)


def test_loose_vertices_do_not_shrink_the_shape() -> None:
    mesh = Mesh(torch.cat([BALL.vertices, torch.full((1, 3), 99.0, dtype=torch.float64)]), BALL.faces)
    ready, notes = prepare_mesh(mesh)
    assert float(ready.vertices.abs().max()) <= 1 and "left out 1 vertices in no triangle" in notes[0]


def test_enclosure_tells_bodies_from_sheets() -> None:
    assert enclosure(BALL) == pytest.approx(1) and enclosure(terrain()) < 0.56


def test_repair_mends_the_same_and_says_so() -> None:
    mended, changes = repair(double(chair()))
    assert summarize(mended).watertight and summarize(mended).bodies == 6
    assert "1,152 triangles were there twice, the two opposite ways round: kept one of each" in changes
    assert repair(BALL)[1] == []
    mended, changes = repair(mixed(holed(BALL)))
    assert summarize(mended).watertight and any("filled 1 holes" in c for c in changes)
    assert summarize(mended).volume == pytest.approx(4.1, abs=0.2)


def test_summary_names_the_causes() -> None:
    found = summarize(double(BALL))
    assert (found.opposite_duplicates, found.turned_edges) == (1280, 0)
    assert summarize(mixed(BALL)).turned_edges > 500 and summarize(BALL).turned_edges == 0
    assert "opposite duplicates" in str(found) and "edges run twice the same way" in str(found)
    utm = str(summarize(replace(BALL, vertices=BALL.vertices + torch.tensor([665170.0, 5648340.0, 230.0]))))
    assert "(665169.000000, 5648339.000000" in utm or "(665169, 5648339, 229) to (665171, 5648341, 231)" in utm


def test_nothing_with_an_area_is_refused() -> None:
    with pytest.raises(ShapeError, match="no triangle with an area"):
        prepare_mesh(replace(sheet(), vertices=sheet().vertices * torch.tensor([1.0, 0, 0])))
    with pytest.raises(ValueError, match="orientation must be one of"):
        prepare_mesh(BALL, "maybe")
