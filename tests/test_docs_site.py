"""The documentation as a site: it builds strictly, its pages fetch nothing from the web, and the notebook runs."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook" / "raw_scan_to_mesh.ipynb"


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(folder / "mkdocs.yml"), "-d", str(site)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def needs_mkdocs() -> None:
    for library in ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter", "latex2mathml"):
        pytest.importorskip(library, reason="needs the documentation's tools: pip install 'sasnet-ns[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_mkdocs()
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_whole(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    names = {path.relative_to(site).as_posix() for path in pages}
    assert {"index.html", "quickstart.html", "mathematics.html", "contributing.html", "changelog.html"} <= names
    for path in pages:
        text = path.read_text(encoding="utf-8")
        outside = re.findall(r'<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//[^"]*"', text)
        outside += re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|preload)"[^>]+href="(?:https?:)?//[^"]*"', text)
        assert outside == [], (path.name, outside)
    fitting = (site / "api" / "fitting.html").read_text(encoding="utf-8")
    assert "Fit a signed distance" in fitting or "Fit a network to the signed distance" in fitting
    assert "Optimisation steps; the schedule spans them." in fitting  # options with their docstrings
    assert ":func:" not in fitting and ":class:" not in fitting
    formulas = (site / "mathematics.html").read_text(encoding="utf-8")
    assert formulas.count("<math ") >= 8 and "```" not in formulas


def test_the_search_works_from_disk(site: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    import browser as web

    pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
    if web.find_chromium() is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with web.chromium("the search") as chromium:
        page = chromium.new_page()
        outside = web.keep_inside(page)
        page.goto((site / "index.html").as_uri())
        page.locator("input[name=query]").first.click()
        page.keyboard.type("marching cubes", delay=20)
        page.locator(".md-search-result__item").first.wait_for(timeout=120_000)
        assert "api/extraction.html" in str(page.locator(".md-search-result__item a").first.get_attribute("href"))
        assert outside == []


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    needs_mkdocs()
    (tmp_path / "docs").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "docs_hooks.py", tmp_path / "scripts")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).write_text("# Nothing\n")
    config = (ROOT / "mkdocs.yml").read_text()
    config = config.split("\nnav:")[0].split("\nplugins:")[0] + "\nmarkdown_extensions: [toc]\n"
    options = re.search(r"^validation:\n(?:  .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert options is not None
    (tmp_path / "mkdocs.yml").write_text(config + options[0])
    for text, fine in (("[here](index.md#start)", True), ("[gone](gone.md)", False), ("[gone](index.md#gone)", False)):
        (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n{text}\n")
        done = build(tmp_path, tmp_path / "site")
        assert (done.returncode == 0) == fine, (text, done.stdout, done.stderr)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r":\s*([\w/]+\.(?:md|ipynb))$", text.split("\nnav:")[1], re.M))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()}
    pages = {name for name in there if name.endswith((".md", ".ipynb"))}
    assert named == pages | {"contributing.md", "changelog.md"}


def test_pages_from_the_root_keep_their_links() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from docs_hooks import links_from_root, on_page_content
    finally:
        sys.path.pop(0)
    text = "[a](docs/networks.md) [b](CHANGELOG.md) [c](https://example.org) [d](examples/04.py) [e](#here)"
    assert links_from_root(text) == "[a](networks.md) [b](changelog.md) [c](https://example.org) d [e](#here)"
    html = "<p>see :func:<code>~sdf_tools.spatial.find</code> and :class: <code>Mesh</code></p>"
    assert on_page_content(html) == "<p>see <code>find</code> and <code>Mesh</code></p>"


def _cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_kept_with_its_pictures() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 600_000
    assert not re.search(r"/(?:home|root|work|tmp|Users)/", text)  # no machine's paths
    outputs = [output for cell in _cells() for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not any(output["output_type"] == "error" for output in outputs)
    code = ["".join(cell["source"]) for cell in _cells() if cell["cell_type"] == "code"]
    for source in code:
        ast.parse(source)
    imports = [line for source in code for line in source.splitlines() if re.match(r"(from|import) ", line)]
    exec("\n".join(imports), {})


def test_the_notebook_runs_at_a_small_size() -> None:
    """Every cell in turn, with less of everything: what the slow test does in a kernel and to the end."""
    smaller = {
        "30_000, seed": "8_000, seed",
        "resolution=128": "resolution=48",
        "steps=700": "steps=40",
        "pool_size=200_000": "pool_size=20_000",
        "resolution=220": "resolution=60",
        "resolution=192": "resolution=48",
        "samples=50_000, iou_samples=200_000": "samples=5_000, iou_samples=10_000",
        "(320, 320)": "(64, 64)",
    }
    cells = ["".join(cell["source"]) for cell in _cells() if cell["cell_type"] == "code"]
    assert [old for old in smaller if old not in "\n".join(cells)] == []
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        for source in cells:
            for old, new in smaller.items():
                source = source.replace(old, new)
            exec(compile(source, NOTEBOOK.name, "exec"), names)
    assert names["first"].iou > 0.9 and names["second"].iou > 0.7  # 0.81 after so few steps
    assert names["mesh"].faces.shape[0] > 1000 and names["views"][0].shape == (64, 64, 3)


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat and nbclient: pip install nbclient ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="needs a kernel: pip install ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    printed = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    overlaps = [float(value) for value in re.findall(r"IoU ([\d.]+), dist", printed[-1])]
    assert len(overlaps) == 2 and min(overlaps) > 0.95
