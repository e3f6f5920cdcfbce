"""Fields as other people write them: far away, large, in place, in numpy, in half precision, with jumps."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pytest
import torch
from primitives import box

from sdf_tools.distance import SignedDistance
from sdf_tools.errors import ShapeError
from sdf_tools.extraction import extract_mesh, extract_meshes, leaves_box
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.pictures.plots import sample_slice
from sdf_tools.reconstruction import reconstruct
from sdf_tools.topology import unit_face_normals

FAR = np.array([1e6, 2e6, 3e6])
FAR_BOX = (FAR - 0.5, FAR + 0.5)


def ball(points: torch.Tensor) -> torch.Tensor:
    return points.norm(dim=1) - 0.3


def occupancy(points: torch.Tensor) -> torch.Tensor:
    return (points.norm(dim=1) < 0.3).float()


def radius_error(mesh: Mesh, center: np.ndarray | float = 0.0, radius: float = 0.3) -> float:
    return float(np.abs(np.linalg.norm(mesh.vertices.numpy() - center, axis=1) - radius).max())


def outwardness(mesh: Mesh, center: np.ndarray | float = 0.0) -> float:
    """The least cosine between a ball's normals and the right ones."""
    assert mesh.vertex_normals is not None
    away = mesh.vertices.numpy() - center
    return float(((away / np.linalg.norm(away, axis=1, keepdims=True)) * mesh.vertex_normals.numpy()).sum(1).min())


class TestFarAway:
    @pytest.mark.parametrize(
        "field",
        [
            lambda p: np.linalg.norm(p - FAR, axis=1) - 0.3,
            lambda p: np.sqrt(((p - FAR).astype(np.float64) ** 2).sum(axis=1)) - 0.3,
            lambda p: (p - torch.from_numpy(FAR)).norm(dim=1) - 0.3,
        ],
        ids=["numpy on tensors", "numpy only", "torch"],
    )
    def test_a_box_far_from_the_origin_is_as_exact_as_one_at_it(self, field):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mesh = extract_mesh(field, 32, FAR_BOX, normals=True)
        assert radius_error(mesh, FAR) < 1.05 * radius_error(extract_mesh(ball, 32))
        assert outwardness(mesh, FAR) > 0.9999

    def test_what_takes_float32_only_says_so(self):
        network = torch.nn.Linear(3, 1)
        shift = torch.from_numpy(FAR).float()
        with pytest.warns(UserWarning, match=r"float32 points.*999999\.5.* origin") as caught:
            extract_mesh(lambda p: network(p - shift) - network.bias, 8, FAR_BOX)
        assert caught[0].filename == __file__

    def test_types_near_the_origin_stay(self):
        seen = set()

        def field(points):
            seen.add(points.dtype)
            return ball(points)

        extract_meshes(field, [0.0, 0.1], 512)
        assert seen == {torch.float32}

    def test_a_slice_through_a_network_far_away(self):
        center = torch.tensor([5e5, 5e6, 100.0], dtype=torch.float64)
        low, high = (center - 0.5).tolist(), (center + 0.5).tolist()
        # As `sasnet picture` slices a field whose own units are far away.
        values, _ = sample_slice(lambda p: ball((p.double() - center).float()), "z", 100.0, 100, (low, high))
        u = (np.arange(100) + 0.5) / 100 - 0.5
        assert np.abs(values - (np.hypot(u, u[:, None]) - 0.3)).max() < 1e-6


class TestLargeValues:
    @pytest.mark.parametrize("base", [1e6, 1e9])
    def test_the_level_is_taken_off_before_values_are_rounded(self, base):
        mesh = extract_mesh(lambda p: base + p.norm(dim=1), 32, level=base + 0.3)
        assert radius_error(mesh) < 1.05 * radius_error(extract_mesh(ball, 32))

    def test_several_levels(self):
        meshes = extract_meshes(lambda p: 1e6 + p.norm(dim=1), [1e6 + 0.1, 1e6 + 0.2, 1e6 + 0.3], 32, refine_steps=3)
        for mesh, radius in zip(meshes, (0.1, 0.2, 0.3), strict=True):
            assert radius_error(mesh, radius=radius) < 1e-4

    @pytest.mark.parametrize("level", [1e39, -1e39])
    def test_levels_that_float32_cannot_hold_are_refused(self, level):
        with pytest.raises(ValueError, match=r"between -1e\+38 and 1e\+38"):
            extract_mesh(ball, 16, level=level)

    @pytest.mark.parametrize("level", [1e38, -1e38, 1e7])
    def test_levels_out_of_reach_say_what_values_there_are(self, level):
        with pytest.raises(ShapeError, match=r"no surface at level .* run from -0\.3 to 0\.5"):
            extract_mesh(ball, 16, level=level)


class TestNormals:
    @pytest.mark.parametrize("inside", ["below", "above"])
    @pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
    def test_caps_have_their_own(self, method, inside):
        mesh = extract_mesh(lambda p: p[:, 2], 32, cap=True, normals=True, method=method, inside=inside)
        vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()
        # Away from its edges the half of the box is flat: a vertex's normal is its faces'.
        from_walls = np.abs(np.c_[0.5 - 1 / 32 - np.abs(vertices), vertices[:, 2]])
        inner = np.sort(from_walls, 1)[:, 1] > 1.5 / 32
        around = inner[faces].all(1)
        cosine = np.einsum("fij,fj->fi", mesh.vertex_normals.numpy()[faces], unit_face_normals(vertices, faces))
        assert around.sum() > 1000 and cosine[around].min() > 0.999
        assert mesh.vertex_normals.norm(dim=1).numpy() == pytest.approx(np.ones(len(vertices)))

    @pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
    @pytest.mark.parametrize("cap", [False, True])
    def test_an_occupancy_has_its_mesh_s(self, method, cap):
        for steps in (0, 8):
            mesh = extract_mesh(
                occupancy, 32, level=0.5, inside="above", normals=True, method=method, cap=cap, refine_steps=steps
            )
            assert mesh.vertex_normals.norm(dim=1).numpy() == pytest.approx(np.ones(len(mesh.vertices)))
            assert outwardness(mesh) > 0.8

    def test_its_level_costs_no_second_coarse_lattice(self):
        """33^3 nodes, none of them inside, are no sign of values that float32 does not hold."""
        asked = []

        def small(points):
            asked.append(len(points))
            return ((points - 0.01).norm(dim=1) < 0.012).float()

        seeds = torch.tensor([[0.022, 0.01, 0.01]])
        extract_mesh(small, 256, level=0.5, inside="above", seeds=seeds, search="growth", coarse_resolution=32)
        assert 33**3 < sum(asked) < 1.6 * 33**3

    def test_a_field_that_is_flat_in_places(self):
        # Truncated before it reaches the level on one side: there its gradient vanishes at the surface.
        def field(points):
            return torch.where(points[:, 0] > 0.2, ball(points).sign() * 0.1, ball(points))

        mesh = extract_mesh(field, 32, normals=True, refine_steps=2)
        assert mesh.vertex_normals.norm(dim=1).numpy() == pytest.approx(np.ones(len(mesh.vertices)))
        assert outwardness(mesh) > 0.55  # along an axis at worst


@pytest.mark.parametrize("outside", [float("inf"), 1e30, 1e37])
@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize(("method", "most"), [("dual_contouring", 0.003), ("marching_cubes", 1e-6)])
def test_a_field_s_own_infinity_is_no_cap(method, most, cap, outside):
    mesh = extract_mesh(
        lambda p: torch.where(p.norm(dim=1) > 0.31, outside, ball(p)), 24, method=method, refine_steps=8, cap=cap
    )
    assert radius_error(mesh) < most


class TestCalls:
    def test_numpy_fields_that_work_in_place_are_applied_once(self):
        seen: list[np.ndarray] = []

        def field(points):
            seen.append(points.astype(np.float64).copy())
            points += 0.25
            return np.sqrt((points**2).sum(axis=1)) - 0.2

        mesh = extract_mesh(field, 32)
        assert (seen[1][:2] == seen[0]).all()
        assert radius_error(mesh, -0.25, 0.2) < 1e-3

    def test_numpy_s_box_is_asked_with_numpy(self):
        def box(points):
            q = np.abs(points) - 0.2
            return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)

        assert float(extract_mesh(box, 32).vertices.abs().amax(1).max()) == pytest.approx(0.2, abs=1e-6)

    @pytest.mark.parametrize(
        ("field", "error", "says"),
        [
            (lambda p: p.norm(dim=1) @ "a", TypeError, "Tensor"),
            (lambda p: torch.linalg.misspelt(p), AttributeError, "misspelt"),
            (lambda p: p.norm(dim=7), IndexError, "Dimension"),
            (lambda p: p, ValueError, r"\(2, 3\) for 2 points"),
            (lambda p: None, ValueError, "must return"),
        ],
        ids=["type", "attribute", "index", "shape", "nothing"],
    )
    def test_the_first_error_is_the_one_that_is_told(self, field, error, says):
        with pytest.raises(error, match=says):
            extract_mesh(field, 16)

    def test_bfloat16(self):
        mesh = extract_mesh(lambda p: ball(p).bfloat16(), 32, normals=True)
        assert radius_error(mesh) < 1e-3 and outwardness(mesh) > 0.99

    @pytest.mark.parametrize("chunk", [1, 7])
    def test_squeezed_values_of_one_point(self, chunk):
        mesh = extract_mesh(lambda p: (p.norm(dim=1, keepdim=True) - 0.3).squeeze(), 10, chunk=chunk, normals=True)
        assert torch.equal(mesh.vertices, extract_mesh(ball, 10).vertices)


@pytest.mark.parametrize("resolution", [-5, 0, 1, 2, 7])
def test_reconstruction_refuses_a_lattice_that_holds_no_shape(resolution):
    points = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points /= points.norm(dim=1, keepdim=True)
    with pytest.raises(ValueError, match=f"at least 8 cells.* got {resolution}"):
        reconstruct(PointCloud(points, points), resolution=resolution)
    assert radius_error(reconstruct(PointCloud(points, points), resolution=8), radius=1.0) < 0.15


class TestPrecision:
    @pytest.mark.parametrize("closure", [False, True])
    def test_a_network_in_float64_is_given_float64(self, closure: bool):
        network = torch.nn.Linear(3, 1, bias=False).double()
        mesh = extract_mesh((lambda p: network(p)) if closure else network, 16)
        assert (network(mesh.vertices).abs() < 1e-4).all() and len(mesh.vertices)

    def test_a_matrix_in_float64_is_given_float64(self):
        turn = torch.eye(3, dtype=torch.float64)
        assert radius_error(extract_mesh(lambda p: ball(p @ turn), 32)) < 1e-3

    def test_the_type_of_a_grid_without_parameters_counts(self):
        class Grid(torch.nn.Module):
            def __init__(self):
                super().__init__()
                line = torch.linspace(-0.5, 0.5, 33, dtype=torch.float64)
                place = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
                self.register_buffer("values", (place.norm(dim=-1) - 0.3)[None, None])

            def forward(self, points):
                places = 2 * points.flip(-1)[None, None, None]
                return torch.nn.functional.grid_sample(self.values, places, align_corners=True)[0, 0, 0, 0]

        assert radius_error(extract_mesh(Grid(), 32)) < 5e-3

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_a_network_in_half_precision_is_refused_in_a_sentence(self, dtype):
        with pytest.raises(ValueError, match=r"too coarse for positions on a lattice; give network.float\(\)"):
            extract_mesh(torch.nn.Linear(3, 1).to(dtype), 16)

    def test_a_network_with_half_parameters_that_takes_float32_works(self):
        class Mixed(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.radius = torch.nn.Parameter(torch.tensor(0.3125).half())

            def forward(self, points):
                return points.norm(dim=1) - self.radius.float()

        assert radius_error(extract_mesh(Mixed(), 32), radius=0.3125) < 1e-3


def test_slopes_of_terms_that_autograd_does_not_see_are_measured() -> None:
    """Distances to a mesh come without a graph; the ripple's slope alone would be its normal."""
    distance = SignedDistance(box())

    def rippled(points: torch.Tensor) -> torch.Tensor:
        return distance(points) + 0.01 * torch.sin(8 * points[:, 0])

    bounds = ((-1.0,) * 3, (1.0,) * 3)
    mesh = extract_mesh(rippled, 24, bounds, normals=True)
    faces = unit_face_normals(mesh.vertices.numpy(), mesh.faces.numpy())
    cosine = (torch.from_numpy(faces) * mesh.vertex_normals[mesh.faces[:, 0]]).sum(1)  # type: ignore[index]
    assert cosine.median() > 0.98
    sharp = extract_mesh(rippled, 24, bounds, method="dual_contouring")
    assert rippled(sharp.vertices).abs().mean() < 1e-3


@pytest.mark.parametrize("method", ["marching_cubes", "dual_contouring"])
def test_a_tube_is_cut_off_by_its_box(method: Literal["marching_cubes", "dual_contouring"]) -> None:
    tube = extract_mesh(lambda p: p[:, :2].norm(dim=1) - 0.3, 16, method=method)
    box_ = ((-0.5,) * 3, (0.5,) * 3)
    assert leaves_box(tube, box_, 1 / 16 if method == "dual_contouring" else 0.0)
    ball = extract_mesh(lambda p: p.norm(dim=1) - 0.3, 16, method=method)
    assert not leaves_box(ball, box_, 1 / 16)


def test_boxes_too_thin_for_what_is_asked_are_said() -> None:
    thin = ((-0.5, -0.5, -0.1), (0.5, 0.6, 0.1))
    with pytest.raises(ShapeError, match="closes the surface one cell inside the box: take a higher resolution"):
        extract_mesh(lambda p: p.norm(dim=1) - 0.4, 5, thin, cap=True)
    with pytest.raises(ShapeError, match="Dual contouring has no face here"):
        extract_mesh(lambda p: p.norm(dim=1) - 0.4, 5, thin, method="dual_contouring")
