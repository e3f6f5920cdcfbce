"""Baked textures: every texel has the colour of the surface that it covers, in files that other programs read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import primitives
import pytest
import torch

pytest.importorskip("xatlas")
pytest.importorskip("embreex")

from sdf_tools.geometry import Mesh
from sdf_tools.pictures.texture_baking import bake_texture, save_textured


def _color(points: torch.Tensor) -> torch.Tensor:
    """Smooth colours around (10, 0, 0), a radius of 2 away."""
    return ((points - points.new_tensor([10.0, 0, 0])) / 5 + 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def sphere() -> Mesh:
    return primitives.sphere(2.0, (10.0, 0, 0), subdivisions=3)


def test_a_texel_has_the_colour_of_its_place(sphere: Mesh) -> None:
    baked = bake_texture(sphere, _color, 256)
    assert baked.picture.shape == (256, 256, 3) and len(baked.mesh.faces) == len(sphere.faces)
    # The middles of the triangles, looked up in the picture: within the colour's change over a texel or two.
    middles = baked.mesh.vertices[baked.mesh.faces].mean(dim=1)
    u, v = baked.uv[baked.mesh.faces].mean(dim=1).T
    column, row = (u * 256).long().clamp(0, 255), ((1 - v) * 256).long().clamp(0, 255)
    error = (baked.picture[row, column] - _color(middles)).abs().amax(dim=1)
    assert error.median() < 0.01 and error.max() < 0.1
    # Where no triangle is, the nearest colour stands, never black.
    assert (baked.picture.sum(dim=-1) > 0.3).all()
    assert {tuple(row) for row in baked.mesh.vertices.tolist()} == {tuple(row) for row in sphere.vertices.tolist()}


@pytest.mark.parametrize("suffix", [".obj", ".glb"])
def test_other_programs_read_it(suffix: str, sphere: Mesh, tmp_path: Path) -> None:
    import trimesh

    baked = bake_texture(sphere, _color, 128)
    path = tmp_path / f"ball{suffix}"
    save_textured(baked, path)
    expected = {".obj": {"ball.obj", "ball.mtl", "ball.png"}, ".glb": {"ball.glb"}}[suffix]
    assert {file.name for file in tmp_path.iterdir()} == expected
    loaded = trimesh.load(path, process=False, force="mesh")
    assert np.allclose(loaded.bounds, [[8, -2, -2], [12, 2, 2]], atol=1e-4)
    material = loaded.visual.material
    image = material.baseColorTexture if suffix == ".glb" else material.image
    colors = trimesh.visual.color.uv_to_color(loaded.visual.uv, image)[:, :3] / 255
    wanted = _color(torch.from_numpy(np.asarray(loaded.vertices)).clone()).numpy()
    assert np.median(np.abs(colors - wanted)) < 0.03


def test_refusals(sphere: Mesh, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too small"):
        bake_texture(sphere, _color, 4)
    with pytest.raises(ValueError, match="no surface"):
        bake_texture(Mesh(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.int64)), _color, 64)
    with pytest.raises(ValueError, match="cannot hold a texture"):
        save_textured(bake_texture(sphere, _color, 32), tmp_path / "ball.ply")
