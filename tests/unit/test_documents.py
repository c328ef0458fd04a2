"""What the documents and the help name is there: links, files of this repository, and commands that parse."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
from jsonargparse import ArgumentParser

from vldistill.cli import main
from vldistill.options.parser import build_parser

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "vldistill"
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "RELEASING")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
HELP = [PACKAGE / "commands" / "cross.py", PACKAGE / "comparison" / "sweepfile.py"]
SHELL = re.compile(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^ *```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(vldistill [^`]* --run [^`]*)`")
PATH = re.compile(r"`((?:src|docs|benchmarks|tests|examples)/[^\s`]*)`")
PACKAGED = re.compile(r"(?<![\w/])configs/[\w/]*\.yaml")
MODULE = re.compile(r"`([\w/]+\.py)`")
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(text: str) -> Iterator[str]:
    """Every ``vldistill STAGE ...`` in the shell blocks of a document, and those with a run folder in its lines."""
    for block in [*SHELL.findall(text), *INLINE.findall(text)]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
            words.whitespace_split = True
            after = itertools.dropwhile(lambda word: word != "vldistill", words)
            if found := list(itertools.takewhile(lambda word: not set(word) <= set("|&;<>()"), after)):
                yield shlex.join(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/**/*.py")}
    assert not [path for path in PATH.findall(text) if not any(ROOT.glob(path.rstrip("/")))]
    assert not [path for path in PACKAGED.findall(text) if not (PACKAGE / path).is_file()]
    assert not [path for path in MODULE.findall(text) if not any(f"/{file}".endswith(f"/{path}") for file in files)]


@pytest.mark.parametrize("document", [*DOCUMENTS, *HELP], ids=name)
def test_image_towers_that_are_named_without_a_file_have_published_weights(document: Path) -> None:
    named = re.findall(r"\{name: (\w+)[,}]", document.read_text(encoding="utf-8"))
    assert not [tower for tower in named if timm.is_model(tower) and not timm.is_model_pretrained(tower)]


def test_the_help_says_values_and_no_names_of_code() -> None:
    text = build_parser("distill", None)[0].format_help()
    assert "outer iterations" in text and not re.findall(r":\w+:`[^`]*`", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_what_python_blocks_import_is_there(document: Path) -> None:
    for block in PYTHON.findall(document.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("vldistill"):
                home = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(home, alias.name)]


class Parsed(BaseException):
    """The command line was understood; nothing of it is run."""


@pytest.mark.parametrize(
    "command", sorted({command for path in DOCUMENTS for command in commands(path.read_text(encoding="utf-8"))})
)
def test_commands_parse(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)[1:]
    if words[0] == "ls":  # without a parser, and done at once
        assert main(words) == 0
        return
    real = ArgumentParser.parse_args

    def parse_and_stop(self: ArgumentParser, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        raise Parsed

    for placeholder in ("CONFIG", "CONFIG.yaml"):
        shutil.copy(PACKAGE / "configs" / "scenes.yaml", tmp_path / placeholder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        assert not main(words)
