"""The surface that the browser draws, what it is coloured by, and when it may be made: against balls."""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sasnet_ns.networks import SASNet, SASNetConfig, SignedDistanceField
from sasnet_ns.viewer.curves import curve, read_history, thinned, write_history
from sasnet_ns.viewer.live_surface import Budget, colors, cut, extract, follow, reaches
from sasnet_ns.viewer.quantities import ViewSettings, color_bar, color_values, evaluate, offered
from sasnet_ns.viewer.reading import point_at, read_value
from sasnet_ns.viewer.shown_field import Frame, ShownField, shown_shape
from sasnet_ns.viewer.slices import paint_slice, plane_axes
from sdf_tools.errors import ShapeError

RADIUS = 0.3


class _Ball(nn.Module):
    def __init__(self, radius: float = RADIUS) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(radius))

    def forward(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - self.radius


def _shown(ball: _Ball, scale: float = 1.0) -> ShownField:
    bounds = torch.tensor([[-0.5] * 3, [0.5] * 3])
    frame = Frame(torch.zeros(3, dtype=torch.float64), scale)
    return ShownField(
        lambda: ball, lambda module, points, _: module(points), lambda _, p: 2 * p, lambda m: m, bounds, lambda: frame
    )


def _field(**options: object) -> SignedDistanceField:
    torch.manual_seed(0)
    config = {"preset": "sdf", "embedding_width": 32, "hidden_widths": (32, 32), "groups": (4, 8), **options}
    return SignedDistanceField("sasnet", config)


def test_vertices_follow_a_field_that_has_moved() -> None:
    ball = _Ball()
    field = _shown(ball)
    surface = extract(field, 32, ViewSettings())
    assert (surface.vertices.norm(dim=-1) - RADIUS).abs().max() < 2e-3
    with torch.no_grad():
        ball.radius.fill_(0.31)
    assert (follow(field, surface, ViewSettings()).vertices.norm(dim=-1) - RADIUS).abs().max() < 1e-4  # the old copy
    field.take_snapshot()
    moved = follow(field, surface, ViewSettings())
    assert (moved.vertices.norm(dim=-1) - 0.31).abs().max() < 1e-4
    # No further than about a cell at a time: a part that is elsewhere now waits for the next extraction.
    with torch.no_grad():
        ball.radius.fill_(0.45)
    field.take_snapshot()
    assert (follow(field, surface, ViewSettings()).vertices.norm(dim=-1) - RADIUS).max() < 2 * surface.cell


def test_a_frozen_field_does_not_change() -> None:
    ball = _Ball()
    field = _shown(ball)
    frozen = field.frozen()
    with torch.no_grad():
        ball.radius.fill_(0.1)
    field.take_snapshot()
    at = torch.tensor([[0.5, 0.0, 0.0]])
    assert float(field.values(at)) == pytest.approx(0.4)
    assert float(frozen.values(at)) == pytest.approx(0.2)


def test_a_surface_that_comes_to_the_box_is_seen_from_both_sides() -> None:
    field = _shown(_Ball())
    assert not reaches(extract(field, 32, ViewSettings()), field.bounds)
    assert reaches(extract(_shown(_Ball(0.6)), 32, ViewSettings()), field.bounds)


def test_cut_leaves_what_lies_behind_the_plane() -> None:
    surface = extract(_shown(_Ball()), 32, ViewSettings())
    half = cut(surface, (0.0, 0.0, 0.05), (0.0, 0.0, 1.0))
    assert float(half.vertices[:, 2].max()) == pytest.approx(0.05, abs=1e-6)
    assert float(half.vertices[:, 2].min()) == pytest.approx(-RADIUS, abs=2e-3)
    assert 0.4 < len(half.faces) / len(surface.faces) < 0.75


def test_quantities_of_a_ball() -> None:
    field = _shown(_Ball(), scale=0.5)  # one unit of the shape is half a box
    points = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1) * RADIUS
    settings = ViewSettings()
    gradient, _, _ = evaluate(field, "gradient", points, settings)
    assert (gradient - 1).abs().max() < 1e-5
    curvature, _, _ = evaluate(field, "curvature", points, settings)
    assert torch.allclose(curvature, torch.full_like(curvature, 0.5 / RADIUS), rtol=0.02)  # radius 0.6 in its units
    error, title, kind = evaluate(field, "error", points, settings, lambda world: world.norm(dim=-1) - 0.5)
    assert torch.allclose(error, torch.full_like(error, 0.1), atol=1e-5)
    assert "input" in title and kind == "sequential"
    missing, _, _ = evaluate(field, "error", points, settings, None)
    assert missing.isnan().all()
    assert (color_values(missing, "error", "sequential")[0] == 0.6).all()
    with pytest.raises(ValueError, match="no quantity 'taste'"):
        evaluate(field, "taste", points, settings)


def test_colour_bars_name_their_ends_and_the_largest_value() -> None:
    values = torch.cat([torch.linspace(0, 1, 1000), torch.tensor([50.0])])
    painted, scale = color_values(values, "distance from the input", "sequential")
    assert scale.low == 0 and scale.high == pytest.approx(0.99, abs=0.02) and scale.most == 50
    assert not torch.equal(painted[0], painted[999])
    text = color_bar(scale)
    assert "largest 50" in text and "data:image/png;base64," in text
    _, scale = color_values(torch.tensor([0.9, 1.0, 1.3]), "length", "diverging around 1")
    assert scale.low + scale.high == pytest.approx(2)


def test_masks_and_bands_come_from_the_network() -> None:
    field = shown_shape(lambda: trained)
    trained = _field()
    network = trained.network
    assert isinstance(network, SASNet)
    points = torch.rand(50, 3) - 0.5
    assert {index: count for index, (_, count) in field.mask_layers.items()} == {0: 4, 1: 4, 2: 8}
    expected = network.masks(2 * points)[2]
    assert expected is not None
    assert torch.allclose(field.mask(points, 2, 5), expected[:, 5])
    if all(network.band_sizes[1:]):
        assert field.band_count == network.config.bands
        assert "band" in offered(field, False)
    assert torch.allclose(field.values(points, 1), network(2 * points, bands=1)[:, 0])
    # The groups of a layer make up all of what its neurons add to the next one.
    from sasnet_ns.analysis.contribution import neuron_contributions

    whole = neuron_contributions(network, 2 * points)["output.weight"].sum(dim=1)
    parts = torch.stack([field.group_contribution(points, 2, group) for group in range(8)]).sum(dim=0)
    assert torch.allclose(whole, parts, atol=1e-5)
    plain = shown_shape(lambda: SignedDistanceField("siren", {"width": 16}))
    assert plain.mask_layers == {} and plain.band_count == 0
    assert offered(plain, False) == ["shaded", "normals", "gradient", "curvature"]


def test_an_empty_band_takes_the_slider_away() -> None:
    trained = _field()
    network = trained.network
    assert isinstance(network, SASNet)
    network.band_sizes = (network.band_sizes[0], 0, *network.band_sizes[2:])
    assert shown_shape(lambda: trained).band_count == 0


def test_surface_colours() -> None:
    field = _shown(_Ball())
    surface = extract(field, 24, ViewSettings())
    clay, scale = colors(field, surface, ViewSettings())
    assert scale is None and (clay == clay[0]).all()
    normals, _ = colors(field, surface, ViewSettings(color="normals"))
    outwards = torch.nn.functional.normalize(surface.vertices, dim=-1)
    assert ((2 * normals - 1) * outwards).sum(-1).min() > 0.97
    _, scale = colors(field, surface, ViewSettings(color="gradient"))
    assert scale is not None and "gradient" in scale.title
    with pytest.raises(ShapeError):
        extract(field, 16, ViewSettings(level=5.0))


def test_slice_shows_the_surface_as_a_black_line() -> None:
    settings = ViewSettings(slice=True, plane_point=(0.0, 0.0, 0.1), plane_normal=(0.0, 0.0, 1.0))
    axes = plane_axes(settings.plane_normal)
    assert torch.allclose(axes.T @ axes, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(axes)) == pytest.approx(1)
    picture = paint_slice(_shown(_Ball()), settings, axes, 64)
    size = picture.image.shape[0]
    assert size == 192 and picture.image.shape == (size, size, 4)
    assert picture.image[0, 0, 3] == 0 and picture.image[size // 2, size // 2, 3] == 255
    beside = picture.image[size // 2, round(size * (0.5 + 0.4 / picture.side)), 3]
    assert 100 < beside < 255  # outside the ball, inside the box: what stands behind shows through
    black = (picture.image[..., :3].max(axis=-1) < 40) & (picture.image[..., 3] == 255)
    rows, columns = black.nonzero()
    radius = ((rows - size / 2 + 0.5) ** 2 + (columns - size / 2 + 0.5) ** 2) ** 0.5 * picture.side / size
    assert len(rows) > 50
    assert abs(radius - math.sqrt(RADIUS**2 - 0.1**2)).max() < 0.02
    middle = picture.image[size // 2, size // 2]
    assert middle[0] > middle[2]  # inside is red


def test_a_click_reads_where_the_ray_meets() -> None:
    field = _shown(_Ball(), scale=0.5)
    origin, direction = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, -1.0])
    hit = point_at(field, ViewSettings(), origin, direction)
    assert hit is not None and float(hit[2]) == pytest.approx(RADIUS, abs=1e-5)
    on_slice = point_at(field, ViewSettings(slice=True, plane_point=(0.0, 0.0, 0.4)), origin, direction)
    assert on_slice is not None and float(on_slice[2]) == pytest.approx(0.4)
    text = read_value(field, ViewSettings(), origin, direction, lambda world: world.norm(dim=-1) - 0.5)
    assert "0.6" in text and "from the input 0.1" in text
    assert point_at(field, ViewSettings(), origin, -direction) is None
    assert read_value(field, ViewSettings(), origin, -direction, None) == "Nothing there."


def test_a_session_says_what_it_does_and_when_it_is_done() -> None:
    pytest.importorskip("nerfstudio")
    from sasnet_ns.viewer.session import Session

    server = SimpleNamespace(scene=None, get_clients=dict)
    viewer: Any = SimpleNamespace(trainer=None, viser_server=server, render_statemachines={}, ready=True)
    session = Session(viewer, _shown(_Ball()), ViewSettings(), None, final_resolution=64)
    sent: list[int] = []
    session.nodes = SimpleNamespace(  # type: ignore[assignment]
        send_surface=lambda surface, _, both_sides: sent.append(surface.resolution),
        send_slice=lambda *_: sent.append(0),
    )
    said: list[str] = []
    session.on_status = lambda: said.append(session.status.message)
    session.at_step(7)
    assert not session.at_rest
    session._draw()
    assert "first surface" in said[0] and session.status.message == "" and session.status.shown_step == 7
    session._draw()
    assert session.at_rest and sent[-1] == 64 and len(said) == 1
    session.update(slice=True)
    assert not session.at_rest
    session._draw()
    assert session.at_rest and 0 in sent
    session.at_step(8)
    assert not session.at_rest


def test_budget_lets_work_take_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget = Budget(0.1)
    assert budget.due()
    budget.spend(1.0)
    now += 8.9
    assert not budget.due()
    now += 0.2
    assert budget.due()
    budget.spend(5.0)
    budget.reset()
    assert budget.due()


def test_history_is_kept_thin_and_drawn(tmp_path: Path) -> None:
    rows = [{"step": float(step), "loss": 1 / step} for step in range(1, 3001)]
    rows[1500]["iou"] = 0.9
    fewer = thinned(rows, 100)
    assert len(fewer) <= 102 and any("iou" in row for row in fewer)
    write_history(tmp_path, fewer)
    assert read_history(tmp_path) == fewer
    assert read_history(tmp_path / "nowhere") == []
    (tmp_path / "history.json").write_text("{not json")
    assert read_history(tmp_path) == []
    assert "data:image/svg+xml;base64," in curve(fewer, "loss")
    assert curve(fewer, "surface_error") == ""


def test_defaults_have_no_level_and_no_slice() -> None:
    assert ViewSettings().level == 0 and not ViewSettings().slice and SASNetConfig.sdf().bands > 0


def test_a_click_reads_what_is_seen() -> None:
    field = _shown(_Ball(), scale=0.5)
    behind = ViewSettings(slice=True, cut=True, plane_point=(0.0, 0.0, 0.2), plane_normal=(0.0, 0.0, 1.0))
    up, down = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, -1.0])
    below, above = torch.tensor([0.0, 0.0, -2.0]), torch.tensor([0.0, 0.0, 2.0])
    for settings, origin, direction, z in (
        (behind, below, up, -RADIUS),  # the surface hides the plane
        (behind, above, down, 0.2),  # what lies before the plane is cut away
        (dataclasses.replace(behind, cut=False), above, down, RADIUS),
        (dataclasses.replace(behind, slice=False), above, down, 0.2),  # the rim of the cut
    ):
        hit = point_at(field, settings, origin, direction)
        assert hit is not None and float(hit[2]) == pytest.approx(z, abs=1e-4)


def test_a_click_finds_a_thin_wall() -> None:
    class Plate(_Ball):
        def forward(self, points: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            return points[..., 2].abs() - 0.001

    field = _shown(Plate(), scale=0.5)
    for shift in torch.linspace(-0.02, 0.02, 21):
        hit = point_at(
            field, ViewSettings(), torch.tensor([0.0, 0.1, 2.0 + float(shift)]), torch.tensor([0.0, 0.0, -1.0])
        )
        assert hit is not None and abs(float(hit[2])) < 0.002


def test_a_level_without_a_surface_is_searched_once() -> None:
    pytest.importorskip("nerfstudio")
    from sasnet_ns.viewer.session import Session

    server = SimpleNamespace(scene=None, get_clients=dict)
    viewer: Any = SimpleNamespace(trainer=None, viser_server=server, render_statemachines={}, ready=True)
    session = Session(viewer, _shown(_Ball()), ViewSettings(level=-0.45), None, final_resolution=64)
    shown: list[bool] = []
    session.nodes = SimpleNamespace(  # type: ignore[assignment]
        send_surface=lambda surface, _, both_sides: shown.append(True), show_surface=shown.append
    )
    session.at_step(3)
    with pytest.raises(ShapeError):
        session._draw()
    assert shown == [False]
    searched = session._extract
    session._extract = lambda *_: pytest.fail("searched again")  # type: ignore[method-assign]
    for _ in range(3):
        session._draw()
    assert session.at_rest and shown == [False]
    session._extract = searched  # type: ignore[method-assign]
    session.update(level=0.0)
    session._draw()
    assert shown[-1] is True


def test_colour_bars_of_very_small_units() -> None:
    values = torch.linspace(1, 2, 50) * 1e-14
    for kind in ("sequential", "diverging"):
        colors, scale = color_values(values.double(), "distance from the input", kind)
        assert scale.high < 1e-13 and len(colors.unique(dim=0)) > 10


def _session(reference: Any = None, settings: ViewSettings | None = None) -> Any:
    pytest.importorskip("nerfstudio")
    from sasnet_ns.viewer.session import Session

    server = SimpleNamespace(scene=None, get_clients=dict)
    viewer: Any = SimpleNamespace(trainer=None, viser_server=server, render_statemachines={}, ready=True)
    session = Session(viewer, _shown(_Ball()), settings or ViewSettings(), reference, final_resolution=64)
    session.nodes = SimpleNamespace(send_surface=lambda surface, _, both_sides: None)  # type: ignore[assignment]
    session.at_step(3)
    return session


def test_threads_that_ask_at_once_wait_for_the_distance_from_the_input() -> None:
    begun, may_end, built = threading.Event(), threading.Event(), []

    def make() -> Any:
        built.append(1)
        begun.set()
        assert may_end.wait(5)
        return lambda points: points.norm(dim=-1) - RADIUS

    session = _session(make)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(session.reference)) for _ in range(2)]
    threads[0].start()
    assert begun.wait(5)
    threads[1].start()
    may_end.set()
    for thread in threads:
        thread.join(5)
    assert built == [1] and len(got) == 2 and got[0] is got[1] is not None


def test_a_distance_that_could_not_be_built_this_time_is_built_the_next() -> None:
    class Interrupted(Exception):
        pass

    results: list[Any] = [Interrupted(), lambda points: points.norm(dim=-1)]

    def make() -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    session = _session(make)
    with pytest.raises(Interrupted):
        _ = session.reference
    assert session.reference is not None and not session.status.input_trouble


def test_why_the_input_cannot_be_read_stays_in_the_panel() -> None:
    def make() -> Any:
        raise ShapeError("the file is gone.")

    session = _session(make, ViewSettings(color="error"))
    session._draw()
    session._draw()
    assert session.status.vertices and session.status.message == ""
    from sasnet_ns.viewer.control import tell_state

    lines = tell_state(session.viewer, session.status).split("  \n")
    assert "Surface of step 4" in lines[1] and lines[2] == "The input cannot be shown: the file is gone."


def test_settings_that_two_threads_change_are_both_kept() -> None:
    session = _session()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for turn in range(200):
            together = threading.Barrier(2)

            def change(together: threading.Barrier = together, **changes: Any) -> None:
                together.wait()
                session.update(**changes)

            wanted: list[dict[str, Any]] = [{"level": turn * 1e-6}, {"plane_point": (turn, 0.0, 0.0)}]
            threads = [threading.Thread(target=change, kwargs=changes) for changes in wanted]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert (session.settings.level, session.settings.plane_point) == (turn * 1e-6, (turn, 0.0, 0.0))
    finally:
        sys.setswitchinterval(before)
