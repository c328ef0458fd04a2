"""The header of a set's card: YAML that the Hugging Face hub and ``datasets`` read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from vldistill.distilled.shown import FOLDER

LINE = "---"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def header(record: Mapping[str, Any]) -> str:
    """The header between its two lines, without a licence: the user says it when the set is published.

    Args:
        record: what ``set.json`` holds.
    """
    method = record["info"].get("method")
    tags = ["vldistill", "dataset-distillation", "image-text-retrieval", *([str(method)] if method else [])]
    pictures = record["space"] == "pixels"
    entries = {
        "pretty_name": record["name"],
        "task_categories": ["image-to-text" if pictures else "feature-extraction"],
        "size_categories": [next((name for limit, name in SIZES if record["pairs"] < limit), "n>1M")],
        "tags": tags,
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": f"{FOLDER}/*"}]},
        ],
    }
    return written(entries)


def written(entries: Mapping[str, Any]) -> str:
    """Entries as a header between its two lines."""
    return f"{LINE}\n{yaml.safe_dump(dict(entries), sort_keys=False, allow_unicode=True)}{LINE}"


def entries_of(card: str) -> tuple[dict[str, Any], str]:
    """The entries of a card's header, and the text below it; no entries where it has none that can be read."""
    if not card.startswith(f"{LINE}\n"):
        return {}, card
    head, found, text = card.removeprefix(f"{LINE}\n").partition(f"\n{LINE}\n")
    try:
        entries = yaml.safe_load(head) if found else None
    except yaml.YAMLError:
        entries = None
    return (entries, text) if isinstance(entries, dict) else ({}, card)
