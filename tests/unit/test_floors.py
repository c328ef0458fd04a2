"""The floors of the package, as the README's table gives them: an import goes down, never up or sideways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "vldistill"
AT_THE_TOP = {"__init__.py", "__main__.py", "cli.py", "errors.py", "registry.py", "version.py", "py.typed"}
ABOVE = {"__init__", "__main__"}  # what a user imports or runs: nothing of the package imports them


def floors() -> dict[str, int]:
    """The floor of every file and folder at the top, 0 the highest."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    rows = re.findall(r"^\| ((?:`[\w.]+/?` ?)+)\|", section, re.MULTILINE)
    return {
        name.removesuffix("/").removesuffix(".py"): floor
        for floor, row in enumerate(rows)
        for name in re.findall(r"`([^`]+)`", row)
    }


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything of the package that a file imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name whole paths"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name


def test_every_folder_has_a_floor_and_nothing_else_lies_at_the_top() -> None:
    there = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    folders = {name for name in there if (PACKAGE / name).is_dir()}
    assert there - folders == AT_THE_TOP
    assert folders | {"cli", "errors", "registry", "version"} == set(floors())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own, level = path.relative_to(PACKAGE).parts[0].removesuffix(".py"), floors()
    if own in ABOVE:
        return
    wrong = []
    for line, name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "vldistill" and other != own and level.get(other, -1) <= level[own]:
            wrong.append(f"line {line} imports {name}")
    assert not wrong


def test_no_import_circle_within_a_folder() -> None:
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = {found for _, found in imported(ast.parse(path.read_text(encoding="utf-8")))}
        targets = {found if found in modules else found.rpartition(".")[0] for found in targets}
        edges[name] = targets & modules.keys() - {name, "vldistill"}
    left = dict(edges)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle, or above one: {sorted(left)}"
