"""Run the tutorials and write them as notebooks with what they print: ``make notebooks``.

Each is written as ``docs/tutorials/NAME.py``, with cells after ``# %%``; ``NAME.ipynb`` beside it is made here.

    python scripts/notebooks.py [NAME ...]
"""

# The tools of the tutorials are an extra of their own.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "tutorials"
SECONDS = 600  # of one cell
NOWHERE = "http://127.0.0.1:9"  # a proxy that is not there: what reaches for the network fails


def sources() -> list[Path]:
    """The tutorials, as they are written."""
    return sorted(FOLDER.glob("*.py"))


def executed(source: Path) -> Any:
    """The notebook of a source, with the outputs of its cells. Raises nbclient's CellExecutionError."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(source, fmt="py:percent")
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE)
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")
        os.environ |= proxies | {"VLDISTILL_CACHE": cache, "HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1,localhost"}
        work = Path(folder) / "work"
        work.mkdir()
        client = NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(work)}}
        )
        made = client.execute()
        return nbformat.reads(nbformat.writes(made).replace(cache, "~/.cache/vldistill"), 4)


def tidied(notebook: Any) -> Any:
    """The notebook without what differs from run to run, or is no result: times, ids, progress, warnings."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = _joined([output for output in cell.outputs if not is_progress(output)])
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """The outputs with neighbouring prints as one."""
    found: list[Any] = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def is_progress(output: Any) -> bool:
    """Whether an output is what bars and warnings leave."""
    widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return widget or output.get("name") == "stderr"


def main() -> None:
    """Run the tutorials that are named, or all."""
    import nbformat

    names = sys.argv[1:] or [source.stem for source in sources()]
    for name in names:
        began = time.monotonic()
        notebook = tidied(executed(FOLDER / f"{name}.py"))
        target = FOLDER / f"{name}.ipynb"
        target.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(f"{target}: {target.stat().st_size:,} bytes, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
