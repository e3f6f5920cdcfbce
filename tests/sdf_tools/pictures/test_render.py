"""Pictures and plots: what is drawn where, and in which colour."""

from __future__ import annotations

import primitives
import pytest
import torch
from primitives import box

from sdf_tools.errors import ShapeError
from sdf_tools.extraction import extract_mesh
from sdf_tools.geometry import Mesh
from sdf_tools.pictures.plots import picture_sheet, sample_slice, slice_plot
from sdf_tools.pictures.render import Camera, error_colors, render_mesh, save_picture, turntable


def sphere(points: torch.Tensor) -> torch.Tensor:
    return points.norm(dim=-1) - 0.3


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return extract_mesh(sphere, 32, normals=True)


def test_a_ball_is_a_disk_on_a_light_background(ball):
    picture = render_mesh(ball, size=(64, 64), occlusion_rays=4)
    assert picture.shape == (64, 64, 3) and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    corner = picture[0, 0]
    assert corner.min() > 0.9
    covered = ((picture - corner).abs().amax(-1) > 0.02).double().mean()
    # The bounding sphere is the ball itself: it fills the picture but for the zoom and the corners.
    assert 0.6 < covered <= 1.0
    # The key light comes from above.
    assert picture[12, 32].mean() > picture[52, 32].mean()


def test_vertex_colors_show(ball):
    red = Mesh(ball.vertices, ball.faces, vertex_colors=torch.tensor([[1.0, 0, 0]]).expand(len(ball.vertices), 3))
    middle = render_mesh(red, size=(32, 32), occlusion_rays=0)[16, 16]
    assert middle[0] > 2 * middle[1]


def test_error_colors_grow_with_the_error():
    colors = error_colors(torch.tensor([0.0, 0.5, 1.0]), largest=1.0, colormap="gray")
    assert torch.allclose(colors[:, 0], torch.tensor([0.0, 0.5, 1.0]), atol=0.01)
    signed = error_colors(torch.tensor([-1.0, 0.0, 1.0]), largest=1.0, colormap="gray")
    assert signed[1, 0].item() == pytest.approx(0.5, abs=0.01)


def test_turntable_and_files(ball, tmp_path):
    frames = turntable(ball, frames=3, size=(24, 24), occlusion_rays=0, supersampling=1)
    save_picture(frames, tmp_path / "turn.gif")
    save_picture(frames, tmp_path / "turn.png")
    save_picture(frames[0], tmp_path / "one.png")
    assert (tmp_path / "turn.gif").read_bytes()[:3] == b"GIF"
    from PIL import Image

    for name, count in (("turn.gif", 3), ("turn.png", 3), ("one.png", 1)):
        with Image.open(tmp_path / name) as picture:
            assert getattr(picture, "n_frames", 1) == count
    with pytest.raises(ValueError, match=r"\.gif"):
        save_picture(frames, tmp_path / "turn.jpg")
    with pytest.raises(ValueError, match="at least 2 frames"):
        turntable(ball, frames=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "turn.gif", "turn.png"]


def test_a_turntable_as_video(ball, tmp_path):
    av = pytest.importorskip("av", reason="needs PyAV: pip install 'imageio[pyav]'")
    frames = turntable(ball, frames=4, size=(33, 32), occlusion_rays=0, supersampling=1)
    save_picture(frames, tmp_path / "turn.mp4")
    with av.open(str(tmp_path / "turn.mp4")) as movie:
        seen = [frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)]
    assert len(seen) == 4 and seen[0].shape == (32, 32, 3)
    assert abs(seen[0].mean() / 255 - float(frames[0][:32].mean())) < 0.05


def test_a_sheet_has_every_picture_in_its_place():
    red, green = torch.tensor([1.0, 0, 0]).expand(40, 50, 3), torch.tensor([0, 1.0, 0]).expand(40, 50, 3)
    sheet = picture_sheet([[red, None], [green, red]], [["first", ""], ["second", "third"]], heading="all")
    height, width = sheet.shape[:2]
    is_red, is_green = ((sheet - color).abs().amax(-1) < 0.02 for color in (red[0, 0], green[0, 0]))
    # No picture is scaled by more than what matplotlib's spacing takes.
    assert is_green.sum() == pytest.approx(2000, rel=0.2) and is_red.sum() == pytest.approx(4000, rel=0.2)
    assert is_red[: height // 2, : width // 2].any() and not is_red[: height // 2, width // 2 :].any()
    assert is_green[height // 2 :, : width // 2].any() and is_red[height // 2 :, width // 2 :].any()
    with pytest.raises(ValueError, match="one size"):
        picture_sheet([[red, red[:20]]])
    with pytest.raises(ValueError, match="one size"):
        picture_sheet([[None]])


def test_flat_faces_of_several_directions_differ():
    picture = render_mesh(box(), Camera(35, 30), (96, 96), occlusion_rays=0, supersampling=1)
    shades = picture.mean(-1)[(picture - picture[0, 0]).abs().amax(-1) > 0.01]
    counts = torch.histc(shades, 40, 0.0, 1.0)
    assert (counts > 300).sum() >= 3  # three faces are seen, each in a grey of its own


def test_a_frame_gives_meshes_one_scale():
    """A crumb far away makes the mesh no smaller in a picture that another mesh frames."""
    whole = box()
    crumb = Mesh(
        torch.cat((whole.vertices, whole.vertices[:3] + torch.tensor([0.0, 0.0, -50.0]).to(whole.vertices))),
        torch.cat((whole.faces, torch.arange(3)[None] + len(whole.vertices))),
    )

    def seen(mesh, frame=None):
        picture = render_mesh(mesh, Camera(0, 0), (40, 40), supersampling=1, occlusion_rays=0, frame=frame)
        return ((picture - picture[0, 0]).abs().amax(-1) > 0.02).sum().item()

    assert seen(crumb) < 0.2 * seen(whole)
    assert seen(crumb, whole.vertices) == seen(whole)


def test_cameras_look_at_the_side_they_name():
    # A flat square facing +x is seen whole from there and edge-on from +z.
    square = Mesh(
        torch.tensor([[0, -1.0, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]]).double(), torch.tensor([[0, 1, 2], [0, 2, 3]])
    )
    seen = []
    for azimuth in (0.0, 90.0):
        picture = render_mesh(square, Camera(azimuth, 0.0), size=(32, 32), occlusion_rays=0)
        seen.append(((picture - picture[0, 0]).abs().amax(-1) > 0.02).sum().item())
    assert max(seen) > 100 and min(seen) < 40


@pytest.mark.parametrize("camera", [Camera(), Camera(35, 25), Camera(200, 12), Camera(40, 45), Camera(55, 30)])
def test_faces_of_a_box_differ_and_each_is_one_colour(camera):
    picture = render_mesh(box(), camera, size=(60, 60), supersampling=1, occlusion_rays=0)
    pixels = picture.reshape(-1, 3)
    faces = []
    for color in pixels[(pixels - picture[0, 0]).abs().amax(-1) > 1e-3]:
        # The highlight of a flat face is a slight gradient.
        if all((color - other).abs().amax() > 0.035 for other in faces):
            faces.append(color)
    assert len(faces) == 3


def test_vertex_normals_do_not_round_off_sharp_edges():
    mesh = box()
    rounded = Mesh(mesh.vertices, mesh.faces, torch.nn.functional.normalize(mesh.vertices, dim=1))
    options = {"size": (40, 40), "occlusion_rays": 0}
    assert torch.equal(render_mesh(rounded, **options), render_mesh(mesh, **options))


def test_a_coarse_ball_is_drawn_smooth():
    """As with its exact normals: no facet shows."""
    coarse = primitives.sphere()
    exact = Mesh(coarse.vertices, coarse.faces, coarse.vertices)
    options = {"size": (60, 60), "occlusion_rays": 0}
    assert (render_mesh(coarse, **options) - render_mesh(exact, **options)).abs().max() < 0.03


def test_nothing_to_render():
    with pytest.raises(ShapeError, match="no faces"):
        render_mesh(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)))


@pytest.mark.parametrize(("axis", "other"), [("x", (1, 2)), ("y", (0, 2)), ("z", (0, 1))])
def test_slice_samples_the_plane_it_says(axis, other):
    def linear(points: torch.Tensor) -> torch.Tensor:
        return points @ torch.tensor([1.0, 10.0, 100.0])

    bounds = ((-1.0, -2.0, -3.0), (1.0, 2.0, 3.0))
    values, extent = sample_slice(linear, axis, 0.5, 12, bounds)
    u, v = other
    assert extent == (bounds[0][u], bounds[1][u], bounds[0][v], bounds[1][v])
    scale = [1.0, 10.0, 100.0]
    step_u = (extent[1] - extent[0]) / values.shape[1] * scale[u]
    step_v = (extent[3] - extent[2]) / values.shape[0] * scale[v]
    assert values[0, 1] - values[0, 0] == pytest.approx(step_u, rel=1e-4)
    assert values[1, 0] - values[0, 0] == pytest.approx(step_v, rel=1e-4)
    assert values.mean() == pytest.approx(0.5 * scale["xyz".index(axis)], rel=1e-3, abs=1e-3)


def test_slice_plot_writes_and_refuses(tmp_path):
    slice_plot(sphere, tmp_path / "slice.png", resolution=50, title="ball")
    assert (tmp_path / "slice.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="positive"):
        slice_plot(sphere, spacing=0)
    with pytest.raises(ValueError, match=r"\.png"):
        slice_plot(sphere, tmp_path / "slice.txt", resolution=20)
    with pytest.raises(ValueError, match="axis"):
        sample_slice(sphere, "w")
