"""The viewer's page without anything that it would fetch from the web."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

_ANALYTICS = re.compile(
    r"<script\b[^>]*googletagmanager[^>]*>\s*</script>|<script>(?:(?!</script>).)*gtag\(.*?</script>", re.S
)


def without_analytics(page: str) -> str:
    """An HTML page less its scripts of Google's tag manager."""
    return re.sub(r"<!--\s*Google tag.*?-->", "", _ANALYTICS.sub("", page), flags=re.S)


@functools.cache
def client_folder() -> Path:
    """A copy of viser's client with a page that stays on this machine; gone when the program ends."""
    import viser

    built = Path(viser.__file__).parent / "client" / "build"
    folder = Path(tempfile.mkdtemp(prefix="sasnet_viewer_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for entry in built.iterdir():
        if entry.name == "index.html":
            page = without_analytics(entry.read_text(encoding="utf-8"))
            (folder / entry.name).write_text(page, encoding="utf-8")
            continue
        try:
            (folder / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
        except OSError:  # Windows without the right to make links
            (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, folder / entry.name)
    return folder


def serve_offline() -> None:
    """Let viewers that are opened from now on in this program serve that copy.

    viser's page loads Google's tag manager, for everybody who opens it; installed files are left alone. The viewer is
    made by nerfstudio, in ns-train and in ns-viewer, so the server's constructor is the only place to say so.
    """
    from viser import infra

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
