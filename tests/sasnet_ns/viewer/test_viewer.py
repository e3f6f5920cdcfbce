"""Sphere tracing against shapes whose answer is known, shading, and nerfstudio's real viewer without a browser."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sasnet_ns.networks import SignedDistanceField
from sasnet_ns.viewer.shading import color_distances, plane_hits, shade
from sasnet_ns.viewer.tracing import MISS_DEPTH, box_interval, sample_grid, trace

CPU = torch.device("cpu")


def _ball(points: Tensor) -> Tensor:
    return points.norm(dim=-1) - 0.3


def _two_sheets(points: Tensor) -> Tensor:
    """A slab 0.02 thick at z = 0.2, less than a cell of the first grid, and a ball below it."""
    slab = (points[..., 2] - 0.2).abs() - 0.01
    ball = (points - torch.tensor([0.0, 0.0, -0.2])).norm(dim=-1) - 0.1
    return torch.minimum(slab, ball)


def _rays(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 1.5
    targets = (torch.rand(count, 3, generator=generator) - 0.5) * 0.9
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def test_trace_finds_the_ball_exactly_where_it_is() -> None:
    origins, directions = _rays(4000)
    hits = trace(_ball, sample_grid(_ball, CPU), origins, directions, tolerance=2e-4)
    along = (origins * directions).sum(-1)
    discriminant = along**2 - (1.5**2 - 0.3**2)
    clear = discriminant.abs() > 2e-3  # leave grazing rays out
    assert torch.equal(hits.hit[clear], discriminant[clear] > 0)
    expected = -along - discriminant.clamp_min(0).sqrt()
    steep = discriminant > 0.01  # where an error in distance is not magnified along the ray
    assert (hits.depth - expected)[steep].abs().max() < 1.5e-3
    assert (hits.depth[~hits.hit] == MISS_DEPTH).all()


def test_trace_does_not_step_over_a_thin_sheet() -> None:
    origins = torch.tensor([[0.1, 0.1, 1.0], [0.0, 0.0, -1.0], [0.45, 0.45, -1.0]])
    directions = torch.tensor([[0.0, 0, -1], [0, 0, 1], [0, 0, 1]])
    hits = trace(_two_sheets, sample_grid(_two_sheets, CPU), origins, directions)
    assert torch.allclose(hits.depth, torch.tensor([0.79, 0.7, 1.19]), atol=1e-3)


def test_trace_shows_other_levels() -> None:
    origin, direction = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    for level in (-0.05, 0.05):
        grid = sample_grid(_ball, CPU, level)
        hits = trace(_ball, grid, origin, direction, level=level)
        assert float(hits.depth) == pytest.approx(0.7 - level, abs=1e-3)


def test_trace_respects_near_and_far() -> None:
    origin, direction = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    grid = sample_grid(_ball, CPU)
    assert not trace(_ball, grid, origin, direction, far=torch.tensor([0.6])).hit
    inside = trace(_ball, grid, origin, direction, near=torch.tensor([0.8]))
    assert float(inside.depth) == pytest.approx(0.8)  # a cut shows the solid's inside at the cut


def test_grid_never_promises_more_than_the_distance() -> None:
    evaluated = 0

    def counting(points: Tensor) -> Tensor:
        nonlocal evaluated
        evaluated += points.shape[0]
        return _two_sheets(points)

    grid = sample_grid(counting, CPU)
    assert grid.values.shape == (1, 1, 129, 129, 129)
    assert evaluated < 0.45 * 129**3  # a slab through the whole box and a ball
    points = torch.rand(50_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    exact = _two_sheets(points)
    assert (grid(points) - exact)[exact > 0].max() < grid.cell


def test_few_network_evaluations_per_ray() -> None:
    evaluated = 0

    def counting(points: Tensor) -> Tensor:
        nonlocal evaluated
        evaluated += points.shape[0]
        return _ball(points)

    grid = sample_grid(_ball, CPU)
    origins, directions = _rays(5000)
    trace(counting, grid, origins, directions)
    assert evaluated < 4 * 5000


def test_box_interval() -> None:
    origins = torch.tensor([[0.0, 0, 2], [0.0, 0, 0], [2.0, 2, 2], [0.0, 0, -2]])
    directions = torch.tensor([[0.0, 0, -1], [1.0, 0, 0], [0.0, 0, 1], [0.0, 0, -1]])
    near, far = box_interval(origins, directions)
    assert torch.allclose(near[:2], torch.tensor([1.5, 0.0])) and torch.allclose(far[:2], torch.tensor([2.5, 0.5]))
    assert (far[2:] < near[2:]).all()


def test_shading_and_slice_colours_are_pictures() -> None:
    normals = torch.nn.functional.normalize(torch.randn(100, 3), dim=-1)
    hit = torch.arange(100) < 50
    colors = shade(normals, -normals, hit, torch.tensor([0.0, 1.0, 0.0]))
    assert colors.min() >= 0 and colors.max() <= 1 and (colors[50:] == 1).all()
    picture = color_distances(torch.tensor([-0.2, 0.0, 0.22]))
    assert picture[0, 0] > picture[0, 2]  # inside is red
    assert picture[2, 2] > picture[2, 0]  # outside is blue
    assert (picture[1] == 0).all()  # the surface is black


def test_plane_hits() -> None:
    origins = torch.tensor([[0.0, 0, 2], [0.0, 0, 2], [3.0, 0, 2]])
    directions = torch.tensor([[0.0, 0, -1], [0.0, 0, 1], [0.0, 0, -1]])
    points, visible = plane_hits(origins, directions, (0.0, 0.0, 0.25), (0.0, 0.0, 1.0))
    assert visible.tolist() == [True, False, False]
    assert torch.allclose(points[0], torch.tensor([0.0, 0.0, 0.25]))


nerfstudio = pytest.importorskip("nerfstudio")
Make = Callable[..., Any]


class _BallField(SignedDistanceField):
    """The field that training on the sphere would end in, with a network that only gives masks."""

    def forward(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - 0.45


def _with_ball(trainer: Any) -> Any:
    model = trainer.pipeline.model
    options = model.config.network_config()
    field = _BallField(model.config.network, options, model.field.center, float(model.field.scale))
    model.field = field
    return trainer


@pytest.fixture
def trainer(make_trainer: Make) -> Any:
    """A trainer on the sphere whose field is the sphere's already."""
    return _with_ball(make_trainer())


def test_camera_pictures_have_the_shapes_and_ranges_the_viewer_wants(trainer: Any) -> None:
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
    camera.rescale_output_resolution(0.25)
    outputs = trainer.pipeline.model.eval().get_outputs_for_camera(camera)
    assert next(iter(outputs)) == "rgb"
    for name, image in outputs.items():
        assert image.shape[:2] == (48, 48)
        assert image.shape[2] == (1 if name in ("depth", "accumulation") else 3)
        assert torch.isfinite(image).all()
        if name != "depth":
            assert image.min() >= 0 and image.max() <= 1
    # The ball of radius 0.45 seen from 1.6 away, middle of the picture.
    assert float(outputs["accumulation"][24, 24]) == 1
    assert float(outputs["depth"][24, 24]) == pytest.approx(1.6 - 0.45, abs=2e-3)
    assert float(outputs["depth"][0, 0]) == MISS_DEPTH
    rgba = trainer.pipeline.model.get_rgba_image(outputs)
    assert rgba.shape == (48, 48, 4)


def test_rendered_normals_point_away_from_the_centre(trainer: Any) -> None:
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
    camera.rescale_output_resolution(0.25)
    model = trainer.pipeline.model.eval()
    outputs = model.get_outputs_for_camera(camera)
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    hit = outputs["accumulation"][..., 0] > 0
    points = (rays.origins + rays.directions * outputs["depth"])[hit]
    normals = outputs["normals"][hit] * 2 - 1
    assert (normals.norm(dim=-1) - 1).abs().max() < 1e-3
    assert torch.nn.functional.cosine_similarity(normals, points).min() > 0.999


def test_no_property_raises(trainer: Any) -> None:
    """nerfstudio's viewer reads every attribute; one that raises would end training."""
    from functools import cached_property

    pipeline = trainer.pipeline
    for thing in (pipeline, pipeline.datamanager, pipeline.model, pipeline.model.field):
        for name in dir(thing):
            if not isinstance(getattr(type(thing), name, None), cached_property):
                getattr(thing, name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_real_viewer_starts_on_loopback_with_our_panel(make_trainer: Make) -> None:
    trainer = _with_ball(make_trainer(vis="viewer", viewer__websocket_port=_free_port()))
    trainer._init_viewer_state()
    viewer = trainer.viewer_state
    control = trainer.pipeline.model.viewer_control
    try:
        assert "127.0.0.1" in viewer.viewer_info[0]
        assert not viewer.viewer_elements  # nothing under nerfstudio's "Custom Elements / model"
        panel, session = control.panel, control.session
        assert "mask" in panel.color.options and "error" in panel.color.options
        assert hasattr(panel, "bands") == bool(control.field.band_count)
        panel.read.value = True
        told = panel.read_at((0.0, 0.0, 16.0), (0.0, 0.0, -1.0))
        # The ball of radius 0.45 in box units is the sphere of radius 2 around (10, 0, 0).
        assert told.startswith("position 10, 0, 2")
        panel.extraction.resolution.value = "64"
        panel.extraction.start()
        panel.extraction.wait()
        name, content = panel.extraction.file()
        assert name == "sphere.ply" and content.startswith(b"ply")
        session.update(level=0.05)
        camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
        camera.rescale_output_resolution(0.25)
        model = trainer.pipeline.model.eval()
        large = model.get_outputs_for_camera(camera)["accumulation"].mean()
        session.update(level=0.0)
        assert large > model.get_outputs_for_camera(camera)["accumulation"].mean()
        (press,) = control.pause._impl.update_cb
        for state in ("paused", "training"):
            press(None)
            assert trainer.training_state == state
    finally:
        control.session.stop()
        viewer.viser_server.stop()


def test_extracted_file_is_in_the_inputs_units(make_trainer: Make, tmp_path: Path) -> None:
    from sdf_tools.io.loading import load

    trainer = _with_ball(make_trainer(vis="viewer", viewer__websocket_port=_free_port()))
    control = trainer.pipeline.model.viewer_control
    try:
        job = control.panel.extraction
        job.resolution.value = "64"
        for suffix in ("ply", "obj", "stl", "off", "glb"):
            job.file_type.value = suffix
            job.start()
            job.wait()
            name, content = job.file()
            path = tmp_path / name
            path.write_bytes(content)
            mesh: Any = load(path)
            center = (mesh.vertices.amax(0) + mesh.vertices.amin(0)) / 2
            assert float((center - torch.tensor([10.0, 0, 0])).abs().max()) < 0.02
            assert float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()) == pytest.approx(4, abs=0.02)
    finally:
        control.session.stop()
        trainer.viewer_state.viser_server.stop()


def test_rendering_stops_when_the_viewer_interrupts(trainer: Any) -> None:
    from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException, SetTrace

    lines = 0

    def interrupt(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += 1
        if lines > 2000:
            raise IOChangeException
        return interrupt

    camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
    with pytest.raises(IOChangeException), torch.no_grad(), SetTrace(interrupt):
        for _ in range(200):
            trainer.pipeline.model.get_outputs_for_camera(camera)


def test_rays_of_other_nerfstudio_tools_are_rendered_too(trainer: Any) -> None:
    camera = trainer.pipeline.datamanager.eval_dataset.cameras[0:1]
    camera.rescale_output_resolution(0.25)
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)
    model = trainer.pipeline.model.eval()
    before = threading.active_count()
    whole = model.get_outputs_for_camera_ray_bundle(rays)
    assert whole["rgb"].shape == (48, 48, 3)
    assert math.isclose(
        float(whole["accumulation"].mean()),
        float(model.get_outputs_for_camera(camera)["accumulation"].mean()),
        abs_tol=0.01,
    )
    assert threading.active_count() <= before + 2 * torch.get_num_threads()  # no thread left behind for each chunk
