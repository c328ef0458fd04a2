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
        ("contributing.md", "[a](docs/cluster.md)", "[a](cluster.md)"),
        ("data.md", "[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("data.md", "[a](https://example.org) [b](#here)", "[a](https://example.org) [b](#here)"),
        ("data.md", "```\n[a](../README.md)\n```", "```\n[a](../README.md)\n```"),
    ],
)
def test_links_between_documents(page: str, text: str, on_the_site: str) -> None:
    assert site_hooks.linked(page, text, None) == on_the_site


def test_links_to_code_lead_to_the_repository_where_it_is_known() -> None:
    text = "[a test](../tests/unit/test_x.py)"
    assert site_hooks.linked("leaderboard.md", text, None) == "a test"
    assert site_hooks.linked("leaderboard.md", text, CODE) == f"[a test]({CODE}blob/main/tests/unit/test_x.py)"


def test_public_names_are_those_that_the_package_exports() -> None:
    import vldistill

    names = site_hooks.public_names(ROOT / "src" / "vldistill")
    assert set(names) == set(vldistill.__all__) - {"__version__"}
    assert f"::: {names['DistilledSet']}.DistilledSet\n" in site_hooks.reference(ROOT / "src" / "vldistill")
