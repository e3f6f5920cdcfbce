"""The imports of both packages, held against the tables of rooms in docs/architecture.md."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sdf_tools", "sasnet_ns")
OUTSIDE = ("nerfstudio",)
"""Libraries that a row has to name before its room may import them."""


class Row(NamedTuple):
    """A row of the tables: its place from the top, and what its rooms may import."""

    place: int
    allowed: frozenset[str]


class Import(NamedTuple):
    """An import statement: the module that it names, where it stands, and whether only type checkers read it."""

    target: str
    where: str
    typing_only: bool


def read_tables(text: str) -> dict[str, Row]:
    """Room (``sdf_tools.io``) to its row. A table belongs to the package named by the heading above it."""
    rows: dict[str, Row] = {}
    package = ""
    for line in text.splitlines():
        if line.startswith("#"):
            named = re.fullmatch(r"#+ `(\w+)`", line)
            package = named[1] if named else ""
        elif package and line.startswith("| `"):
            rooms, _, allowed = line.strip("|").split(" | ")
            names = re.findall(r"`([\w.]+)`", allowed)
            outside = (*PACKAGES, *OUTSIDE)
            full = frozenset(name if name.split(".")[0] in outside else f"{package}.{name}" for name in names)
            row = Row(len(rows), full)
            rows |= {f"{package}.{room}": row for room in re.findall(r"`(\w+)`", rooms)}
    return rows


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted name to file; a package's lazy surface (``__init__.pyi``) is read instead of its ``__init__.py``."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            stub = path.with_suffix(".pyi")
            found[name] = stub if stub.is_file() else path
    return found


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> list[Import]:
    """Every import of a module, wherever it stands in it, by the module that it ends at."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            while target not in modules and target.split(".")[0] in PACKAGES and "." in target:
                target = target.rsplit(".", 1)[0]
            if target.split(".")[0] in (*PACKAGES, *OUTSIDE) and target != name:
                found.append(Import(target, f"{name}, line {node.lineno}", id(node) in typing_only))
    return found


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def broken_arrows(rows: dict[str, Row], imports: dict[str, list[Import]]) -> list[str]:
    """Imports that no row allows, rows that point down the page, rooms without a row and rows without a room."""
    problems = [f"{room} has no row" for room in sorted({room_of(m) for m in imports} - set(rows) - set(PACKAGES))]
    problems += [f"the row of {room} is about nothing" for room in sorted(set(rows) - {room_of(m) for m in imports})]
    for room, row in rows.items():
        for other in sorted(row.allowed & set(rows)):
            if rows[other].place >= row.place:
                problems.append(f"the row of {room} allows {other}, which stands below it")
    for module, found in imports.items():
        room = room_of(module)
        if room not in rows:  # a package's own surface, and what has been reported above
            continue
        for target, where, _ in found:
            wanted = room_of(target) if target.split(".")[0] in PACKAGES else target.split(".")[0]
            same = wanted in rows and rows[wanted].place == rows[room].place
            if not same and not {wanted, wanted.split(".")[0]} & rows[room].allowed:
                problems.append(f"{where}: {room} may not import {wanted}")
    return problems


def circles(imports: dict[str, list[Import]]) -> list[list[str]]:
    """Groups of modules that import each other, lazily or not; what only type checkers read does not count."""
    edges = {module: sorted({i.target for i in found if not i.typing_only}) for module, found in imports.items()}
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:  # Tarjan, SIAM Journal on Computing 1972
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in edges.get(module, []):
            if target not in order:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in edges:
        if module not in order:
            visit(module)
    return found


@functools.cache
def house() -> dict[str, list[Import]]:
    return all_imports(ROOT)


def all_imports(root: Path) -> dict[str, list[Import]]:
    modules = modules_of(root)
    return {name: imports_of(name, path, modules) for name, path in modules.items()}


def test_the_house_is_as_drawn() -> None:
    rows = read_tables((ROOT / "docs" / "architecture.md").read_text())
    assert len(rows) > 25
    assert broken_arrows(rows, house()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = house()
    assert len(imports) > 100 and sum(map(len, imports.values())) > 500
    assert circles(imports) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    rooms: dict[str, list[Import]] = {}
    for module, found in house().items():
        if module not in PACKAGES:
            mine = [i._replace(target=room_of(i.target)) for i in found]
            rooms.setdefault(room_of(module), []).extend(i for i in mine if i.target != room_of(module))
    assert circles(rooms) == []


TABLES = """
### `sdf_tools`

| room | what lives there | may import |
| --- | --- | --- |
| `errors` | exceptions | |
| `io` | files | `errors` |
| `mesh` | meshes | `errors` `io` |

### `sasnet_ns`

| room | what lives there | may import |
| --- | --- | --- |
| `models` | models | `sdf_tools` `nerfstudio` |
"""


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("sdf_tools/io/ply.py", "def f():\n    from sdf_tools.mesh import clean", "may not import sdf_tools.mesh"),
        ("sdf_tools/io/ply.py", "from ..mesh import clean", "may not import sdf_tools.mesh"),
        ("sdf_tools/io/ply.py", "if TYPE_CHECKING:\n    from sdf_tools import mesh", "may not import sdf_tools.mesh"),
        ("sdf_tools/io/ply.py", "import sdf_tools", "may not import sdf_tools"),
        ("sdf_tools/io/ply.py", "import sasnet_ns.models", "may not import sasnet_ns.models"),
        ("sdf_tools/io/ply.py", "from nerfstudio.utils import writer", "may not import nerfstudio"),
        ("sdf_tools/attic.py", "", "sdf_tools.attic has no row"),
        ("sasnet_ns/models/a.py", "import nerfstudio\nfrom sdf_tools.mesh import clean\nimport sdf_tools", None),
    ],
)
def test_broken_arrows_are_found(tmp_path: Path, file: str, text: str, problem: str | None) -> None:
    for name in ("sdf_tools", "sdf_tools/io", "sdf_tools/mesh", "sasnet_ns", "sasnet_ns/models"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "sdf_tools" / "errors.py").write_text("")
    (tmp_path / "sdf_tools" / "mesh" / "clean.py").write_text("from sdf_tools.io import load")
    rows = read_tables(TABLES)
    assert broken_arrows(rows, all_imports(tmp_path)) == []
    (tmp_path / file).write_text(text)
    problems = broken_arrows(rows, all_imports(tmp_path))
    assert (not problems) if problem is None else (len(problems) == 1 and problems[0].endswith(problem))


def test_rows_that_point_down_and_circles_are_found(tmp_path: Path) -> None:
    turned = read_tables(TABLES.replace("| exceptions | |", "| exceptions | `mesh` |"))
    assert turned["sdf_tools.errors"].allowed == {"sdf_tools.mesh"}
    assert any("which stands below it" in problem for problem in broken_arrows(turned, {}))
    (tmp_path / "sdf_tools").mkdir()
    (tmp_path / "sdf_tools" / "__init__.py").write_text("")
    (tmp_path / "sdf_tools" / "a.py").write_text("from sdf_tools.b import x")
    (tmp_path / "sdf_tools" / "b.py").write_text("def f():\n    import sdf_tools.a")
    assert circles(all_imports(tmp_path)) == [["sdf_tools.a", "sdf_tools.b"]]
    (tmp_path / "sdf_tools" / "b.py").write_text("if TYPE_CHECKING:\n    import sdf_tools.a")
    assert circles(all_imports(tmp_path)) == []
