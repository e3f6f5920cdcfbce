"""The screenshots of docs/viewer.md, taken from the real viewer in chromium.

    python scripts/viewer_screenshots.py [NAME ...] [--runs outputs/screenshots] [--data ../shared/data]

Trains what is not in the folder of runs yet (three shapes with everything at its default, about a minute each on two
quiet cores, and a short run on photographs, some minutes), opens the page of ns-viewer on each run, works the panel as
a user does, and writes docs/images/viewer_NAME.png. Pictures whose data is not there are left out, and said.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import browser as web
import numpy as np
import torch
from PIL import Image

from sdf_tools.io.writing import write_atomically
from sdf_tools.pictures.plots import picture_sheet

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
_VIEW = {"width": 1180, "height": 740}
_PATIENCE = 600.0  # seconds
_FRAMES = """() => new Promise(done => {
    let left = 12; const tick = () => { left -= 1; left > 0 ? requestAnimationFrame(tick) : done(); }; tick();
})"""


@dataclass(frozen=True)
class Run:
    """A run to look at.

    Attributes:
        data: argument of ``--data``; ``{data}`` stands for the folder of shared data.
        options: of ns-train, the method first.
        parser: nerfstudio's data parser with its options, last on the command line.
    """

    data: str
    options: tuple[str, ...] = ("sasnet-sdf",)
    parser: tuple[str, ...] = ()


RUNS = {
    "armadillo": Run("armadillo"),
    "lucy": Run("{data}/meshes/lucy.ply"),
    "levels": Run("armadillo", ("sasnet-sdf", "--pipeline.model.objective.band-dropout", "0.1")),
    "fox": Run(
        "{data}/scenes/fox",
        ("sasnet-nerfacto", "--max-num-iterations", "1000", "--pipeline.datamanager.camera-res-scale-factor", "0.5"),
        ("instant-ngp-data",),
    ),
}


def folder_of(name: str, runs: Path) -> Path:
    """Where a run lies."""
    return runs / name / RUNS[name].options[0] / "run"


def train(name: str, runs: Path, data: Path) -> Path | None:
    """The config.yml of a run, trained if it is not there; None if its data is missing."""
    run, config = RUNS[name], folder_of(name, runs) / "config.yml"
    if (config.parent / "nerfstudio_models").is_dir():
        return config
    source = run.data.format(data=data)
    if "{data}" in run.data and not Path(source).exists():
        print(f"viewer_screenshots: {name} is left out, there is no '{source}'.", flush=True)
        return None
    program = str(Path(sys.executable).with_name("ns-train"))
    where = ("--output-dir", str(runs), "--experiment-name", name, "--timestamp", "run", "--vis", "tensorboard")
    subprocess.run([program, *run.options, "--data", source, *where, *run.parser], cwd=ROOT, check=True)
    return config


@contextlib.contextmanager
def opened(browser: Any, config: Path) -> Iterator[Look]:
    """What ns-viewer shows of a finished run, at rest."""
    from nerfstudio.scripts.viewer import run_viewer
    from nerfstudio.utils.eval_utils import eval_setup

    run, pipeline, _, step = eval_setup(config, eval_num_rays_per_chunk=None, test_mode="test")
    run.vis, run.viewer.websocket_host, run.viewer.websocket_port = "viewer", "127.0.0.1", web.free_port()
    # In this process, so that it can be asked whether it has drawn everything.
    threading.Thread(target=run_viewer._start_viewer, args=(run, pipeline, step), daemon=True).start()
    page = browser.new_page(viewport=_VIEW)
    page.set_default_timeout(1000 * _PATIENCE)
    outside = web.keep_inside(page)
    page.route("**/assets/index-*.js", _at_full_resolution)
    page.route("**/software_browser.js", lambda asked: asked.abort())  # smooth edges, every frame
    control: Any = pipeline.model.viewer_control
    wait(lambda: getattr(control, "shown_in", None) is not None and control.shown_in.ready)
    page.goto(f"http://127.0.0.1:{run.viewer.websocket_port}")
    page.get_by_text("Finished run").first.wait_for()
    yield Look(page, control)
    page.close()
    if control.session is not None:
        control.session.stop()
    control.shown_in.viser_server.stop()
    if outside:
        raise SystemExit(f"viewer_screenshots: the page asked for {outside[0]}.")


def wait(condition: Callable[[], Any]) -> None:
    """Until it is so."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("viewer_screenshots: the viewer did not answer in time; is the machine busy?")
        time.sleep(0.1)


@dataclass(frozen=True)
class Look:
    """A page and the viewer behind it.

    Attributes:
        page: of playwright.
        control: of the run's model.
    """

    page: Any
    control: Any

    def pixels(self, canvas: bool = False) -> np.ndarray:
        """(H, W, 3) bytes of the page, or of the canvas beside the panel."""
        picture = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))
        return picture[:, : self.panel_left()] if canvas else picture

    def panel_left(self) -> int:
        """Pixels of the canvas that the panel leaves free."""
        script = "() => document.querySelector('.mantine-ScrollArea-root').getBoundingClientRect().x"
        return int(self.page.evaluate(script))

    def settle(self) -> np.ndarray:
        """The page's pixels once the viewer has drawn everything and the browser has shown it."""
        wait(self._drawn)
        session = self.control.session
        if session is not None:
            scale = session.status.scale
            for said in (f"{session.status.vertices:,} vertices", *([scale.title] if scale is not None else [])):
                self.page.get_by_text(said).first.wait_for()
        before, now = None, self.pixels()
        while before is None or not np.array_equal(now, before):
            self.page.evaluate(_FRAMES)
            before, now = now, self.pixels()
        return now

    def _drawn(self) -> bool:
        if self.control.session is not None:
            return bool(self.control.session.at_rest)
        machines = list(self.control.shown_in.render_statemachines.values())
        return any(machine.stage_times and machine.stage_times[-1][0] >= 512 for machine in machines)

    def slide(self, slider: int, key: str, times: int = 1) -> None:
        """Press a key on one of the panel's sliders, counted from the top."""
        self.page.locator(".mantine-Slider-thumb").nth(slider).focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def asked(self, **settings: Any) -> None:
        """Wait until the viewer has heard what was clicked."""
        shown = self.control.session
        wait(lambda: all(getattr(shown.settings, name) == value for name, value in settings.items()))


def _at_full_resolution(asked: Any) -> None:
    """viser draws coarser where frames are late, as they are in a browser without a graphics unit."""
    response = asked.fetch()
    text, found = re.subn(r"window\.devicePixelRatio\*\(\.\d\+\.\d\*\w+\)", "window.devicePixelRatio", response.text())
    if not found:
        raise SystemExit("viewer_screenshots: viser's page has changed; see _at_full_resolution.")
    asked.fulfill(response=response, body=text)


def draw_slice(look: Look) -> np.ndarray:
    """A plane through the shape with level lines, the surface before it cut away."""
    look.page.get_by_role("button", name="z", exact=True).click()
    web.tick(look.page, "Show slice")
    look.asked(slice=True)
    return look.settle()


def draw_mask(look: Look) -> np.ndarray:
    """The mask of the highest frequencies."""
    look.page.get_by_role("button", name="Colour by mask").click()
    look.asked(color="mask")
    return look.settle()


def draw_error(look: Look) -> np.ndarray:
    """The surface by its distance from the input."""
    web.choose(look.page, "shaded", "error")
    look.asked(color="error")
    return look.settle()


def draw_levels(look: Look) -> np.ndarray:
    """No band, two bands and all of them, side by side."""
    bands = int(look.control.session.field.band_count)
    tiles, titles = [], []
    for count in (0, bands // 2, bands):
        look.slide(3, "Home")
        look.slide(3, "ArrowRight", count)
        look.asked(bands=None if count == bands else count)
        look.settle()
        tiles.append(look.pixels(canvas=True))
        titles.append(f"Detail {count} of {bands}")
    return side_by_side(tiles, titles)


def side_by_side(tiles: list[np.ndarray], titles: list[str]) -> np.ndarray:
    """(H, W, 3) bytes of pictures in a row, less the white that they all have around them."""
    rows, columns = (np.stack(tiles).min(axis=(0, 3)) < 245).nonzero()
    window = np.s_[max(0, rows.min() - 15) : rows.max() + 15, max(0, columns.min() - 15) : columns.max() + 15]
    cut: list[Any] = [torch.from_numpy(tile[window] / np.float32(255)) for tile in tiles]
    return (picture_sheet([cut], [titles]) * 255).round().byte().numpy()


SHOTS: dict[str, tuple[str, Callable[[Look], np.ndarray]]] = {
    "slice": ("armadillo", draw_slice),
    "mask": ("armadillo", draw_mask),
    "error": ("lucy", draw_error),
    "levels": ("levels", draw_levels),
    "fox": ("fox", Look.settle),
}


def write(picture: np.ndarray, name: str) -> None:
    """As PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    path = IMAGES / f"viewer_{name}.png"
    write_atomically(path, buffer.getvalue())
    print(f"{path.relative_to(ROOT)}: {len(buffer.getvalue()) // 1000} kB", flush=True)


def main() -> None:
    """Train what is missing, take the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SHOTS], help=f"which: {', '.join(SHOTS)}; all if left out")
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs" / "screenshots", help="where runs are kept")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="Lucy and the fox")
    arguments = parser.parse_args()
    with web.chromium("viewer_screenshots") as browser:
        for name in arguments.names or SHOTS:
            run, draw = SHOTS[name]
            config = train(run, arguments.runs.resolve(), arguments.data.resolve())
            if config is not None:
                with opened(browser, config) as look:
                    write(draw(look), name)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("viewer_screenshots: interrupted; what is trained is kept.")
