"""Sparse marching cubes against dense evaluation, closed forms and awkward fields."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from sdf_tools.errors import ShapeError
from sdf_tools.extraction import (
    drop_small_components,
    drop_specks,
    extract_mesh,
    extract_meshes,
    largest_component,
    simplify,
)
from sdf_tools.extraction._tables import EDGE_CORNERS, triangle_table
from sdf_tools.geometry import Mesh
from sdf_tools.topology import edge_table, face_components, is_watertight, signed_volume


def sphere(points: torch.Tensor, radius: float = 0.37) -> torch.Tensor:
    return points.norm(dim=-1) - radius


def wavy(points: torch.Tensor) -> torch.Tensor:
    """A bumpy closed surface with features of a few cells; slope between about 0.5 and 1.5."""
    return points.norm(dim=-1) - 0.33 + 0.01 * torch.sin(40 * points).prod(-1) * 2


class Counted:
    def __init__(self, field):
        self.field, self.count = field, 0

    def __call__(self, points):
        self.count += len(points)
        return self.field(points)


def edge_counts(mesh: Mesh) -> np.ndarray:
    return edge_table(mesh.faces.numpy()).count


def volume(mesh: Mesh) -> float:
    return signed_volume(mesh.vertices.numpy(), mesh.faces.numpy())


def dense_vertices(field, resolution: int, level: float = 0.0) -> np.ndarray:
    """Marching cubes vertices from every lattice edge, without any of the code under test."""
    axis = torch.linspace(-0.5, 0.5, resolution + 1, dtype=torch.float64)
    nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    values = field(nodes.reshape(-1, 3).float()).reshape(nodes.shape[:3]).double().numpy() - level
    found = []
    for a in range(3):
        low = tuple(slice(None, -1) if b == a else slice(None) for b in range(3))
        high = tuple(slice(1, None) if b == a else slice(None) for b in range(3))
        crossed = (values[low] < 0) != (values[high] < 0)
        t = values[low][crossed] / (values[low][crossed] - values[high][crossed])
        position = nodes.numpy()[low][crossed]
        position[:, a] += t / resolution
        found.append(position)
    return np.concatenate(found)


def farthest(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    """The largest distance from a point of either set to the nearest of the other."""
    a, b = np.asarray(a), np.asarray(b)
    return max(cKDTree(a).query(b)[0].max(), cKDTree(b).query(a)[0].max())


class TestTable:
    def test_every_crossed_edge_is_used_and_no_other(self):
        counts, table = triangle_table()
        for configuration in range(256):
            crossed = {
                e for e, (a, b) in enumerate(EDGE_CORNERS) if (configuration >> a & 1) != (configuration >> b & 1)
            }
            assert set(table[configuration, : counts[configuration]].ravel().tolist()) == crossed

    def test_triangles_face_away_from_the_inside_corner(self):
        middle = np.array([[((a >> x & 1) + (b >> x & 1)) / 2 for x in range(3)] for a, b in EDGE_CORNERS])
        _, table = triangle_table()
        for corner in range(8):
            a, b, c = middle[table[1 << corner, 0]]
            position = np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
            assert np.dot(np.cross(b - a, c - a), a - position) > 0

    def test_two_cells_agree_on_every_shared_face(self):
        # All 4,096 sign patterns of two neighbouring cells: together they leave no edge of the shared face unmatched.
        counts, table = triangle_table()
        for signs in itertools.product((0, 1), repeat=12):
            left = sum(signs[2 * (c >> 1) + (c & 1)] << c for c in range(8))
            right = sum((signs[2 * (c >> 1) + 1] if not c & 1 else signs[8 + (c >> 1)]) << c for c in range(8))
            balance: dict[tuple[int, int], int] = {}
            for configuration, face in ((left, 1), (right, 0)):
                # Edges of the shared face, named by their corners' y and z.
                names = {
                    e: tuple(sorted((a >> 1, b >> 1)))
                    for e, (a, b) in enumerate(EDGE_CORNERS)
                    if a & 1 == face and b & 1 == face
                }
                for triangle in table[configuration, : counts[configuration]]:
                    for a, b in zip(triangle, np.roll(triangle, -1), strict=True):
                        if a in names and b in names:
                            key, sign = (names[a], names[b]), 1
                            if key[0] > key[1]:
                                key, sign = (key[1], key[0]), -1
                            balance[key] = balance.get(key, 0) + sign
            assert not any(balance.values()), signs


class TestAgainstDense:
    @pytest.mark.parametrize("resolution", [37, 64, 101, 128])
    @pytest.mark.parametrize("field", [sphere, wavy])
    def test_same_vertices_as_dense(self, field, resolution):
        mesh = extract_mesh(field, resolution)
        expected = dense_vertices(field, resolution)
        assert mesh.vertices.shape[0] == len(expected)
        # Vertices keep a thousandth of a cell's distance from nodes.
        assert farthest(mesh.vertices, expected) < 1.1e-3 / resolution + 1e-7
        assert is_watertight(mesh.faces.numpy())

    def test_random_signs_give_a_closed_surface(self):
        # Values without any smoothness hit every configuration, and every pair of neighbours.
        values = np.random.default_rng(0).uniform(-1, 1, (25, 25, 25))
        values[[0, -1]] = values[:, [0, -1]] = values[:, :, [0, -1]] = 1

        def noise(points: np.ndarray) -> np.ndarray:
            i, j, k = np.rint((points.astype(np.float64) + 0.5) * 24).astype(int).T
            return values[i, j, k]

        mesh = extract_mesh(noise, 24)
        assert is_watertight(mesh.faces.numpy())

    def test_evaluates_little(self):
        field = Counted(sphere)
        extract_mesh(field, 512)
        assert 513**3 / field.count > 50


class TestFinding:
    def test_small_separate_pieces_of_a_distance_field(self):
        # Balls of a fifth of a coarse cell, between the coarse lattice's nodes: no sign change there shows them.
        centers = (torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) - 0.5) * 0.8

        def balls(points: torch.Tensor) -> torch.Tensor:
            small = (points[:, None] - centers).norm(dim=-1).amin(-1) - 0.004
            return torch.minimum(small, points.norm(dim=-1) - 0.05)

        mesh = extract_mesh(balls, 512, coarse_resolution=32)
        assert face_components(mesh.faces.numpy())[0] == 13

    def test_thin_sheet_connected_to_a_seed_is_followed(self):
        # A plate thinner than a fine cell is seen on the handle alone.
        def plate(points: torch.Tensor) -> torch.Tensor:
            size = torch.tensor([0.4, 0.4, 0.003])
            q = points.abs() - size
            sheet = q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)
            return torch.minimum(sheet, (points - torch.tensor([0.0, 0.0, 0.05])).norm(dim=-1) - 0.06)

        mesh = extract_mesh(plate, 256, search="growth", probes=0)
        assert mesh.vertices.amax(0)[0] == pytest.approx(0.4, abs=1e-3)
        assert is_watertight(mesh.faces.numpy())

    def test_probes_find_what_the_coarse_lattice_misses(self):
        centers = torch.tensor([[25.5, 26.5, 24.5], [6.5, 8.5, 22.5]]) / 32 - 0.5  # centres of coarse cells

        def density(points: torch.Tensor) -> torch.Tensor:
            inside = (points[:, None] - centers).norm(dim=-1).amin(-1) < 0.0135
            return torch.where(inside | (points.norm(dim=-1) < 0.1), 5.0, 0.0)

        options = {"level": 1.0, "inside": "above", "coarse_resolution": 32, "search": "growth"}
        assert face_components(extract_mesh(density, 256, probes=0, **options).faces.numpy())[0] == 1
        assert face_components(extract_mesh(density, 256, probes=200_000, **options).faces.numpy())[0] == 3

    def test_density_saturated_away_from_the_surface(self):
        def density(points: torch.Tensor) -> torch.Tensor:
            return 100 * torch.sigmoid(-sphere(points) / 0.004)

        field = Counted(density)
        mesh = extract_mesh(field, 256, level=10.0, inside="above")
        radius = 0.37 + 0.004 * np.log(9)
        assert is_watertight(mesh.faces.numpy())
        assert volume(mesh) == pytest.approx(4 / 3 * np.pi * radius**3, rel=2e-3)
        assert field.count < 257**3 / 13


class TestOptions:
    def test_box_that_is_no_cube_and_levels(self):
        def field(points: torch.Tensor) -> torch.Tensor:
            return (points - torch.tensor([10.0, 0.0, -3.0])).norm(dim=-1) - 1.0

        small, large = extract_meshes(field, [-0.25, 0.5], 90, ((8, -2, -5), (12, 2, 0)))
        assert volume(small) == pytest.approx(4 / 3 * np.pi * 0.75**3, rel=5e-3)
        assert volume(large) == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=5e-3)
        assert is_watertight(small.faces.numpy()) and is_watertight(large.faces.numpy())
        alone = extract_mesh(field, 90, ((8, -2, -5), (12, 2, 0)), level=0.5)
        assert farthest(alone.vertices, large.vertices) < 1e-12

    def test_values_equal_to_the_level_at_nodes_leave_no_degenerate_faces(self):
        def cube(points: torch.Tensor) -> torch.Tensor:
            return points.abs().amax(-1) - 0.25

        mesh = extract_mesh(cube, 64)
        corners = mesh.vertices[mesh.faces]
        area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1) / 2
        assert area.min() > 1e-13
        assert is_watertight(mesh.faces.numpy())
        assert volume(mesh) == pytest.approx(0.125, rel=1e-2)  # its edges are bevelled by a cell

    def test_refinement_puts_vertices_on_the_level_set(self):
        def curved(points: torch.Tensor) -> torch.Tensor:
            return points.square().sum(-1) ** 2 - 0.3**4  # far from linear along an edge

        coarse = curved(extract_mesh(curved, 20).vertices).abs().mean()
        refined = curved(extract_mesh(curved, 20, refine_steps=3).vertices).abs().mean()
        assert refined < coarse / 50

    def test_normals_by_automatic_and_numerical_differentiation(self):
        for field in (sphere, lambda p: np.sqrt((np.asarray(p) ** 2).sum(1)) - 0.37):
            mesh = extract_mesh(field, 40, normals=True)
            expected = mesh.vertices / mesh.vertices.norm(dim=-1, keepdim=True)
            assert (mesh.vertex_normals * expected).sum(-1).min() > 0.9999

    def test_cap_closes_a_surface_that_leaves_the_box(self):
        def big(points: torch.Tensor) -> torch.Tensor:
            return sphere(points, 0.6)

        assert not is_watertight(extract_mesh(big, 64).faces.numpy())
        capped = extract_mesh(big, 64, cap=True)
        assert is_watertight(capped.faces.numpy()) and volume(capped) > 0.5

    def test_numpy_fields_columns_and_modules(self):
        reference = extract_mesh(sphere, 40).vertices

        def numpy_only(points: np.ndarray) -> np.ndarray:
            return np.sqrt((points.astype(np.float64) ** 2).sum(axis=1)) - 0.37

        class Module(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.radius = torch.nn.Parameter(torch.tensor(0.37, dtype=torch.float64))

            def forward(self, points):
                assert points.dtype == torch.float64
                return points.norm(dim=-1, keepdim=True) - self.radius

        for field in (numpy_only, Module()):
            assert farthest(extract_mesh(field, 40).vertices, reference) < 1e-6

    def test_progress_counts_evaluations(self):
        seen: list[tuple[str, int]] = []
        field = Counted(sphere)
        extract_mesh(field, 400, progress=lambda stage, count: seen.append((stage, count)))
        counts = [count for _, count in seen]
        assert counts == sorted(counts) and {"search", "surface"} <= {stage for stage, _ in seen}

    def test_small_even_box_of_one_cell(self):
        mesh = extract_mesh(lambda p: p[:, 0] - 0.1, 1)
        assert mesh.faces.shape[0] == 2
        assert torch.allclose(mesh.vertices[:, 0], torch.full((4,), 0.1, dtype=torch.float64))


class TestErrors:
    def test_no_surface_says_what_values_there_are(self):
        with pytest.raises(ShapeError, match=r"no surface at level 5 .* run from -0\.3.* to 0\.4"):
            extract_mesh(sphere, 32, level=5.0)

    def test_nan(self):
        with pytest.raises(ShapeError, match="NaN"):
            extract_mesh(lambda p: p[:, 0] * float("nan"), 32)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"resolution": 0}, "resolution"),
            ({"bounds": ((0, 0, 0), (1, 0, 1))}, "empty"),
            ({"bounds": ((0, 0), (1, 1))}, "Bounds"),
            ({"search": "luck"}, "search"),
            ({"level": float("nan")}, "Levels"),
        ],
    )
    def test_bad_arguments(self, options, match):
        with pytest.raises(ValueError, match=match):
            extract_mesh(sphere, **{"resolution": 16, **options})

    def test_field_of_wrong_shape(self):
        with pytest.raises(ValueError, match="must return"):
            extract_mesh(lambda p: p, 16)


class TestAfterwards:
    def two_balls(self) -> Mesh:
        def field(points: torch.Tensor) -> torch.Tensor:
            small = (points - torch.tensor([0.35, 0.0, 0.0])).norm(dim=-1) - 0.03
            return torch.minimum(sphere(points, 0.25), small)

        return extract_mesh(field, 64)

    def test_components(self):
        mesh = self.two_balls()
        assert face_components(mesh.faces.numpy())[0] == 2
        for kept in (largest_component(mesh), drop_small_components(mesh, 500)):
            assert face_components(kept.faces.numpy())[0] == 1
            assert volume(kept) == pytest.approx(4 / 3 * np.pi * 0.25**3, rel=5e-3)
        assert face_components(drop_small_components(mesh, 10).faces.numpy())[0] == 2
        assert face_components(drop_small_components(mesh, 10**6).faces.numpy())[0] == 1  # something always stays

    def test_specks(self):
        # A speck of one lattice node, a resolved small ball and the body.
        def field(points: torch.Tensor) -> torch.Tensor:
            ball = (points - torch.tensor([0.35, 0.0, 0.0])).norm(dim=-1) - 0.01
            speck = (points - torch.tensor([0.0, 0.375, 0.0])).norm(dim=-1) - 0.002
            return torch.minimum(sphere(points, 0.25), torch.minimum(ball, speck))

        mesh = extract_mesh(field, 256)
        assert sorted(np.bincount(face_components(mesh.faces.numpy())[1]))[0] == 8
        assert face_components(mesh.faces.numpy())[0] == 3
        cleaned, said = drop_specks(mesh)
        assert face_components(cleaned.faces.numpy())[0] == 2 and len(mesh.faces) - len(cleaned.faces) == 8
        assert said is not None and said.startswith("Left out a stray piece of 8 triangles in all, none wider than 0.0")
        assert drop_specks(cleaned) == (cleaned, None) and drop_specks(mesh, min_faces=0) == (mesh, None)
        # The ball that has 30 triangles on a coarse lattice is a part of the shape, not a speck.
        coarse = extract_mesh(lambda p: torch.minimum(sphere(p, 0.25), sphere(p - 0.3, 0.05)), 32)
        assert sorted(np.bincount(face_components(coarse.faces.numpy())[1]))[0] < 100
        assert drop_specks(coarse) == (coarse, None)

    def test_simplify_keeps_shape_and_place(self):
        mesh = extract_mesh(sphere, 64)
        moved = Mesh(mesh.vertices * 1e-4 + 1e3, mesh.faces)
        small = simplify(moved, 2000)
        assert small.faces.shape[0] <= 2100
        assert volume(small) == pytest.approx(volume(moved), rel=1e-2)
        with pytest.raises(ValueError, match="4 faces"):
            simplify(mesh, 2)


def test_seeds_find_what_the_coarse_lattice_and_the_probes_do_not() -> None:
    centers = torch.tensor([[-0.3, 0.0, 0.0], [0.3, 0.1, 0.0], [0.05, -0.3, 0.2]], dtype=torch.float64)

    def balls(points: torch.Tensor) -> torch.Tensor:
        return (torch.cdist(points.double(), centers) - 0.02).amin(1)

    whole = extract_mesh(balls, 96)
    seeds = torch.cat([centers + torch.tensor([0.0, 0.02, 0.0]), torch.tensor([[3.0, 0.0, 0.0]])])  # one is outside
    seeded = extract_mesh(balls, 96, search="growth", coarse_resolution=2, probes=0, seeds=seeds)
    assert len(seeded.vertices) == len(whole.vertices)
    assert torch.equal(seeded.vertices.sort(0).values, whole.vertices.sort(0).values)
    with pytest.raises(ShapeError, match="no surface"):
        extract_mesh(balls, 96, search="growth", coarse_resolution=2, probes=0)
