"""The viewer's page without anything that it would fetch from the web, and kind to the processors that train."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

_ANALYTICS = re.compile(
    r"<script\b[^>]*googletagmanager[^>]*>\s*</script>|<script>(?:(?!</script>).)*gtag\(.*?</script>", re.S
)
_SCRIPT = "software_browser.js"
MENDED = (
    # A slow browser's resolution is lowered to a fifth, and stays there where every frame is slow.
    (re.compile(r"devicePixelRatio\*\(\.2\+\.8\*"), "devicePixelRatio*(.5+.5*"),
    # These call fewer hooks when they are hidden, for which React takes the whole page away.
    (re.compile(r"(function (?:Multi)?SliderComponent\([^)]*\)\{[^;]*;if\(!\w+\)return )(?=jsx)"),
     r"\1useMantineColorScheme(),"),
    (re.compile(r"(show_share_button===!1\)return )null"), r"\1useMantineColorScheme(),null"),
    (re.compile(r"(function PlotlyComponent\([^)]*\)\{if\(!\w+\)return )(?=jsx)"), r"\1useDisclosure(!1),"),
)  # fmt: skip
"""What is not as it should be in the program of viser 0.2.7's page, the version that nerfstudio asks for."""


def without_analytics(page: str) -> str:
    """An HTML page less its scripts of Google's tag manager."""
    return re.sub(r"<!--\s*Google tag.*?-->", "", _ANALYTICS.sub("", page), flags=re.S)


def _mended(program: str) -> str:
    for pattern, replacement in MENDED:
        program = pattern.sub(replacement, program)
    return program


def _link(file: Path, name: Path) -> None:
    try:
        name.symlink_to(file, target_is_directory=file.is_dir())
    except OSError:  # Windows without the right to make links
        (shutil.copytree if file.is_dir() else shutil.copy2)(file, name)


@functools.cache
def client_folder() -> Path:
    """A copy of viser's client with a page that stays on this machine; gone when the program ends."""
    import viser

    built = Path(viser.__file__).parent / "client" / "build"
    folder = Path(tempfile.mkdtemp(prefix="sasnet_viewer_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # By itself it would end ns-viewer without a chance to remove anything.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    (folder / "assets").mkdir()
    for entry in (*built.iterdir(), *(built / "assets").iterdir()):
        copy = folder / entry.relative_to(built)
        if entry.name == "index.html":
            page = without_analytics(entry.read_text(encoding="utf-8"))
            copy.write_text(page.replace("<head>", f'<head><script src="/{_SCRIPT}"></script>', 1), encoding="utf-8")
        elif entry.parent != built and entry.suffix == ".js":
            copy.write_text(_mended(entry.read_text(encoding="utf-8")), encoding="utf-8")
        elif entry.name != "assets":
            _link(entry, copy)
    _link(Path(__file__).with_name(_SCRIPT), folder / _SCRIPT)
    return folder


def serve_offline() -> None:
    """Let viewers that are opened from now on in this program serve that copy.

    viser's page loads Google's tag manager, and nerfstudio's title bar a logo, for everybody who opens it; installed
    files are left alone. The viewer is made by nerfstudio, in ns-train and in ns-viewer, so the server's constructor
    is the only place to say so.
    """
    from viser import GuiApi, infra

    original = infra.WebsockServer.__init__
    if getattr(original, "serves_offline", False):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, http_server_root: Path | None = None, **options: Any) -> None:
        if http_server_root is not None and (http_server_root / "index.html").is_file():
            page = (http_server_root / "index.html").read_text(encoding="utf-8")
            if without_analytics(page) != page:
                http_server_root = client_folder()
        original(self, *args, **options, http_server_root=http_server_root)  # type: ignore[misc]

    init.serves_offline = True  # type: ignore[attr-defined]
    infra.WebsockServer.__init__ = init  # type: ignore[method-assign]
    theme = GuiApi.configure_theme

    @functools.wraps(theme)
    def configure_theme(self: Any, *, titlebar_content: Any = None, **options: Any) -> None:
        theme(self, titlebar_content=None, **options)

    GuiApi.configure_theme = configure_theme  # type: ignore[method-assign]


def warn_if_open(viewer: Any) -> None:
    """Say so when the page can be opened, and training stopped, from the whole network: ns-viewer's own default."""
    if viewer.config.websocket_host in ("0.0.0.0", "::"):
        from nerfstudio.utils.rich_utils import CONSOLE

        CONSOLE.print(
            "The viewer listens on every network interface. For this machine alone: --viewer.websocket-host 127.0.0.1",
            style="bold yellow",
            highlight=False,
        )
