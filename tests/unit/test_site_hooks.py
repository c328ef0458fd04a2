"""Links of the repository's documents as links between pages of the site."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import site_hooks

ROOT = Path(__file__).resolve().parents[2]
CODE = "https://example.org/code/"


@pytest.mark.parametrize(
    ("page", "text", "on_the_site"),
    [
        ("index.md", "[a](docs/data.md)", "[a](data.md)"),
        ("index.md", "[a](docs/methods/README.md#x)", "[a](methods/README.md#x)"),
        ("index.md", "![a](docs/assets/a.png)", "![a](assets/a.png)"),
        ("methods/bitraj.md", "[a](../../README.md#results)", "[a](../index.md#results)"),
        ("methods/bitraj.md", "[a](../speed.md) [b](lors.md)", "[a](../speed.md) [b](lors.md)"),
        ("gallery.md", "[a](tutorials/embeddings.ipynb)", "[a](tutorials/embeddings.md)"),
        ("tutorials/embeddings.md", "[a](../data.md) [b](search.ipynb)", "[a](../data.md) [b](search.md)"),
        ("contributing.md", "[a](docs/cluster.md)", "[a](cluster.md)"),
        ("data.md", "[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("data.md", "[a](https://example.org) [b](#here)", "[a](https://example.org) [b](#here)"),
        ("data.md", "```\n[a](../README.md)\n```", "```\n[a](../README.md)\n```"),
    ],
)
def test_links_between_documents(page: str, text: str, on_the_site: str) -> None:
    assert site_hooks.linked(page, text, None) == on_the_site


def test_a_notebook_is_a_page_with_its_outputs() -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}},
        {"output_type": "execute_result", "data": {"text/html": ["<div>\n", "\n</div>"], "text/plain": "a set"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Text."]},
        {"cell_type": "code", "source": ["print(1)\n", "show()"], "outputs": outputs},
    ]
    assert site_hooks.notebook_page("name", {"cells": cells}).split("\n\n") == [
        "# Title",
        "Text.",
        '<p><a href="../name.ipynb" download>This page as a notebook</a></p>',
        "```python\nprint(1)\nshow()\n```",
        "````text\none\ntwo\n````",
        '<p class="output"><img alt="figure" src="data:image/png;base64,QUJD"></p>',
        '<div class="output"><div>  </div></div>',
        "",
    ]


def test_links_to_code_lead_to_the_repository_where_it_is_known() -> None:
    text = "[a test](../tests/unit/test_x.py)"
    assert site_hooks.linked("leaderboard.md", text, None) == "a test"
    assert site_hooks.linked("leaderboard.md", text, CODE) == f"[a test]({CODE}blob/main/tests/unit/test_x.py)"


def test_public_names_are_those_that_the_package_exports() -> None:
    import vldistill

    names = site_hooks.public_names(ROOT / "src" / "vldistill")
    assert set(names) == set(vldistill.__all__) - {"__version__"}
    assert f"::: {names['DistilledSet']}.DistilledSet\n" in site_hooks.reference(ROOT / "src" / "vldistill")
