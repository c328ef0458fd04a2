"""The data of a comparison's cells: a table never mixes two versions of the same source.

Every evaluation records a fingerprint of each split. Results of early versions have none and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vldistill.comparison.cells import Cell
from vldistill.comparison.results import CellResult
from vldistill.errors import ConfigError

Results = Iterable[tuple[Cell, CellResult]]


def refuse_mixed(results: Results, run: Path) -> None:
    """Refuse cells of one source that were evaluated on different data; ``run`` is the comparison's folder.

    Raises:
        ConfigError: it names the cells and the remedy.
    """
    versions: dict[str, dict[str, dict[str, list[str]]]] = {}
    for cell, result in results:
        for split, fingerprint in result.evaluation.data.items():
            of_split = versions.setdefault(cell.source, {}).setdefault(split, {})
            of_split.setdefault(fingerprint, []).append(cell.id)
    for splits in versions.values():
        for split, cells in splits.items():
            if len(cells) > 1:
                found = "; ".join(f"{fingerprint}: {', '.join(names)}" for fingerprint, names in cells.items())
                raise ConfigError(
                    f"cells of this comparison are of different data, and one table cannot hold both. Fingerprints of "
                    f"the {split} split, and their cells: {found}. Delete {run / 'cells'}/CELL of those that are not "
                    f"of the present data, and run the same command again; or use another --run folder."
                )


def known_data(results: Results) -> dict[str, dict[str, str]]:
    """The fingerprint of each split, by source, of the cells that are finished."""
    known: dict[str, dict[str, str]] = {}
    for cell, result in results:
        known.setdefault(cell.source, {}).update(result.evaluation.data)
    return known
