"""Which data the cells of a comparison are of: a table never mixes two versions of the same source.

Every evaluation records a fingerprint of each split. Results without one, of before there were any, are taken as they
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vldistill.comparison.cells import Cell
from vldistill.errors import ConfigError

Results = Iterable[tuple[Cell, Mapping[str, Any]]]


def data_of_result(result: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprint of each split that a cell was judged on; empty where its result does not say."""
    found = result.get("evaluation", {}).get("data")
    return dict(found) if isinstance(found, Mapping) else {}


def refuse_mixed(results: Results, run: Path) -> None:
    """Refuse cells of one source whose data were not the same, as they are in the comparison's folder ``run``.

    Raises:
        ConfigError: it names the cells and the remedy.
    """
    versions: dict[str, dict[str, dict[str, list[str]]]] = {}
    for cell, result in results:
        for split, fingerprint in data_of_result(result).items():
            of_split = versions.setdefault(cell.source, {}).setdefault(split, {})
            of_split.setdefault(fingerprint, []).append(cell.id)
    for splits in versions.values():
        for split, cells in splits.items():
            if len(cells) > 1:
                told = "; ".join(f"{fingerprint}: {', '.join(names)}" for fingerprint, names in cells.items())
                raise ConfigError(
                    f"cells of this comparison are of different data, and one table cannot hold both. Fingerprints of "
                    f"the {split} split, and their cells: {told}. Delete {run / 'cells'}/CELL of those that are not "
                    f"of the data as they are now, which are then done anew, or use another --run folder."
                )


def known_data(results: Results) -> dict[str, dict[str, str]]:
    """The fingerprint of each split, by source, of the cells that are finished."""
    known: dict[str, dict[str, str]] = {}
    for cell, result in results:
        known.setdefault(cell.source, {}).update(data_of_result(result))
    return known
