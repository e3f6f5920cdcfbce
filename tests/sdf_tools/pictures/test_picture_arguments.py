"""Pictures of odd sizes, odd values, far-away fields and names that are taken."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import primitives
import pytest
import torch

pytest.importorskip("embreex")

from sdf_tools.cli import Render
from sdf_tools.errors import MissingLibraryError
from sdf_tools.geometry import Mesh, PointCloud
from sdf_tools.pictures.plots import add_color_bar, picture_sheet, sample_slice
from sdf_tools.pictures.render import (
    BACKGROUND,
    Camera,
    check_picture_name,
    error_colors,
    error_range,
    render_mesh,
    save_picture,
)
from sdf_tools.pictures.scene_files import SceneSettings, write_scene
from sdf_tools.pictures.splats import cloud_as_mesh
from sdf_tools.pictures.texture_baking import TexturedMesh, save_textured

GREY = [pytest.approx(0.6)] * 3


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return primitives.sphere(2.0, subdivisions=4)


@pytest.mark.parametrize("size", [(100, 100), (60, 120), (120, 60), (200, 25)])
def test_a_ball_just_fits_the_smaller_side(ball: Mesh, size: tuple[int, int]) -> None:
    picture = render_mesh(ball, Camera(0, 0), size, supersampling=4, occlusion_rays=0)
    covered = (picture - picture[0, 0]).abs().amax(-1) > 0.01
    smaller, (rows, columns) = min(size), covered.nonzero().T
    for places in (rows, columns):
        assert places.max() - places.min() + 1 == pytest.approx(smaller, abs=2)
    # It touches the edges with its outermost points alone.
    ends = covered[:, 0].sum() + covered[:, -1].sum() if size[1] < size[0] else covered[0].sum() + covered[-1].sum()
    assert ends <= 2 * (2 + 2 * math.sqrt(smaller))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": (0, 8)}, "at least one pixel"),
        ({"size": (8, -5)}, "at least one pixel"),
        ({"size": (8, 8), "supersampling": 0}, "one ray a pixel"),
        ({"size": (10**5, 10**6)}, r"100000 x 1000000 pixels needs .* of memory, more than"),
        ({"size": (8, 8), "supersampling": 10**6}, "of memory, more than"),
        ({"size": (8, 8), "camera": Camera(elevation=math.nan)}, "must be finite"),
        ({"size": (8, 8), "camera": Camera(azimuth=math.inf)}, "must be finite"),
        ({"size": (8, 8), "camera": Camera(field_of_view=180)}, "between 0 and 180"),
        ({"size": (8, 8), "camera": Camera(zoom=0)}, "zoom positive"),
    ],
)
def test_what_cannot_be_drawn_is_refused(ball: Mesh, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        render_mesh(ball, **options)


def test_no_picture_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture"):
        save_picture([], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_grey_and_counts_for_nothing(bad: float) -> None:
    known = torch.linspace(0, 1, 50)
    errors = torch.cat((torch.tensor([bad]), known, torch.tensor([bad])))
    assert error_range(errors) == error_range(known) == (0.0, pytest.approx(0.99))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colors = error_colors(errors)
    assert colors[0].tolist() == GREY and colors[-1].tolist() == GREY
    assert torch.equal(colors[1:-1], error_colors(known))


def test_ranges_without_any_error() -> None:
    assert error_colors(torch.zeros(0)).shape == (0, 3)
    assert error_range(torch.tensor([math.nan, math.inf])) == (0.0, 1.0)
    assert error_colors(torch.full((4,), math.nan)).tolist() == [GREY] * 4
    # What error_range gives for exact surfaces, error_colors takes.
    zeros = torch.zeros(5)
    assert torch.equal(error_colors(zeros, error_range(zeros)[1]), error_colors(zeros, 1.0))


@pytest.mark.parametrize("largest", [-1.0, 0.0, math.nan, math.inf])
def test_the_last_colour_has_a_positive_value(largest: float, tmp_path: Path) -> None:
    for function in (error_range, error_colors):
        with pytest.raises(ValueError, match="positive and finite"):
            function(torch.ones(3), largest)
    with pytest.raises(ValueError, match="--largest must be positive and finite"):
        Render(shape="none.ply", output_path=tmp_path / "r.png", largest=largest).run()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0}, "--size must be at least 1, not 0"),
        ({"size": -5}, "--size must be at least 1, not -5"),
        ({"elevation": math.nan}, "--elevation must be finite"),
        ({"azimuth": math.inf}, "--azimuth must be finite"),
    ],
)
def test_the_command_names_the_option(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        Render(shape="none.ply", output_path=tmp_path / "r.png", **options).run()


def test_a_slice_far_away_has_all_its_rows() -> None:
    center = torch.tensor([5e5, 5e6, 100.0], dtype=torch.float64)
    low, high = ((center + sign * 0.5).tolist() for sign in (-1, 1))

    def ball(points: torch.Tensor) -> torch.Tensor:
        return (points.double() - center).norm(dim=-1) - 0.3

    values, _ = sample_slice(ball, "z", 100.0, 100, (low, high))
    side = (np.arange(100) + 0.5) / 100 - 0.5
    true = np.hypot(side[None], side[:, None]) - 0.3
    assert np.abs(values - true).max() < 1e-6


def test_a_slice_near_zero_is_asked_for_in_single_precision() -> None:
    """Networks have float32 weights, and take nothing else."""
    kinds = set()

    def ball(points: torch.Tensor) -> torch.Tensor:
        kinds.add(points.dtype)
        return points.norm(dim=-1)

    sample_slice(ball, "z", 0.0, 400, ((9.5, 9.5, -0.5), (10.5, 10.5, 0.5)))
    assert kinds == {torch.float32}


NARROW = {"views": 1, "val_views": 1, "test_views": 1, "supersampling": 1, "occlusion_rays": 0, "sparse_points": 0}


def test_depth_that_does_not_fit_is_refused(ball: Mesh, tmp_path: Path) -> None:
    settings = SceneSettings(size=(64, 16), field_of_view=5.0, **NARROW)  # type: ignore[arg-type]
    assert settings.camera_distance == pytest.approx(95.3, abs=0.1)
    with pytest.raises(ValueError, match=r"from 95.3 radii, beyond the 64.5 of 16-bit depth; .* at most 60"):
        write_scene(ball, tmp_path / "scene", settings)
    assert not list(tmp_path.iterdir())


def test_the_deepest_scene_keeps_its_depth(ball: Mesh, tmp_path: Path) -> None:
    from PIL import Image

    settings = SceneSettings(size=(8, 8), field_of_view=1.87, **NARROW)  # type: ignore[arg-type]
    assert 63 < settings.camera_distance < 64.5
    write_scene(ball, tmp_path / "scene", settings)
    depth = np.asarray(Image.open(tmp_path / "scene" / "depth" / "train_000.png")) * 1e-3
    assert depth[4, 4] == pytest.approx(settings.camera_distance - 1, abs=0.05)


def textured(shade: float = 0.5) -> TexturedMesh:
    mesh = Mesh(torch.eye(3, dtype=torch.float64), torch.tensor([[0, 1, 2]]))
    return TexturedMesh(mesh, torch.tensor([[0.0, 0], [1, 0], [0, 1]]), torch.full((16, 16, 3), shade))


@pytest.mark.parametrize("taken", ["pic.png", "pic.mtl"])
def test_a_texture_replaces_no_other_file(taken: str, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    (tmp_path / taken).write_bytes(b"mine")
    for shade in (0.2, 0.6):  # the second call replaces what the first wrote
        save_textured(textured(shade), tmp_path / "pic.obj")
        assert (tmp_path / taken).read_bytes() == b"mine"
        assert {f.name for f in tmp_path.iterdir()} == {taken, "pic.obj", "pic_texture.mtl", "pic_texture.png"}
        image = trimesh.load(tmp_path / "pic.obj", process=False).visual.material.image
        assert np.asarray(image)[0, 0, 0] == round(255 * shade)
    (tmp_path / "pic_texture.mtl").write_bytes(b"mine too")
    with pytest.raises(ValueError, match="choose another name"):
        save_textured(textured(), tmp_path / "pic.obj")
    assert (tmp_path / "pic_texture.mtl").read_bytes() == b"mine too"


def test_a_texture_replaces_its_own(tmp_path: Path) -> None:
    for shade in (0.2, 0.6):
        save_textured(textured(shade), tmp_path / "pic.obj")
        assert {file.name for file in tmp_path.iterdir()} == {"pic.obj", "pic.mtl", "pic.png"}


def test_a_long_lens_stays_outside(ball: Mesh) -> None:
    near, nearer = (render_mesh(ball, Camera(zoom=zoom), (64, 64)) for zoom in (4.0, 20.0))
    assert near.mean() > 0.5 and nearer.mean() > 0.5  # the lit outside, not the dark inside
    small = render_mesh(ball, Camera(zoom=0.5), (64, 64))
    assert (small != small[0, 0]).any(-1).float().mean() < 0.25


def test_a_bar_has_the_background_that_is_said() -> None:
    picture = torch.zeros(60, 60, 3)
    bar = add_color_bar(picture, 0, 1, background=BACKGROUND)
    assert torch.allclose(bar[0, -1], torch.tensor(BACKGROUND), atol=0.01)
    assert (add_color_bar(picture, 0, 1)[0, -1] == 0).all()


def test_a_video_is_refused_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingLibraryError, match="video"):
        check_picture_name("turn.mp4", moving=True)


@pytest.mark.parametrize("times", [1, 7, 12])
def test_points_that_are_there_several_times_are_drawn(times: int) -> None:
    points = torch.nn.functional.normalize(torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    mesh, _ = cloud_as_mesh(PointCloud(points.double().repeat(times, 1)))
    assert (render_mesh(mesh, size=(60, 60)) != torch.tensor(BACKGROUND)).any(-1).float().mean() > 0.1
    single, _ = cloud_as_mesh(PointCloud(points[:1].double().repeat(times, 1)))
    assert (render_mesh(single, size=(60, 60)) != torch.tensor(BACKGROUND)).any(-1).any()


def test_titles_are_no_formulas() -> None:
    assert picture_sheet([[torch.zeros(40, 40, 3)]], [["v$\\q$"]], heading="c$x$_\\frac").shape[2] == 3
