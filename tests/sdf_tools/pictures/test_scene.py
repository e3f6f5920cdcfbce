"""Rendered scenes: poses, depth, masks and files agree with the mesh."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from sdf_tools.errors import ShapeError
from sdf_tools.geometry import Mesh
from sdf_tools.io.loading import load
from sdf_tools.pictures.scene import SceneRenderer, pixel_rays, place_in_scene, project, sphere_cameras
from sdf_tools.pictures.scene_files import SceneSettings, load_frame, write_scene
from sdf_tools.pictures.textures import ProjectedPicture, noise_colors, value_noise

SETTINGS = SceneSettings(
    views=3, val_views=1, test_views=1, size=(48, 32), supersampling=2, occlusion_rays=4, sparse_points=40
)


def bent_box() -> Mesh:
    """A closed box of three different sides around (10, 20, 30), one corner pulled out so that no symmetry is left."""
    import trimesh

    box = trimesh.creation.box(extents=(2.0, 4.0, 1.0)).subdivide().subdivide()
    vertices = torch.from_numpy(box.vertices.copy())
    vertices[vertices.sum(1).argmax()] += torch.tensor([0.5, 1.0, 0.2])
    return Mesh(vertices + torch.tensor([10.0, 20.0, 30.0]), torch.from_numpy(box.faces.copy()), name="box")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "box"
    calls = []
    frame = write_scene(bent_box(), folder, SETTINGS, lambda done, total: calls.append((done, total)))
    assert calls == [(k, 5) for k in range(1, 6)]
    return folder, frame


def test_the_object_fits_the_unit_sphere_and_keeps_its_orientation():
    mesh = bent_box()
    for up in ("x", "y", "z"):
        placed, frame = place_in_scene(mesh, up)
        assert float(placed.vertices.norm(dim=1).max()) == pytest.approx(1)
        assert torch.linalg.det(frame.rotation) == pytest.approx(1)
        axis = torch.eye(3, dtype=torch.float64)["xyz".index(up)]
        assert torch.allclose(frame.rotation @ axis, torch.tensor([0.0, 0, 1], dtype=torch.float64))
        assert torch.allclose(frame.to_world(placed.vertices), mesh.vertices)


def test_cameras_stand_on_the_sphere_and_look_at_its_centre():
    poses = sphere_cameras(40, 3.0, (-90, 90), seed=1)
    rotations, origins = poses[:, :3, :3], poses[:, :3, 3]
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(40, 3, 3))
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(40, dtype=torch.float64))
    assert torch.allclose(origins, 3.0 * rotations[:, :, 2])
    assert (rotations[:, 2, 1] >= -1e-12).all()  # upright
    assert origins.mean(0).norm() < 0.2  # spread evenly
    assert not torch.allclose(poses, sphere_cameras(40, 3.0, (-90, 90), seed=2))
    heights = sphere_cameras(20, 1.0, (-10, 30))[:, 2, 3]
    assert heights.min() > np.sin(np.radians(-10)) and heights.max() < np.sin(np.radians(30))


def test_depth_leads_back_to_the_surface_and_points_project_onto_it():
    from sdf_tools.distance.signed_distance import SignedDistance

    placed, _ = place_in_scene(bent_box())
    renderer = SceneRenderer(placed, occlusion_rays=0)
    pose, focal, size = sphere_cameras(5, 3.0)[3], 50.0, (40, 60)
    view = renderer.view(pose, focal, size, supersampling=1)
    assert view.mask.any() and not view.mask.all()
    rays = torch.from_numpy(pixel_rays(pose.numpy(), focal, size, 1)).reshape(*size, 3)
    points = (pose[:3, 3] + view.depth.double()[..., None] * rays)[view.mask]
    assert SignedDistance(placed, sign="unsigned")(points).abs().max() < 1e-6

    pixels, depth = project(points, pose, focal, size)
    rows, columns = torch.nonzero(view.mask, as_tuple=True)
    assert torch.allclose(pixels, torch.stack([columns, rows], 1).double() + 0.5, atol=1e-6)
    assert torch.allclose(depth.float(), view.depth[view.mask], atol=1e-6)

    # Every vertex lands on the mask, give or take the pixel that it shares with the background.
    pixels, depth = project(placed.vertices, pose, focal, size)
    covered = renderer.view(pose, focal, size, supersampling=8).alpha > 0  # the pulled corner is thinner than a pixel
    grown = torch.nn.functional.max_pool2d(covered.float()[None], 3, 1, 1)[0] > 0
    assert grown[pixels[:, 1].long(), pixels[:, 0].long()].all()
    seen = renderer.visible(placed.vertices, pose[:3, 3])
    assert 0.2 < seen.double().mean() < 0.8
    at = view.depth[pixels[:, 1].long(), pixels[:, 0].long()]
    inner = -torch.nn.functional.max_pool2d(-view.mask.float()[None], 3, 1, 1)[0] > 0
    inside = seen & inner[pixels[:, 1].long(), pixels[:, 0].long()]
    # The pixel's centre is up to 0.7 pixels away, on a surface that may be seen at a slant.
    assert inside.sum() > 5 and (at - depth).abs()[inside].median() < 0.02 and (at - depth).abs()[inside].max() < 0.3
    # Normals face the camera.
    assert ((view.normals * rays.float()).sum(-1)[view.mask] < 0).all()


def test_a_point_looks_the_same_from_every_side(scene):
    placed, _ = place_in_scene(bent_box())
    renderer = SceneRenderer(placed, noise_colors_of, occlusion_rays=8)
    poses, focal, size = sphere_cameras(2, 2.0, (80, 88)), 200.0, (80, 80)
    first, second = (renderer.view(pose, focal, size, supersampling=4) for pose in poses)
    inner = -torch.nn.functional.max_pool2d(-first.mask.float()[None], 5, 1, 2)[0] > 0
    rays = torch.from_numpy(pixel_rays(poses[0].numpy(), focal, size, 1)).reshape(*size, 3)
    points = (poses[0][:3, 3] + first.depth.double()[..., None] * rays)[inner]
    seen = renderer.visible(points, poses[1][:3, 3])
    pixels, _ = project(points, poses[1], focal, size)
    inside = seen & (pixels > 2).all(1) & (pixels < 78).all(1)
    assert inside.sum() > 500
    difference = (first.rgb[inner][inside] - second.rgb[pixels[inside, 1].long(), pixels[inside, 0].long()]).abs()
    assert difference.median() < 0.02 and first.rgb[inner].std() > 0.05


def noise_colors_of(points, normals):
    return noise_colors(points)


def test_both_formats_name_the_same_pictures_and_poses(scene):
    folder, _ = scene
    listed = json.loads((folder / "transforms.json").read_text())
    assert (listed["w"], listed["h"], listed["cx"], listed["cy"]) == (48, 32, 24, 16)
    assert listed["fl_x"] == pytest.approx(24 / np.tan(np.radians(20)))
    by_name = {frame["file_path"]: frame["transform_matrix"] for frame in listed["frames"]}
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        blender = json.loads((folder / f"transforms_{split}.json").read_text())
        assert blender["camera_angle_x"] == pytest.approx(np.radians(40))
        names = [frame["file_path"].removeprefix("./") + ".png" for frame in blender["frames"]]
        assert names == listed[f"{split}_filenames"] and len(names) == count
        for name, frame in zip(names, blender["frames"], strict=True):
            assert by_name[name] == frame["transform_matrix"]
            assert Image.open(folder / name).size == (48, 32)


def test_files_hold_what_was_rendered(scene):
    folder, frame = scene
    truth = load(folder / "mesh.ply")
    assert torch.allclose(frame.to_world(truth.vertices), bent_box().vertices, atol=1e-5)
    loaded = load_frame(folder)
    assert torch.equal(loaded.center, frame.center) and loaded.scale == frame.scale
    pose = torch.tensor(json.loads((folder / "transforms_val.json").read_text())["frames"][0]["transform_matrix"])
    view = SceneRenderer(place_in_scene(bent_box())[0]).view(pose.double(), SETTINGS.focal, (32, 48))
    mask = np.asarray(Image.open(folder / "masks" / "val_000.png")) > 127
    depth = np.asarray(Image.open(folder / "depth" / "val_000.png")).astype(float) * 1e-3
    normals = np.asarray(Image.open(folder / "normals" / "val_000.png")).astype(float)
    rgba = np.asarray(Image.open(folder / "images" / "val_000.png"))
    assert (mask == view.mask.numpy()).all() and (normals[..., 3] == 255 * mask).all()
    assert np.abs(depth - view.depth.numpy()).max() <= 5.1e-4
    assert np.abs(normals[mask, :3] / 127.5 - 1 - view.normals.numpy()[mask]).max() < 0.005
    assert rgba.shape[2] == 4 and (rgba[mask, 3] > 0).all() and (rgba[0, 0] == 0).all()
    sparse = load(folder / "sparse_pc.ply")
    assert 10 < len(sparse.points) <= 40


def test_an_interrupted_run_goes_on_and_a_finished_one_is_kept(tmp_path):
    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "box"
    with pytest.raises(KeyboardInterrupt):
        write_scene(bent_box(), folder, SETTINGS, interrupt)
    assert not folder.exists()
    first = folder.with_name("box.partial") / "images" / "train_000.png"
    written = first.stat().st_mtime_ns
    write_scene(bent_box(), folder, SETTINGS)
    assert (folder / "images" / "train_000.png").stat().st_mtime_ns == written
    assert len(list((folder / "images").iterdir())) == 5 and not first.exists()
    with pytest.raises(ShapeError, match="exists already"):
        write_scene(bent_box(), folder, SETTINGS)


def test_textures():
    points = torch.rand(4000, 3, dtype=torch.float64).numpy() * 2 - 1
    colors = noise_colors(points, seed=1)
    assert colors.min() >= 0 and colors.max() <= 1 and (colors.std(0) > 0.08).all()
    assert not np.allclose(colors, noise_colors(points, seed=2))
    # Continuous, and equal on the lattice whichever cell asks.
    assert np.abs(value_noise(points * 5) - value_noise(points * 5 + 1e-6)).max() < 1e-4
    assert value_noise(np.array([[-1.0, 2.0, 3.0]])) == pytest.approx(value_noise(np.array([[-1 - 1e-12, 2.0, 3.0]])))


def test_a_picture_can_be_projected(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    picture = ProjectedPicture(tmp_path / "half.png")
    up = np.array([[0.0, 0, 1]])
    # The picture's upper half lies above y = 0.5 on a surface seen from z, tiled.
    assert picture(np.array([[0.3, 0.75, 0.0]]), up) == pytest.approx(1)
    assert picture(np.array([[0.3, 0.25, 9.0]]), up) == pytest.approx(0)
    with pytest.raises(ShapeError, match="no picture"):
        ProjectedPicture(tmp_path / "none.png")


def test_settings_out_of_range_are_refused(tmp_path):
    for wrong in (
        {"views": 0},
        {"size": (0, 4)},
        {"field_of_view": 170.0},
        {"distance": 0.5},
        {"elevations": (9.0, 1.0)},
    ):
        with pytest.raises(ValueError):
            write_scene(bent_box(), tmp_path / "box", SceneSettings(**wrong))
    with pytest.raises(ShapeError, match="no vertex colours"):
        write_scene(bent_box(), tmp_path / "box", SceneSettings(texture="colors"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_not_begun_here_is_left_alone(tmp_path):
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(ShapeError, match=r"mine\.partial' is in the way"):
        write_scene(bent_box(), tmp_path / "mine", SETTINGS)
    assert (tmp_path / "mine.partial" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("change", ["vertices", "colours", "texture"])
def test_an_interrupted_run_of_another_input_is_not_gone_on_with(tmp_path, change):
    mesh, picture = bent_box(), tmp_path / "wood.png"
    Image.new("RGB", (4, 4), (200, 30, 30)).save(picture)
    settings = dataclasses.replace(SETTINGS, texture=str(picture)) if change == "texture" else SETTINGS

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(mesh, tmp_path / "scene", settings, interrupt)
    before = (tmp_path / "scene.partial" / "images" / "train_000.png").read_bytes()
    if change == "vertices":
        low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
        inner = ((mesh.vertices > low) & (mesh.vertices < high)).sum(1) == 2  # within the sides: the box stays
        mesh.vertices[inner] = mesh.vertices[inner].lerp((low + high) / 2, 0.1)
    elif change == "colours":
        mesh = dataclasses.replace(mesh, vertex_colors=torch.rand(len(mesh.vertices), 3))
    else:
        Image.new("RGB", (4, 4), (30, 30, 200)).save(picture)
    write_scene(mesh, tmp_path / "scene", settings)
    assert (tmp_path / "scene" / "images" / "train_000.png").read_bytes() != before


def test_a_texture_is_upright_and_has_all_its_bits(tmp_path):
    sideways = Image.new("RGB", (40, 20), (10, 20, 30))
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "phone.jpg", exif=exif)
    assert ProjectedPicture(tmp_path / "phone.jpg").pixels.shape == (40, 20, 3)
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "grey.png")
    assert np.allclose(ProjectedPicture(tmp_path / "grey.png").pixels, 40_000 / 65_535)


def test_a_mesh_that_requires_gradients_is_rendered_too(tmp_path):
    mesh = bent_box()
    settings = dataclasses.replace(SETTINGS, views=2)
    write_scene(dataclasses.replace(mesh, vertices=mesh.vertices.requires_grad_()), tmp_path / "scene", settings)
    assert (tmp_path / "scene" / "images" / "train_001.png").is_file()
