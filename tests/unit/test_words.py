"""Help, errors and docstrings use the field's words: one word a meaning, and none of the private ones of before."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vldistill"
DIALECT = {
    r"judge[ds]?|judging": "evaluate",
    r"anew": "again, fresh, redrawn",
    r"apart": "separately",
    r"told|hears?": "returned, printed, reported, receives",
    r"go(es)? on|going on": "resume, continue",
    r"looks? at val|looks at test": "validation",
    r"walkers?|walks|walking": "persistent students, goes through",
    r"so many": "number of",
    r"by heart": "overfitting",
    r"likewise": "also",
    r"made again": "recomputed",
    r"settled?|settles": "resolve",
    r"left aside": "ignored",
    r"laid over": "merged",
}


@cache
def texts_of_the_source() -> list[tuple[Path, int, str]]:
    return [(path, line, text) for path in sorted(SOURCE.rglob("*.py")) for line, text in texts(path)]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a file that a user may read: docstrings, messages, help; with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("word", sorted(DIALECT))
def test_no_private_words_in_help_errors_and_docstrings(word: str) -> None:
    pattern = re.compile(rf"\b(?:{word})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {text[max(0, match.start() - 40) : match.end() + 20]!r}"
        for path, line, text in texts_of_the_source()
        if (match := pattern.search(text))
    ]
    assert not found, f"say {DIALECT[word]}:\n" + "\n".join(found)


def test_the_words_are_found_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""Sets are judged\n\nanew."""\nname = "judged"\nraise ValueError(f"{name} goes on here")\n')
    lines = [(line, text) for line, text in texts(path)]
    assert [line for line, _ in lines] == [1, 5] and "judged" in lines[0][1] and "goes on" in lines[1][1]
