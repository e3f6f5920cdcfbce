"""A headless chromium on the viewer's page, for screenshots and measurements: what scripts and tests share."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from typing import Any

FLAGS = [
    "--no-sandbox", "--use-angle=swiftshader", "--use-gl=angle", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
"""For machines without a GPU and without a screen; nothing that the browser would ask the web by itself."""


def find_chromium() -> str | None:
    """The program, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path is not None), None)


@contextlib.contextmanager
def chromium(program: str) -> Iterator[Any]:
    """Playwright's handle of a browser that is open while the block runs.

    Args:
        program: name of the script, for its messages.

    Raises:
        SystemExit: playwright or the browser is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit(f"{program}: needs playwright; install it with 'pip install playwright'.") from None
    path = find_chromium()
    if path is None:
        raise SystemExit(f"{program}: needs a browser; install it with 'apt-get install chromium'.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keep_inside(page: Any) -> list[str]:
    """Block every request of a page that leaves this machine; the list fills with their addresses."""
    outside: list[str] = []

    def route(asked: Any) -> None:
        here = asked.request.url.startswith(("http://127.0.0.1", "data:", "blob:", "file:"))
        if not here:
            outside.append(asked.request.url)
        (asked.continue_ if here else asked.abort)()

    page.route("**/*", route)
    return outside


def choose(page: Any, value: str, option: str) -> None:
    """Set the dropdown that shows ``value`` to ``option``."""
    page.locator(f"input[value='{value}']").first.click()
    page.get_by_role("option", name=option, exact=True).first.click()


def tick(page: Any, label: str) -> None:
    """Click the checkbox beside a label."""
    index = page.evaluate(
        """label => [...document.querySelectorAll('input[type=checkbox]')].findIndex(box => {
               const near = box.closest('.mantine-Flex-root') || box.parentElement.parentElement.parentElement;
               return near.innerText.includes(label);
           })""",
        label,
    )
    page.locator("input[type=checkbox]").nth(index).click()
