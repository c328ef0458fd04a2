"""Comparison: the verb and its result, a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vldistill.api.comparing import request_of, run_comparison
from vldistill.api.progress import reporter
from vldistill.cluster.options import Place
from vldistill.comparison.sweepfile import read_sweep
from vldistill.config import DataConfig, expand
from vldistill.config.plain import Plain, Record
from vldistill.errors import MissingExtraError
from vldistill.options.merge import merged, nested
from vldistill.options.parser import packaged_config
from vldistill.storage.files import digest, read_json, write_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Comparison:
    """The finished cells of a comparison; ``print`` shows the table.

    Args:
        run: its folder, with the table as ``table.md``, ``table.tex``, ``table.csv`` and ``table.json``.
        table: what ``table.json`` holds.
    """

    run: Path
    table: Mapping[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its rows as plain values."""
        return self.table["rows"]

    @property
    def failed(self) -> dict[str, str]:
        """The cells that failed, and why; the same call tries them again."""
        return self.table["failed"]

    def to_dict(self) -> dict[str, Plain]:
        """Plain values for JSON."""
        return dict(self.table)

    def to_pandas(self) -> pd.DataFrame:
        """The table as a data frame. Raises MissingExtraError without pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError("to_pandas needs the package pandas: pip install pandas. Or use rows.") from None
        return pd.read_csv(self.run / "table.csv")

    def __str__(self) -> str:
        return (self.run / "table.md").read_text(encoding="utf-8").rstrip()

    __repr__ = __str__


def compare(
    sweep: str | Path | Record,
    data: str | Path | None = None,
    *,
    run: str | Path | None = None,
    only: str = "*",
    published: str | None = None,
    smoke: bool = False,
    workers: int = 1,
    quiet: bool = False,
    **options: Plain,
) -> Comparison:
    """Run the cells of a sweep that are missing, each in a process of its own, and return the table.

    Args:
        sweep: a file, also one that comes with the package, or its content as a dictionary, e.g.
            ``{"base": "photos.yaml", "pairs": [20, 50], "methods": ["bilevel"]}``; see ``vldistill compare --help``.
        data: the data source of every cell.
        run: the folder; by default one in the cache, named by the sweep and the options.
        only: cells whose names match, e.g. ``*bitraj*``.
        published: show published rows too: ``auto``, or ``flickr8k``, ``flickr30k``, ``coco``.
        smoke: test that everything runs, small, on drawn scenes.
        workers: processes at a time.
        quiet: warnings only.
        options: of every cell, by dotted name (``**{"evaluate.seeds": 3}``) or by section.

    Raises:
        ConfigError: a sweep or an option that cannot be.
        Stopped: by Ctrl-C; finished cells are kept.
    """
    lines = reporter(quiet)
    given = merged(nested(options), nested({} if data is None else {"data.source": str(data)}))
    place = _place(sweep, given) if run is None else Path(run)
    if run is None:
        lines.info(f"run folder {place} (no run= was given)")
    request = request_of(
        read_sweep(_file(sweep, place), given), place, Place(workers=workers),
        only=only, published_rows=published, smoke=smoke,
    )  # fmt: skip
    run_comparison(request, lines)
    return Comparison(request.run, read_json(request.run / "table.json", "table"))


def _text(sweep: str | Path | Record) -> str:
    if isinstance(sweep, Mapping):
        return yaml.safe_dump(dict(sweep), sort_keys=False, allow_unicode=True)
    return Path(packaged_config(str(sweep), "sweep")).read_text(encoding="utf-8")


def _place(sweep: str | Path | Record, options: Record) -> Path:
    return Path(expand(DataConfig().cache)) / "runs" / f"compare-{digest(_text(sweep), options)}"


def _file(sweep: str | Path | Record, place: Path) -> Path:
    """The sweep's file; one that is given as a dictionary is written into the run folder."""
    if not isinstance(sweep, Mapping):
        return Path(packaged_config(str(sweep), "sweep"))
    path = place / "sweep.yaml"
    write_text(path, _text(sweep))
    return path
