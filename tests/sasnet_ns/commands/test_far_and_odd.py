"""Commands on fields far from zero, in other precisions, and with odd options."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sasnet_ns.commands import extract, picture
from sasnet_ns.commands.cli import main
from sasnet_ns.models.loading import load_surface
from sasnet_ns.models.surface import LoadedSurface
from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.networks.packing import pack_state, unpack_state
from sasnet_ns.viewer.page import write_page
from sdf_tools.geometry import Mesh
from sdf_tools.topology import is_watertight

FAR = (5e5, 5e6, 100.0)


class _BallField(SignedDistanceField):
    def forward(self, points: Tensor, bands: int | None = None) -> Tensor:
        return points.norm(dim=-1) - 0.3


def ball(center: tuple[float, ...], width: int = 32) -> _BallField:
    torch.manual_seed(0)
    return _BallField("siren", {"width": width}, torch.tensor(center, dtype=torch.float64), 0.9)


def read_page(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    found = re.search(r"^const data = (\{.*\});$", path.read_text(encoding="utf-8"), re.M)
    assert found is not None
    data = json.loads(found[1])
    return data, np.frombuffer(base64.b64decode(data["vertices"]), "<f4").reshape(-1, 3)


def test_an_offset_that_leaves_the_box_is_said_and_can_be_closed(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    field = ball((0.0, 0.0, 0.0))
    surface = LoadedSurface(field, torch.tensor([[-0.5] * 3, [0.5] * 3]), field.center, 1.0)
    arguments = extract.Arguments(tmp_path, resolution=24, level=0.25)
    open_mesh = extract.extract(surface, arguments)
    assert [str(w.message) for w in recwarn] == ["the surface leaves the box and is cut off there; --cap closes it."]
    closed = extract.extract(surface, dataclasses.replace(arguments, cap=True))
    assert [is_watertight(mesh.faces.numpy()) for mesh in (open_mesh, closed)] == [False, True] and len(recwarn) == 1


def test_a_page_far_away_is_the_page_at_zero(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    options: dict[str, Any] = {"resolution": 24, "masks": 0, "slices": 1, "slice_size": 8}
    shape = torch.nn.functional.normalize(torch.randn(2000, 3, dtype=torch.float64), dim=-1)
    pages = {}
    for name, center in (("far", FAR), ("near", (0.0, 0.0, 0.0))):
        around = torch.tensor(center, dtype=torch.float64)
        mesh = Mesh(around + shape / 3, torch.arange(1998).reshape(-1, 3))
        path = write_page(ball(center), tmp_path / f"{name}.html", shape=mesh, **options)
        pages[name] = read_page(path)
    (far, far_vertices), (near, near_vertices) = pages["far"], pages["near"]
    assert len(far_vertices) > 500 and np.array_equal(far_vertices, near_vertices)
    # Corners of the slices, from the origin, and errors, in world units.
    assert np.allclose(far["low"], np.full(3, -0.5 / 0.9), atol=1e-9) and np.allclose(far["high"], near["high"])
    errors = [np.frombuffer(base64.b64decode(data["looks"][1]["values"]), "<f4") for data in (far, near)]
    assert far["looks"][1]["name"] == "error" and np.allclose(*errors, atol=1e-6)


def drawn_slice(center: tuple[float, ...], path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, str]:
    """What ``sasnet picture --show slice`` hands to its plot."""
    from sdf_tools.pictures import plots

    field, seen = ball(center), []
    surface = LoadedSurface(field, torch.tensor([[-0.5] * 3, [0.5] * 3]), field.center, float(field.scale))

    def keep(*arguments: Any, **options: Any) -> None:
        values, _ = plots.sample_slice(
            arguments[0], options["axis"], options["offset"], options["resolution"], options["bounds"]
        )
        seen.append((values, options["title"]))

    monkeypatch.setattr(plots, "slice_plot", keep)
    picture._draw_slice(surface, picture.Arguments(runs=(path,), show="slice", size=100, axis="y"))
    return seen[0]


def test_a_slice_far_away_is_the_slice_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, title = drawn_slice(FAR, tmp_path, monkeypatch)
    side = ((np.arange(100) + 0.5) / 100 - 0.5) / 0.9
    assert np.abs(values - (np.hypot(side[None], side[:, None]) - 0.3 / 0.9)).max() < 1e-6
    assert title == "signed distance at y = 5000000"
    near, title = drawn_slice((0.0, 0.0, 0.0), tmp_path, monkeypatch)
    assert np.abs(near - values).max() < 1e-6 and title == "signed distance at y = 0"


@pytest.mark.parametrize("inside", ["below", "above"])
@pytest.mark.parametrize("faces", [None, 200])
def test_normals_belong_to_the_simplified_mesh(inside: Any, faces: int | None) -> None:
    sign = 1 if inside == "below" else -1
    center = torch.tensor([10.0, 20, 30], dtype=torch.float64)
    surface = LoadedSurface(
        lambda p: sign * (p.norm(dim=-1) - 0.3), torch.tensor([[-0.5] * 3, [0.5] * 3]), center, 0.009, inside=inside
    )
    arguments = extract.Arguments(load_config=Path("none"), resolution=32, normals=True, simplify_mesh=faces)
    mesh = extract.extract(surface, arguments)
    assert faces is None or abs(len(mesh.faces) - faces) <= 2
    outwards = torch.nn.functional.normalize(mesh.vertices - center, dim=1)
    assert mesh.vertex_normals is not None and torch.allclose(mesh.vertex_normals, outwards, atol=1e-5)
    assert extract.extract(surface, dataclasses.replace(arguments, normals=False)).vertex_normals is None


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_fields_of_other_precisions_are_packed_too(kind: torch.dtype, tmp_path: Path) -> None:
    field = ball(FAR, 128).to(kind)
    field.center.copy_(torch.tensor(FAR, dtype=torch.float64))
    weights = {name: value.detach().float() for name, value in field.network.named_parameters()}
    size = {}
    for bits in (8, 16):
        path = tmp_path / f"{bits}.pt"
        field.save(path, bits=bits)
        size[bits] = path.stat().st_size
        loaded = dict(SignedDistanceField.load(path).network.named_parameters())
        for name, value in weights.items():
            assert (loaded[name] - value).abs().max() <= (1 / 127 if bits == 8 else 1e-3) * value.abs().max()
    plain = tmp_path / "plain.pt"
    ball(FAR, 128).save(plain)
    assert size[8] < 0.75 * size[16] and size[16] < 0.75 * plain.stat().st_size


def test_packing_other_precisions_is_packing_their_values() -> None:
    values = torch.randn(300, generator=torch.Generator().manual_seed(0))
    single = pack_state({"w": values}, ["w"], 8)
    double = pack_state({"w": values.double()}, ["w"], 8)
    assert all(torch.equal(single[name], double[name]) for name in single)
    assert pack_state({"w": values.double()}, ["w"], 16)["w"].dtype == torch.float16
    whole = {"w": torch.arange(300)}
    assert unpack_state(pack_state(whole, ["w"], 8), whole)["w"] is whole["w"]
    with pytest.raises(ValueError, match="8 bits cannot hold"):
        pack_state({"w": torch.full((300,), 1e300, dtype=torch.float64)}, ["w"], 8)


@pytest.fixture
def field_file(tmp_path: Path) -> Path:
    path = tmp_path / "field.pt"
    SignedDistanceField("siren", {"width": 16}).save(path)
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--largest", "-1"], "--largest must be positive and finite, not -1."),
        (["--largest", "nan"], "--largest must be positive and finite, not nan."),
        (["--zoom", "inf"], "--zoom must be positive and finite, not inf."),
        (["--elevation", "nan"], "--elevation must be finite, not nan."),
        (["--azimuth", "inf"], "--azimuth must be finite, not inf."),
        (
            ["--size", "100000"],
            "a picture of 100000 x 100000 pixels needs 3725.3 GiB of memory, more than the 1.0 GiB it may take; give a "
            "smaller one, or allow more (SDF_TOOLS_MAX_MEMORY).",
        ),
    ],
)
def test_a_picture_refuses_odd_numbers(
    field_file: Path, options: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDF_TOOLS_MAX_MEMORY", "1G")
    with pytest.raises(SystemExit) as end:
        main(["picture", str(field_file), "--output-path", str(field_file.with_name("p.png")), *options])
    assert str(end.value.code) == f"sasnet picture: {sentence}"
    assert not field_file.with_name("p.png").exists()


def test_a_file_that_is_no_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l.ply"
    path.write_bytes(b"ply")
    for beside in (None, "config.yml"):
        if beside is not None:
            (tmp_path / beside).write_text("{}")
        with pytest.raises(ValueError, match=re.escape(f"'{path}' is no config.yml")):
            load_surface(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' holds no field"):
        load_surface(tmp_path / "empty")


@pytest.mark.parametrize("given", ["run", "run/run.json", "run/field.pt"])
def test_an_export_leaves_the_runs_own_field_alone(given: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    own, small = tmp_path / "run" / "field.pt", tmp_path / "small.pt"
    SignedDistanceField("siren", {"width": 16}).save(own, step=60)
    before = own.read_bytes()
    (tmp_path / "run" / "run.json").write_text('{"format": "sasnet-run-1", "options": {}}')
    with pytest.raises(SystemExit, match="the run's own field, which an export must not replace"):
        main(["export", "--load-config", str(tmp_path / given), "--output-path", str(own), "--bits", "8"])
    assert own.read_bytes() == before
    main(["export", "--load-config", str(tmp_path / given), "--output-path", str(small), "--bits", "8"])
    assert SignedDistanceField.load_with_step(small)[1] == 60


def test_an_empty_box_is_said_in_the_units_that_were_typed(tmp_path: Path) -> None:
    path = tmp_path / "field.pt"
    SignedDistanceField("siren", {"width": 16}, torch.tensor([1.0, 2.0, 3.0]), 0.05).save(path)
    corners = ["--bounding-box-min", "9", "9", "9", "--bounding-box-max", "-7", "-7", "-7"]
    with pytest.raises(SystemExit, match=r"the box from \(9, 9, 9\) to \(-7, -7, -7\) is empty"):
        main(["extract", "--load-config", str(path), "--output-path", str(tmp_path / "m.ply"), *corners])


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".Pt"])
def test_an_exports_ending_may_be_in_capitals(
    field_file: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".SAFETENSORS":
        pytest.importorskip("safetensors")
    main(["export", "--load-config", str(field_file), "--output-path", str(tmp_path / f"a{suffix}"), "--bits", "16"])
    written = tmp_path / f"a{suffix.lower()}"
    assert capsys.readouterr().out.startswith(f"{written}: box = ")
    assert {path.name for path in tmp_path.iterdir()} == {"field.pt", written.name}
    SignedDistanceField.load(written)
