"""What mkdocs does beside its own work: files of the repository's root as pages, and formulas without JavaScript."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site to the files that they are."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside ``docs/``."""
    from mkdocs.structure.files import File

    for page, name in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=links_from_root(text)))
    return files


def links_from_root(text: str) -> str:
    """Links of a file in the root as they are from ``docs/``; the name alone where the target is no page."""

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        if "://" in target or target.startswith("#"):
            return found[0]
        inside = {name: page for page, name in PAGES.items()}.get(target, target)
        if inside == target and not target.startswith("docs/"):
            return label
        return f"[{label}]({inside.removeprefix('docs/')})"

    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", link, text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the root lead to their pages; blocks of ``math`` are MathML, which browsers draw themselves."""
    for page, name in PAGES.items():
        markdown = markdown.replace(f"](../{name})", f"]({page})")
    return re.sub(r"^```math\n(.*?)^```$", _formula, markdown, flags=re.M | re.S)


def _formula(found: re.Match[str]) -> str:
    return f'<div class="math">{mathml(found[1])}</div>'


def on_page_content(html: str, **_: Any) -> str:
    """Names in docstrings as mkdocs shows code: without Sphinx's roles and without a path that begins with ``~``."""
    html = re.sub(r":(?:func|class|meth|mod|attr|data|exc):\s?(?=<code>)", "", html)
    return re.sub(r"<code>~[\w.]*?(\w+)</code>", r"<code>\1</code>", html)


def mathml(formula: str) -> str:
    """LaTeX as a block of MathML."""
    from latex2mathml.converter import convert

    return convert(" ".join(formula.split()), display="block")
