"""Separate pieces in fields that are flat away from the surface: all found, or one warning."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sdf_tools.extraction import extract_mesh, extract_meshes
from sdf_tools.geometry import Mesh
from sdf_tools.topology import face_components, is_watertight, signed_volume

sys.path.append(str(Path(__file__).parents[3] / "scripts"))
from benchmarks.flat_fields import ball_and_spheres

RADIUS = 0.0075  # every such sphere holds a node of a lattice of 128, and none of 32 shows one


def pieces(mesh: Mesh) -> int:
    return face_components(mesh.faces.numpy())[0]


class TestPieces:
    @pytest.mark.parametrize(
        "kind",
        [
            "distance",
            "truncated 0.1",
            "truncated 0.03",
            "tanh 0.04",
            "density 100",
            "density 250",
            "steep 3",
            "steep 5",
        ],
    )
    @pytest.mark.parametrize("seed", [0, 1])
    def test_all_are_found_without_a_warning(self, kind, seed):
        field, options = ball_and_spheres(kind, RADIUS, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mesh = extract_mesh(field, 128, coarse_resolution=32, **options)
        assert pieces(mesh) == 41
        assert is_watertight(mesh.faces.numpy())

    def test_distances_cost_little(self):
        counts = []
        for kind in ("distance", "tanh 0.04"):
            field, options = ball_and_spheres(kind, RADIUS)
            seen = [0]

            def counted(points, field=field, seen=seen):
                seen[0] += len(points)
                return field(points)

            extract_mesh(counted, 128, coarse_resolution=32, **options)
            counts.append(seen[0])
        # 189,383 when one slope was meant to hold everywhere; dense: 2,146,689.
        assert counts[0] < 189_383 and counts[1] < 1.12 * counts[0]

    def test_an_occupancy_that_cannot_be_searched_warns_once_and_names_what_helps(self):
        field, options = ball_and_spheres("occupancy", 0.004)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mesh = extract_mesh(field, 256, **options)
        assert pieces(mesh) < 41
        assert len(caught) == 1 and caught[0].filename == __file__
        text = str(caught[0].message)
        assert "Separate pieces smaller than 0.0078 may be missing" in text
        assert all(option in text for option in ("coarse_resolution", "lipschitz", "thorough=True"))

    def test_thorough_finds_what_dense_evaluation_finds(self):
        field, options = ball_and_spheres("occupancy", 0.015)
        assert pieces(extract_mesh(field, 64, coarse_resolution=8, thorough=True, probes=0, **options)) == 41

    def test_a_finer_coarse_lattice_finds_pieces_larger_than_its_cells(self):
        field, options = ball_and_spheres("occupancy", 0.0145)
        assert pieces(extract_mesh(field, 128, coarse_resolution=64, probes=0, search="growth", **options)) == 41

    def test_a_given_bound(self):
        field, _ = ball_and_spheres("truncated 0.02", RADIUS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert pieces(extract_mesh(field, 128, coarse_resolution=32, probes=0, lipschitz=1.0)) == 41
        for bound in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="lipschitz"):
                extract_mesh(field, 32, lipschitz=bound)

    def test_a_given_bound_finds_what_lies_close_to_another_surface(self):
        beside = torch.tensor([0.3 + 1.2 / 64, 0.0, 0.0])
        for field in (
            lambda p: (p.norm(dim=1) - 0.3).abs() - 0.0005,
            lambda p: torch.minimum(p.norm(dim=1) - 0.28, (p - beside).norm(dim=1) - 1.3 / 128),
        ):
            bounded, whole = (
                extract_mesh(field, 128, coarse_resolution=16, probes=0, lipschitz=1.0, thorough=thorough)
                for thorough in (False, True)
            )
            assert len(bounded.vertices) == len(whole.vertices) and pieces(bounded) == pieces(whole)


class TestOffsets:
    """Level sets of a distance: at d from a ball or a box they are known exactly."""

    LEVELS = (-0.05, -0.02, 0.02, 0.05)

    def test_of_a_ball(self):
        for mesh, level in zip(
            extract_meshes(lambda p: p.norm(dim=-1) - 0.3, self.LEVELS, 128), self.LEVELS, strict=True
        ):
            # A chord of a cell's length lies h^2 / (8 r) below its arc; linear interpolation errs about as much.
            assert (mesh.vertices.norm(dim=-1) - 0.3 - level).abs().max() < (1 / 128) ** 2 / (4 * 0.25)
            volume = signed_volume(mesh.vertices.numpy(), mesh.faces.numpy())
            assert volume == pytest.approx(4 / 3 * np.pi * (0.3 + level) ** 3, rel=1e-3)
            assert pieces(mesh) == 1 and is_watertight(mesh.faces.numpy())

    def test_of_a_box(self):
        def box(points: torch.Tensor) -> torch.Tensor:
            outside = points.abs() - torch.tensor([0.3, 0.25, 0.2])
            return outside.clamp_min(0).norm(dim=-1) + outside.amax(-1).clamp_max(0)

        # Inside, the offset is a smaller box; outside, the box, its six sides, twelve quarter cylinders and a ball.
        sides = np.array([0.6, 0.5, 0.4])
        for mesh, level in zip(extract_meshes(box, self.LEVELS, 192), self.LEVELS, strict=True):
            if level < 0:
                truth = np.prod(sides + 2 * level)
            else:
                areas = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[2] * sides[0])
                truth = np.prod(sides) + areas * level + np.pi * level**2 * sides.sum() + 4 / 3 * np.pi * level**3
            assert signed_volume(mesh.vertices.numpy(), mesh.faces.numpy()) == pytest.approx(truth, rel=1e-3)
            # Vertices lie on the offset; inside, those next to an edge of the box are up to half a cell off.
            off = (box(mesh.vertices.float()) - level).abs()
            assert off.max() < (0.51 / 192 if level < 0 else 2e-4)
            assert off.median() < 1e-5
            assert pieces(mesh) == 1 and is_watertight(mesh.faces.numpy())
