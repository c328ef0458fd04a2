"""The tutorials run, offline and in empty folders; bars of progress and galleries are shown in the notebook."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts import notebooks

pytestmark = pytest.mark.slow


@pytest.fixture
def here() -> Iterator[None]:
    """The environment is put back."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(notebooks.ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    yield
    os.environ.clear()
    os.environ.update(before)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.usefixtures("here")
def test_a_tutorial_runs(source: Path) -> None:
    for package in ("jupytext", "nbclient", "ipykernel", "open_clip_train"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[notebooks]'")
    shown = outputs(notebooks.executed(source))
    assert shown and not [output for output in shown if output.output_type == "error"]
    if source.stem == "own_photos":
        pages = ["".join(output.get("data", {}).get("text/html", "")) for output in shown]
        assert [page for page in pages if page.count('src="data:image/png;base64,') == 10]
        bars = [output for output in shown if notebooks.is_progress(output)]
        assert [bar for bar in bars if "bilevel, 10 pairs" in str(bar) or "widget-view" in str(bar)]
