"""The viewer in a real browser: pixels of the canvas while a run trains, after it, and the file that is sent."""

from __future__ import annotations

import hashlib
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nerfstudio")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

import browser as web  # noqa: E402

pytestmark = pytest.mark.skipif(web.find_chromium() is None, reason="needs chromium: apt-get install chromium")
Make = Callable[..., Any]
_PATIENCE = 150.0  # seconds; a busy machine makes everything slow, never wrong


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as program:
        chromium = program.chromium.launch(executable_path=web.find_chromium(), args=web.FLAGS)
        yield chromium
        chromium.close()


class Page:
    """A browser's tab on a viewer; requests that leave this machine are blocked and remembered."""

    def __init__(self, browser: Any, address: str, panel: int = 330) -> None:
        self.panel = panel
        self.page = browser.new_page(viewport={"width": 900, "height": 600}, accept_downloads=True)
        self.outside = web.keep_inside(self.page)
        self.page.goto(address, timeout=1000 * _PATIENCE, wait_until="domcontentloaded")
        self.page.wait_for_selector("canvas", timeout=1000 * _PATIENCE)

    def canvas(self) -> np.ndarray:
        """(H, W, 3) pixels."""
        from PIL import Image

        # Waits: when the first scene arrives the page takes its canvas away and makes another.
        box = self.page.locator("canvas").first.bounding_box(timeout=1000 * _PATIENCE)
        box["width"] = min(box["width"], 900 - self.panel - box["x"])  # the canvas goes on behind the panel
        picture = self.page.screenshot(clip=box, timeout=1000 * _PATIENCE)
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))

    def until(self, condition: Callable[[np.ndarray], bool], what: str) -> np.ndarray:
        """Wait for pixels."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            picture = self.canvas()
            if condition(picture):
                return picture
            time.sleep(0.2)
        raise AssertionError(f"never seen: {what}")

    def until_changed(self, before: np.ndarray, what: str) -> np.ndarray:
        return self.until(lambda picture: _difference(picture, before) > 0.004, what)

    def sees(self, text: str) -> None:
        """Wait for words of the panel, which come a moment after the picture."""
        self.page.get_by_text(text).first.wait_for(timeout=1000 * _PATIENCE)

    def choose(self, value: str, option: str) -> None:
        web.choose(self.page, value, option)

    def tick(self, label: str) -> None:
        web.tick(self.page, label)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels that are not the same; all of them if a colour bar has made room for itself."""
    if a.shape != b.shape:
        return 1.0
    return float((np.abs(a.astype(int) - b.astype(int)).max(axis=-1) > 12).mean())


def _covered(picture: np.ndarray) -> float:
    """Share of pixels that are not the white background."""
    return float((picture.min(axis=-1) < 235).mean())


def _colourful(picture: np.ndarray) -> float:
    spread = picture.max(axis=-1).astype(int) - picture.min(axis=-1)
    return float((spread > 60).mean())


def _blue(picture: np.ndarray) -> float:
    return float((picture[..., 2].astype(int) - picture[..., 0] > 40).mean())


@pytest.fixture
def training(make_trainer: Make) -> Iterator[Any]:
    """A run that goes on until the test ends it."""
    # Reports every few steps would see the overlap jump about during the warm-up, and take it for divergence.
    trainer = make_trainer(
        vis="viewer", viewer__websocket_port=web.free_port(), max_num_iterations=100_000, steps_per_save=1_000_000,
        steps_per_geometry_eval=1_000,
    )  # fmt: skip
    thread = threading.Thread(target=trainer.train, daemon=True)
    thread.start()
    yield trainer
    trainer.stop_training = True
    trainer.training_state = "training"
    thread.join(30)
    trainer.pipeline.model.viewer_control.session.stop()
    trainer.viewer_state.viser_server.stop()


def test_the_page_follows_a_run(training: Any, browser: Any) -> None:
    """What the default suite checks: the surface is there, changes by itself, and nothing is fetched from the web."""
    tab = Page(browser, f"http://127.0.0.1:{training.config.viewer.websocket_port}")
    tab.until(lambda picture: 0.03 < _covered(picture) < 0.6, "the surface")
    assert tab.page.get_by_text("Training").count()
    _changes_by_itself(tab, training, 4)
    assert tab.outside == []
    tab.page.close()


def test_a_browser_that_draws_in_software_rests(browser: Any) -> None:
    """Few frames while nothing moves, every one while the pointer does, and a canvas that is not smoothed."""
    import viser

    from sasnet_ns.viewer.offline_client import serve_offline

    serve_offline()
    server = viser.ViserServer(host="127.0.0.1", port=web.free_port(), verbose=False)
    try:
        tab = Page(browser, f"http://127.0.0.1:{server.get_port()}", panel=0)
        time.sleep(4)  # what a page draws while it opens
        count = """seconds => new Promise(done => {
            let frames = 0; const end = performance.now() + 1000 * seconds;
            const tick = () => { frames += 1; performance.now() < end ? requestAnimationFrame(tick) : done(frames); };
            requestAnimationFrame(tick);
        })"""
        assert tab.page.evaluate(count, 3.0) <= 10
        tab.page.evaluate("setInterval(() => dispatchEvent(new Event('pointermove')), 100)")
        assert tab.page.evaluate(count, 3.0) > 10
        context = "document.querySelector('canvas[data-engine]').getContext('webgl2').getContextAttributes().antialias"
        assert tab.page.evaluate(context) is False
        assert tab.outside == []
        tab.page.close()
    finally:
        server.stop()


def _changes_by_itself(tab: Page, training: Any, pictures: int) -> None:
    """So many different canvases while nobody touches the page, with the true step beside them."""
    session = training.pipeline.model.viewer_control.session
    seen, began = set(), time.monotonic()
    while len(seen) < pictures and time.monotonic() - began < _PATIENCE:
        seen.add(hashlib.sha256(tab.canvas().tobytes()).hexdigest())
        time.sleep(0.3)
    told = [(kind, step, round(when - session.updates[0][2], 1)) for kind, step, when in session.updates]
    assert len(seen) >= pictures, (len(seen), told)
    assert 0 <= training.completed_steps - session.status.shown_step < 2000


@pytest.mark.slow
def test_a_run_in_training(training: Any, browser: Any, tmp_path: Path) -> None:
    tab = Page(browser, f"http://127.0.0.1:{training.config.viewer.websocket_port}")
    session = training.pipeline.model.viewer_control.session
    tab.until(lambda picture: 0.03 < _covered(picture) < 0.6, "the surface")
    _changes_by_itself(tab, training, 10)
    assert {kind for kind, _, _ in session.updates} >= {"extraction", "following"}
    assert tab.page.get_by_role("button", name="Pause training").count()

    # At rest everything else is exactly comparable.
    tab.page.get_by_role("button", name="Pause training").click()
    assert _until(lambda: session.at_rest)
    shaded = tab.canvas()
    assert _colourful(shaded) < 0.01

    tab.page.get_by_role("button", name="front", exact=True).click()
    tab.until_changed(shaded, "another view")

    session_before = session.settings.plane_point
    _colour_slice_and_mask(tab)
    assert session.settings.plane_point != session_before

    # Ray traced: stages sharpen.
    tab.choose("mask", "shaded")
    tab.choose("browser", "ray tracing")
    machine = next(iter(training.viewer_state.render_statemachines.values()))
    assert _until(lambda: machine.stage_times and machine.stage_times[-1][0] >= 512)
    heights = [height for height, _, _ in machine.stage_times]
    assert min(heights) < 512
    traced = tab.until(lambda picture: 0.03 < _covered(picture) < 0.6, "a traced picture")
    tab.page.get_by_role("button", name="top", exact=True).click()
    tab.until_changed(traced, "the view from above, traced")
    tab.choose("ray tracing", "browser")

    size = _extract_and_download(tab, tmp_path)
    assert 3.5 < size < 4.5
    assert tab.outside == []
    tab.page.close()


def _colour_slice_and_mask(tab: Page) -> None:
    """Error colours with their bar, a slice and its way through the shape, one mask and the next."""
    tab.choose("shaded", "error")
    tab.until(lambda picture: _colourful(picture) > 0.02, "error colours")
    tab.sees("distance from the input")
    assert tab.page.get_by_alt_text("colour bar").count()

    tab.tick("Show slice")
    sliced = tab.until(lambda picture: _blue(picture) > 0.05, "the slice, blue outside the shape")
    slider = tab.page.locator(".mantine-Slider-thumb").nth(1)
    slider.focus()
    for _ in range(20):
        tab.page.keyboard.press("ArrowRight")
    moved = tab.until_changed(sliced, "the slice somewhere else")
    tab.tick("Show slice")

    before = tab.until_changed(moved, "the surface without slice")
    assert _colourful(before) > 0.02
    tab.page.get_by_role("button", name="Colour by mask").click()
    masked = tab.until_changed(before, "a mask")
    tab.sees("mask 4 of the embedding")
    thumb = tab.page.locator(".mantine-Slider-thumb").nth(2)
    thumb.focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.until_changed(masked, "the mask before")
    tab.sees("mask 3 of the embedding")


def _extract_and_download(tab: Page, folder: Path) -> float:
    """Extract with few cells, download and load; the longest side of the mesh."""
    from sdf_tools.io.loading import load

    tab.choose("256", "64")
    tab.page.get_by_role("button", name="Extract", exact=True).click()
    tab.page.get_by_role("button", name="Download", exact=True).wait_for(timeout=1000 * _PATIENCE)
    with tab.page.expect_download(timeout=1000 * _PATIENCE) as download:
        tab.page.get_by_role("button", name="Download", exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    mesh: Any = load(path)
    assert len(mesh.faces) > 1000
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())


def _until(condition: Callable[[], Any], seconds: float = _PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_run_that_has_ended_has_no_training_buttons(make_trainer: Make, browser: Any) -> None:
    trainer = make_trainer(
        vis="viewer", viewer__websocket_port=web.free_port(), max_num_iterations=300, steps_per_geometry_eval=300
    )
    trainer.train()
    trainer.viewer_state.training_complete()
    try:
        tab = Page(browser, f"http://127.0.0.1:{trainer.config.viewer.websocket_port}")
        tab.until(lambda picture: 0.03 < _covered(picture) < 0.6, "the surface")
        tab.sees("Training done")
        tab.sees("step 300")
        assert not tab.page.get_by_role("button", name="Pause training").count()
        assert not tab.page.get_by_text("Train Speed").count()
        assert tab.outside == []
        tab.page.close()
    finally:
        trainer.pipeline.model.viewer_control.session.stop()
        trainer.viewer_state.viser_server.stop()


@pytest.mark.slow
def test_ns_viewer_shows_the_same(make_trainer: Make, browser: Any, tmp_path: Path) -> None:
    trainer = make_trainer(max_num_iterations=300, steps_per_geometry_eval=300)
    trainer.train()
    port = web.free_port()
    program = Path(sys.executable).with_name("ns-viewer")
    options = ["--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port)]
    log = tmp_path / "viewer.log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [str(program), "--load-config", str(trainer.base_dir / "config.yml"), *options], stdout=file, stderr=file
        )
    try:
        assert _until(lambda: process.poll() is not None or _listens(port)), log.read_text()
        assert process.poll() is None, log.read_text()
        tab = Page(browser, f"http://127.0.0.1:{port}")
        surface = tab.until(lambda picture: 0.03 < _covered(picture) < 0.6, "the surface")
        assert not tab.page.get_by_role("button", name="Pause training").count()
        tab.page.get_by_role("button", name="front", exact=True).click()
        tab.until_changed(surface, "another view")
        _colour_slice_and_mask(tab)
        assert 3.5 < _extract_and_download(tab, tmp_path) < 4.5
        assert tab.outside == []
        tab.page.close()
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_method_for_photographs(make_photo_trainer: Make, browser: Any) -> None:
    trainer = make_photo_trainer("sasnet_neus_facto", steps=100_000)
    thread = threading.Thread(target=trainer.train, daemon=True)
    thread.start()
    try:
        tab = Page(browser, f"http://127.0.0.1:{trainer.config.viewer.websocket_port}")
        rendered = tab.until(lambda picture: float(picture.std()) > 8, "a rendered picture")
        tab.until_changed(rendered, "the picture of a later step")
        assert not tab.page.get_by_text("gl_z_buf_depth").count()
        tab.page.get_by_role("tab", name="Surface").click()
        tab.choose("volume rendering", "browser")
        session = trainer.pipeline.model.viewer_control.session
        assert _until(lambda: session._surface is not None)
        mesh = tab.until(lambda picture: float(picture.std()) > 8, "the surface as a mesh")
        tab.page.get_by_role("button", name="top", exact=True).click()
        tab.until_changed(mesh, "the mesh from above")
        assert tab.outside == []
        tab.page.close()
    finally:
        trainer.stop_training = True
        trainer.training_state = "training"
        thread.join(30)


@pytest.mark.slow
def test_a_page_opens_from_disk(browser: Any, tmp_path: Path) -> None:
    import torch

    from sasnet_ns.networks import SignedDistanceField
    from sasnet_ns.training.recipe import Recipe
    from sasnet_ns.training.sphere_start import start_as_sphere
    from sasnet_ns.viewer.page import write_page

    torch.manual_seed(0)
    options = {"preset": "sdf", "embedding_width": 64, "hidden_widths": (64, 64), "groups": (4, 4)}
    field = SignedDistanceField("sasnet", options)
    start_as_sphere(field, Recipe(learning_rate=1e-2), 1000, radius=0.3)
    path = write_page(field, tmp_path / "ball.html", resolution=32, masks=2, slices=5, slice_size=40)
    tab = Page(browser, path.as_uri(), panel=0)
    plain = tab.until(lambda picture: _covered(picture) > 0.02, "the surface")
    tab.page.select_option("#look", label="gradient")
    coloured = tab.until_changed(plain, "the gradient")
    tab.page.select_option("#axis", "z")
    tab.until_changed(coloured, "a slice")
    assert tab.outside == []
    tab.page.close()
