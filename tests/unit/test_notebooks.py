"""The notebooks of the tutorials are what their sources say, small, without errors and without this machine's paths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
SOURCES = sorted(FOLDER.glob("*.py"))
MOST_BYTES = 150_000


def read(source: Path) -> dict[str, Any]:
    return json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))


def test_every_source_has_its_notebook_and_every_notebook_its_source() -> None:
    assert len(SOURCES) == 6
    assert [path.with_suffix(".ipynb") for path in SOURCES] == sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source(source: Path) -> None:
    written = re.split(r"^# %%(?: \[markdown\])?\n", source.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for text, cell in zip(written, read(source)["cells"], strict=True):
        shown = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            shown = "\n".join(f"# {line}".rstrip() for line in shown.splitlines())
        assert text.strip() == shown.strip()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_was_run_in_order_and_is_small(source: Path) -> None:
    path = source.with_suffix(".ipynb")
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in read(source)["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size < MOST_BYTES and "/tmp" not in text and str(Path.home()) + "/" not in text
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert cells[-1]["outputs"]
