"""The examples run."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vldistill as vd

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_on_a_set.py"
COLOURS = ("red", "green", "blue", "yellow", "white", "black")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty plain photos, each with a caption beside it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        colour = COLOURS[number % 6]
        Image.new("RGB", (20 + number, 30), colour).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"a {colour} wall, number {number}\n")
    return folder


def test_the_example_stands_on_public_names_alone() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} == {"sys", "vldistill"}


def test_training_on_a_set_gives_a_student_that_searches_and_is_kept(
    photos: Path, vldistill: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "student"
    words = ("--method", "bilevel", "--iterations", 1, "--bilevel.steps", 2, "--pairs", 4, "--quiet")
    source = ("--data.source", f"{photos}?val=0.2&test=0.2")
    assert vldistill("distill", "--config", config, "--run", run, *source, *words).code == 0
    given = [sys.executable, str(SCRIPT), str(run / "sets" / "bilevel-4-s0"), str(photos), str(out), "a red wall"]
    done = subprocess.run(given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "mean_recall=" in done.stdout and "'a red wall' among 30 photos" in done.stdout
    found = vd.Student.load(out).search("a red wall", photos, quiet=True)
    assert found.paths[0] in done.stdout
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "nowhere", *given[3:]])
    with pytest.raises(SystemExit, match=r"^error: nowhere is not a distilled set"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
