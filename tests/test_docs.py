"""README.md and docs/*.md: Python blocks run, commands parse, and what they name exists."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
NS_PROGRAMS = ("ns-train", "ns-eval", "ns-viewer", "ns-render", "ns-export")


class Block(NamedTuple):
    """A fenced block: language, text, line of the fence, and the reason in ``<!-- not run: reason -->`` above it."""

    language: str
    text: str
    line: int
    not_run: str


def blocks_of(text: str) -> Iterator[Block]:
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = re.fullmatch(r"```(\w+)", lines[number])
        if fence:
            end = lines.index("```", number)
            reason = re.fullmatch(r"<!-- not run: (.+) -->", lines[number - 1])
            yield Block(fence[1], "\n".join(lines[number + 1 : end]), number + 1, reason[1] if reason else "")
            number = end
        number += 1


def commands_of(text: str) -> list[list[str]]:
    """The words of each command of a shell block, comments and continued lines resolved."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def quoted_commands(text: str) -> list[list[str]]:
    """Commands in running text: `sasnet extract --normals`."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    starts = ("python scripts/", "sasnet ", "sdf-tools ", *(f"{name} " for name in NS_PROGRAMS))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [shlex.split(span) for span in spans if span.startswith(starts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the blocks read: a mesh ``scan.ply`` and points without normals ``scans.npz``."""
    import torch
    import trimesh

    import sdf_tools

    path = tmp_path_factory.mktemp("docs")
    ball = trimesh.creation.icosphere(subdivisions=3, radius=2.0)
    mesh = sdf_tools.Mesh(torch.from_numpy(ball.vertices.copy()), torch.from_numpy(ball.faces.copy()))
    sdf_tools.save_mesh(mesh, path / "scan.ply")
    points = sdf_tools.PointCloud(sdf_tools.sample_surface(mesh, 3000, seed=0).points)
    sdf_tools.save_points(points, path / "scans.npz")
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_python_blocks_run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in blocks_of(path.read_text()):
        if block.language == "python":
            code = ast.parse(block.text)
            if block.not_run:  # what it imports is there all the same
                code.body = [node for node in code.body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(code, f"{path.name}, block at line {block.line}", "exec"), names)
        if block.language == "diff":  # what it adds can be imported
            lines = [line[1:].strip() for line in block.text.splitlines() if re.match(r"\+\s*(from|import) ", line)]
            if lines:
                pytest.importorskip("nerfstudio")
            exec("\n".join(lines), names)
    if path == ROOT / "docs" / "pipeline.md":
        assert names["network"].parameter_count() == 117_573
        assert float((names["mesh"].vertices.norm(dim=1) - 0.4).abs().max()) < 1e-3
    if path == ROOT / "docs" / "networks.md":
        assert names["small"] == {"preset": "image", "width": 51}


def parse(words: list[str]) -> None:
    """Read a command as its program would, without doing it; SystemExit where it does not parse."""
    program, *rest = words
    if program in NS_PROGRAMS:
        _parse_nerfstudio(program, rest)
    elif program == "sasnet":
        _parse_sasnet(rest)
    elif program == "sdf-tools":
        import tyro

        from sdf_tools.cli import Command

        tyro.cli(Command, args=rest)  # type: ignore[call-overload]
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.M), f"no target '{rest[0]}'"
    elif program == "python" and rest[0].startswith("scripts/"):
        assert (ROOT / rest[0]).is_file(), f"no file '{rest[0]}'"
        if rest[1:]:
            text = _script_help(rest[0])
            assert rest[1].startswith("--") or all(word in text for word in rest[1].split("|")), f"no '{rest[1]}'"
            _in_help(text, rest[1:])
    elif program == "python" and rest[0] == "-c":
        compile(rest[1], "python -c", "exec")
    elif program == "pytest":
        missing = [word for word in rest if word.startswith("tests/") and not (ROOT / word).exists()]
        assert not missing, f"no {missing}"
    elif program in ("pip", ".venv/bin/pre-commit"):
        extras = re.findall(r"\[([\w,]+)\]", " ".join(rest))
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
        assert set(",".join(extras).split(",")) - {""} <= set(known)
    else:
        raise AssertionError(f"'{program}' is not a program of this project")


def _parse_sasnet(words: list[str]) -> None:
    import tyro

    from sasnet_ns.commands.cli import COMMANDS, _module

    if words[0] == "--help":
        return
    assert words[0] in COMMANDS, f"sasnet has no command '{words[0]}'"
    if words[1:]:
        tyro.cli(_module(words[0]).Arguments, args=words[1:])


def _parse_nerfstudio(program: str, words: list[str]) -> None:
    pytest.importorskip("nerfstudio")
    import tyro

    import sasnet_ns.methods as methods  # before nerfstudio's own modules, which cannot be imported in any order

    if program == "ns-train":
        config = getattr(methods, words[0].replace("-", "_")).config
        tyro.cli(tyro.conf.FlagConversionOff[type(config)], default=config, args=words[1:])
        return
    from nerfstudio.scripts import eval as ns_eval
    from nerfstudio.scripts import exporter, render
    from nerfstudio.scripts.viewer.run_viewer import RunViewer

    kinds: dict[str, Any] = {
        "ns-eval": ns_eval.ComputePSNR,
        "ns-viewer": tyro.conf.FlagConversionOff[RunViewer],
        "ns-render": render.Commands,
        "ns-export": exporter.Commands,
    }
    tyro.cli(kinds[program], args=words)


def _script_help(script: str) -> str:
    command = [sys.executable, str(ROOT / script), "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _in_help(text: str, words: list[str]) -> None:
    unknown = [word for word in words if word.startswith("--") and not re.search(rf"{word}\b", text)]
    assert not unknown, f"unknown: {unknown}"


def problem(words: list[str], *, whole: bool = True) -> str:
    """Why a command does not parse; empty if it does. What is not whole may lack required options and values."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            if whole or words[0] not in ("sasnet", "sdf-tools"):
                parse(words)
            else:
                with contextlib.suppress(SystemExit):
                    parse([*words[:2], "--help"])
                _in_help(printed.getvalue(), words[2:])
    except SystemExit as end:
        return "" if not end.code else f"{shlex.join(words)}: {printed.getvalue()}"
    except AssertionError as error:
        return f"{shlex.join(words)}: {error}"
    return ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_parse(path: Path) -> None:
    text = path.read_text()
    blocks = [words for block in blocks_of(text) if block.language == "bash" for words in commands_of(block.text)]
    quoted = [words for words in quoted_commands(text) if "--" in " ".join(words)]
    distinct = {tuple(words): whole for found, whole in ((quoted, False), (blocks, True)) for words in found}
    troubles = [problem(list(words), whole=whole) for words, whole in distinct.items()]
    assert [trouble for trouble in troubles if trouble] == []


def test_the_options_of_choosing_are_options() -> None:
    """The table of options: each is one of ns-train sasnet-sdf, or of the command that it begins with."""
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "choosing.md").read_text(), re.M)
    words = [shlex.split(row) for row in rows if "..." not in row and "--" in row]
    assert len(words) >= 8
    required = {"extract": ["--load-config", "x"]}
    for row in words:
        command = ["ns-train", "sasnet-sdf", *row] if row[0].startswith("--") else [*row, *required[row[1]]]
        assert problem(command) == ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"\b(?:tests|scripts|configs|docs|sasnet_ns|sdf_tools)/[\w/.]*\w\.(?:py|yaml|md|png)\b", text)
    missing = [name for name in links if not (path.parent / name).exists()]
    missing += [name for name in named if not (ROOT / name).exists() and not (path.parent / name).exists()]
    assert missing == []


def test_what_is_wrong_is_found() -> None:
    text = "<!-- not run: needs data -->\n```python\nimport no_such_module\n```\n```bash\nmake demo  # all\n```\n"
    first, second = blocks_of(text)
    assert first.not_run == "needs data" and second.not_run == ""
    assert commands_of("a --b \\\n  c  # d\n\n# e\nf 'g h'") == [["a", "--b", "c"], ["f", "g h"]]
    wrong = (
        "sasnet extract --load-config x --resolutoin 3",
        "sasnet extrakt --load-config x",
        "sdf-tools info",
        "sdf-tools sample a.ply --output-path b.ply --method nose",
        "make nothing",
        "python scripts/benchmark.py kernls",
        "python scripts/no_such.py",
        "pip install '.[nerf]'",
        "rm -rf x",
    )
    assert [command for command in wrong if not problem(shlex.split(command))] == []
    assert problem(shlex.split("sasnet extract --load-config x --resolution 3")) == ""
    assert problem(["sasnet", "extract", "--level"], whole=False) == ""
    assert "--levl" in problem(["sasnet", "extract", "--levl"], whole=False)


def test_the_version_is_written_once_and_the_changelog_has_it() -> None:
    import sasnet_ns

    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([\d.]+)\] - (unreleased|\d{4}-\d\d-\d\d)$", text, re.M)
    assert versions[0][0] == sasnet_ns.__version__
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    for name in ("pyproject.toml", "CITATION.cff", "README.md"):
        assert f'"{sasnet_ns.__version__}"' not in (ROOT / name).read_text()


def test_the_citation_has_what_the_format_asks_for() -> None:
    import yaml

    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(content)
    paper = content["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Feng", "Aldana", "Novello", "De Floriani"]
    assert paper["year"] == 2026 and {"type", "title", "authors", "conference"} <= set(paper)
