"""``sasnet picture`` and ``sasnet page`` on a small run of a sphere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sasnet_ns.commands import picture
from sasnet_ns.commands._run_shape import run_shape
from sasnet_ns.commands.cli import main
from sasnet_ns.models.run_description import write_description
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.viewer.cameras import default_front
from sasnet_ns.viewer.pictures import camera_towards, comparison_sheet, curve_figure
from sdf_tools.extraction import extract_mesh
from sdf_tools.geometry import Mesh
from sdf_tools.pictures.render import Camera, _axes


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, sphere_file: Path) -> Path:
    """The folder of a run of fit-shape on a sphere of radius 2."""
    folder = tmp_path_factory.mktemp("runs") / "ball"
    config = folder.parent / "small.yaml"
    config.write_text(
        "pool_size: 20000\npoints_per_batch: 1000\nrecipe: {warmup_steps: 10}\nobjective: {band_dropout: 0.2}\n"
        "network_config: {preset: sdf_compact, embedding_width: 64, hidden_widths: [64, 64], groups: [2, 2], "
        "bands: 2}\n"
    )
    options = ["--data", str(sphere_file), "--config", str(config), "--steps", "90", "--resolution", "0"]
    main(["fit-shape", *options, "--output-dir", str(folder)])
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def colourful(picture: np.ndarray) -> float:
    return float((picture.max(-1) - picture.min(-1) > 60).mean())


def draw(fitted: Path, path: Path, *options: str) -> np.ndarray:
    main(["picture", str(fitted), "--output-path", str(path), "--resolution", "32", "--size", "64", *options])
    return pixels(path)


def test_a_runs_surface(fitted: Path, tmp_path: Path) -> None:
    clay = draw(fitted, tmp_path / "clay.png")
    assert clay.shape == (64, 64, 3) and colourful(clay) < 0.01
    assert 0.4 < (abs(clay - clay[0, 0]).max(-1) > 20).mean() < 0.95  # a ball
    normals = draw(fitted, tmp_path / "normals.jpg", "--show", "normals")
    assert colourful(normals) > 0.3
    for quantity in ("error", "gradient", "curvature"):
        coloured = draw(fitted, tmp_path / f"{quantity}.png", "--show", quantity)
        assert coloured.shape[0] == 64 and coloured.shape[1] > 64  # a colour bar beside it
        assert colourful(coloured[:, :64]) > 0.1


def test_the_largest_error_is_the_last_colour(fitted: Path, tmp_path: Path) -> None:
    whole = draw(fitted, tmp_path / "a.png", "--show", "error", "--largest", "1000")[:, :64]
    # Every error is small beside 1000: viridis begins in violet, with blue above green.
    ball = abs(whole - whole[0, 0]).max(-1) > 40
    assert (whole[ball][:, 2] > whole[ball][:, 1]).mean() > 0.95


def test_turntables_turn(fitted: Path, tmp_path: Path) -> None:
    for name in ("turn.gif", "turn.png"):
        draw(fitted, tmp_path / name, "--turntable", "--frames", "3", "--show", "normals")
        with Image.open(tmp_path / name) as picture:
            assert picture.n_frames == 3  # type: ignore[attr-defined]
            first = np.asarray(picture.convert("RGB")).astype(int)
            picture.seek(1)
            assert abs(np.asarray(picture.convert("RGB")).astype(int) - first).mean() > 3


def test_sheets(fitted: Path, tmp_path: Path) -> None:
    masks = draw(fitted, tmp_path / "masks.png", "--show", "masks")
    assert masks.shape[0] >= 3 * 64 and colourful(masks) > 0.05  # embedding and two hidden layers
    levels = draw(fitted, tmp_path / "bands.png", "--show", "bands")
    assert levels.shape[1] >= 3 * 64  # none, one and both bands
    other = tmp_path / "other"
    shutil.copytree(fitted, other)
    both = tmp_path / "both.png"
    main(["picture", str(fitted), str(other), "--output-path", str(both), "--resolution", "24", "--size", "64"])
    assert pixels(both).shape[0] >= 2 * 64 and colourful(pixels(both)) > 0.05


def test_plots(fitted: Path, tmp_path: Path) -> None:
    plane = draw(fitted, tmp_path / "slice.png", "--show", "slice", "--axis", "x")
    red, blue = plane[..., 0] - plane[..., 2] > 20, plane[..., 2] - plane[..., 0] > 20
    assert red.mean() > 0.02 and blue.mean() > 0.1  # inside and outside
    draw(fitted, tmp_path / "curves.png", "--show", "curves")
    main(["picture", str(fitted), "--show", "curves", "--output-path", str(tmp_path / "curves.svg")])
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_the_last_loss_of_a_fit_stands_at_its_last_step(fitted: Path, tmp_path: Path) -> None:
    for steps, wanted in ((25, [10.0, 20.0, 25.0]), (30, [10.0, 20.0, 30.0])):
        SignedDistanceField("siren", {"width": 8}).save(tmp_path / "field.pt", step=steps)
        (tmp_path / "losses.json").write_text("[3, 2, 1]")
        assert [row["step"] for row in picture._history(tmp_path)] == wanted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["nowhere"], "there is no run"),
        (["RUN", "--output-path", "x.tiff"], "must end in"),
        (["RUN", "--output-path", "x.jpg", "--turntable"], "several pictures need"),
        (["RUN", "--output-path", "x.gif", "--show", "masks"], "one run's surface"),
        (["RUN", "--output-path", "x.jpg", "--show", "slice"], "a plot must end in"),
        (["RUN", "RUN", "--show", "masks"], "draws one run"),
        (["RUN", "--show", "slice", "--offset", "1e6"], "outside the trained box"),
        (["RUN", "--resolution", "2"], "--resolution must be at least 8"),
        (["RUN", "--output-path", "no/where.png"], "does not exist"),
        (["RUN", "--show", "error", "--shape", "nose.ply"], "neither a file nor the name"),
    ],
)
def test_picture_says_what_is_wrong(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["picture", *(str(fitted) if word == "RUN" else word for word in options)])
    message = str(end.value.code)
    assert message.startswith("sasnet picture: ") and sentence in message and message.endswith(".")
    assert not list(tmp_path.iterdir())


def test_a_field_alone_needs_the_shapes_name(fitted: Path, tmp_path: Path, sphere_file: Path) -> None:
    alone = tmp_path / "field.pt"
    shutil.copy(fitted / "field.pt", alone)
    with pytest.raises(SystemExit) as end:
        draw(alone, tmp_path / "error.png", "--show", "error")
    assert "--shape" in str(end.value.code)
    draw(alone, tmp_path / "error.png", "--show", "error", "--shape", str(sphere_file))
    assert run_shape(alone).levels  # nothing says that they are not


def test_the_runs_own_shape_is_found(fitted: Path, sphere_file: Path, tmp_path: Path) -> None:
    known = run_shape(fitted)
    assert isinstance(known.shape, Mesh) and known.why_not == "" and known.levels
    assert float(known.shape.vertices[:, 0].mean()) == pytest.approx(10, abs=0.1)
    moved = tmp_path / "moved"
    shutil.copytree(fitted, moved)
    description = json.loads((moved / "run.json").read_text())
    description["data"]["path"] = str(tmp_path / "gone.ply")
    description["options"]["objective"]["band_dropout"] = 0.0
    (moved / "run.json").write_text(json.dumps(description))
    known = run_shape(moved)
    assert known.shape is None and "--shape" in known.why_not and not known.levels


def test_a_shape_that_has_changed_since_is_said(fitted: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(fitted, moved)
    description = json.loads((moved / "run.json").read_text())
    description["data"]["sha256"] = "0" * 64
    (moved / "run.json").write_text(json.dumps(description))
    with pytest.warns(UserWarning, match="has other contents than when"):
        assert run_shape(moved).shape is not None


@pytest.mark.parametrize("command", ["page", "export"])
def test_runs_on_photographs_are_named_where_a_shapes_field_is_wanted(command: str, tmp_path: Path) -> None:
    write_description(tmp_path, {"method": "sasnet-neus", "options": {}})
    option, name = ([], "a.html") if command == "page" else (["--load-config"], "a.pt2")
    with pytest.raises(SystemExit, match="is a run of sasnet-neus, and this is for fields of shapes"):
        main([command, *option, str(tmp_path), "--output-path", str(tmp_path / name)])


@pytest.mark.parametrize(("name", "said"), [("field.pt2", "is no config.yml"), ("typo.yml", "there is no run at")])
def test_what_lies_beside_a_field_is_not_taken_for_it(fitted: Path, name: str, said: str, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "run")
    if name != "typo.yml":
        (tmp_path / "run" / name).write_bytes(b"something else")
    with pytest.raises(SystemExit, match=said):
        main(["extract", "--load-config", str(tmp_path / "run" / name), "--output-path", str(tmp_path / "a.ply")])
    assert not (tmp_path / "a.ply").exists()


def test_page_of_a_run(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly", reason="pages need plotly")
    path = tmp_path / "ball.html"
    small = ["--resolution", "24", "--masks", "2", "--slices", "3"]
    main(["page", str(fitted), "--output-path", str(path), "--title", "Ball", *small])
    assert "ball.html: " in capsys.readouterr().out
    looks = re.findall(r'"name": "([^"]+)"', path.read_text(encoding="utf-8").split("const data = ")[1])
    assert looks[:4] == ["shaded", "error", "gradient", "curvature"] and len(looks) == 6
    main(["page", str(fitted), "--output-path", str(path), "--no-errors", "--shape", "nowhere.ply", *small])
    assert '"name": "error"' not in path.read_text(encoding="utf-8")
    for options, sentence in (
        (["--output-path", str(tmp_path / "ball.txt")], r"ends in .html"),
        (["--slices", "0"], "--slices must be at least 1"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["page", str(fitted), *options])
        assert sentence in str(end.value.code)
    with pytest.raises(SystemExit) as end:
        main(["page", str(tmp_path / "nowhere"), "--output-path", str(path)])
    assert "there is no run" in str(end.value.code)


def test_the_camera_looks_at_the_front() -> None:
    assert camera_towards(None, "y", turn=0).azimuth == 0
    assert abs(camera_towards((0, 0, -1), "y", turn=0).azimuth) == pytest.approx(180)
    assert camera_towards((1, 0, 0), "y", turn=0).azimuth == pytest.approx(90)
    assert camera_towards((0, -1, 0), "z", turn=0).azimuth == pytest.approx(0)


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    for name in ("m1/outputs/ball/sasnet-sdf/run", "m2/outputs/ball/sasnet-sdf/run", "many"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("many/a.pt", "many/b.pt", "m1/field.pt", "m2/field.pt"):
        (tmp_path / name).touch()

    def names(*paths: str) -> list[str]:
        return picture._names([tmp_path / path for path in paths])

    assert names("m1/outputs/ball/sasnet-sdf/run", "m2/outputs/ball/sasnet-sdf/run") == ["m1", "m2"]
    assert names("many/a.pt", "many/b.pt") == ["a", "b"]
    assert names("m1/field.pt", "m2/field.pt") == ["m1", "m2"]
    assert len(set(names("many/a.pt", "many/a.pt"))) == 2


def test_every_curve_is_in_the_legend() -> None:
    rows = [{"step": 1.0, "loss": 1.0}, {"step": 2.0, "loss": 0.5}]
    figure = curve_figure({"_old": rows, "v$\\q$": rows, "new": rows})
    figure.canvas.draw()  # type: ignore[attr-defined]
    texts = [text.get_text().strip() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["_old", "v$\\q$", "new"]


def test_runs_on_two_shapes_are_measured_by_their_own(fitted: Path, tmp_path: Path) -> None:
    import trimesh

    other = tmp_path / "cube"
    trimesh.creation.box((2, 2, 2)).export(tmp_path / "cube.ply")
    options = ["--data", str(tmp_path / "cube.ply"), "--config", str(fitted.parent / "small.yaml"), "--steps", "90"]
    main(["fit-shape", *options, "--resolution", "0", "--output-dir", str(other)])
    shapes = [run_shape(path) for path in (fitted, other, fitted)]
    references = picture._references(shapes, needed=True)
    assert isinstance(references, list) and references[0] is references[2] is not references[1]
    corner = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    assert float(references[1](corner)) < 1e-9 < 0.1 < float(references[0](corner))
    assert not isinstance(picture._references(shapes[::2], needed=True), list)
    drawn = tmp_path / "both.png"
    main(["picture", str(fitted), str(other), "--output-path", str(drawn), "--resolution", "24", "--size", "48"])
    assert drawn.is_file()


def test_surfaces_of_one_input_are_drawn_at_one_scale() -> None:
    ball = extract_mesh(lambda points: points.norm(dim=-1) - 0.2, 24)
    speck = torch.full((1, 3), 0.49, dtype=torch.float64) + 0.001 * torch.eye(3, dtype=torch.float64)
    faces = torch.cat([ball.faces, torch.tensor([[0, 1, 2]]) + len(ball.vertices)])
    sheets = [
        comparison_sheet([first, Mesh(torch.cat([ball.vertices, speck]), faces)], ["a", "b"], Camera(), 64)
        for first in (ball, Mesh(torch.cat([ball.vertices, speck]), faces))
    ]
    assert abs(float(sheets[0].mean() - sheets[1].mean())) < 2e-3


def test_a_slice_has_the_size_that_is_asked_for(fitted: Path, tmp_path: Path) -> None:
    assert draw(fitted, tmp_path / "slice.png", "--show", "slice", "--size", "240").shape[0] == 240


def test_commands_agree_on_what_is_seen_first_where_x_is_up() -> None:
    from sasnet_ns.viewer.cameras import directions

    up = torch.tensor([1.0, 0.0, 0.0])
    camera = camera_towards(None, "x", turn=0.0, elevation=0.0)
    back = torch.from_numpy(_axes(camera)[2]).float()
    assert torch.allclose(back, directions(up, default_front(up))["front"], atol=1e-6)
    z = torch.tensor([0.0, 0.0, 1.0])  # a front that is up: the usual one
    assert all(abs(float(d.norm()) - 1) < 1e-5 for d in directions(z, z).values())
