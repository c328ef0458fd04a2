"""Columns from a file beside the data: of every image by name, for filters, quotas and ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vldistill.config.plain import Plain
from vldistill.data.side_files import IMAGE_COLUMNS, read_table
from vldistill.errors import ConfigError, unknown


@dataclass(frozen=True)
class SideTable:
    """Columns of the images of a split.

    Args:
        path: of the file.
        columns: by name, (N,) values each as texts; empty where the file has no row of an image.
        found: (N,) bool, which images have a row.
    """

    path: Path
    columns: Mapping[str, np.ndarray]
    found: np.ndarray

    @staticmethod
    def read(path: Path, names: Sequence[str]) -> SideTable:
        """The rows of ``path`` (csv, tsv, jsonl or parquet) for the images of these names.

        Raises:
            ConfigError: a file that is missing or no table, has no column of names, or no row of any image.
        """
        columns = read_table(path, "select.columns")
        key = next((name for name in IMAGE_COLUMNS if name in columns), None)
        if key is None:
            raise ConfigError(
                f"select.columns {path} has the columns {', '.join(columns) or 'none'}; expected one of "
                f"{', '.join(IMAGE_COLUMNS)} with the names of images. Rename one."
            )
        image = matched(columns[key], names)
        rows = np.flatnonzero(image >= 0)[::-1]  # of several rows about an image the first one counts
        place = np.full(len(names), -1, np.int64)
        place[image[rows]] = rows
        found = place >= 0
        if not found.any():
            first = str(columns[key][0]) if len(columns[key]) else "nothing"
            raise ConfigError(
                f"select.columns {path}: no row is about an image of the data. Its column {key} holds {first!r}, "
                f"images are named {names[0]!r}."
            )
        taken = {name: np.where(found, np.array(values, object)[place], "") for name, values in columns.items()}
        return SideTable(path, taken, found)

    def texts(self, name: str) -> np.ndarray:
        """A column (N,) of texts. Raises ConfigError with the nearest names."""
        if name not in self.columns:
            raise ConfigError(unknown(f"column of {self.path}", name, self.columns))
        return np.array([str(value) for value in self.columns[name]], object)

    def numbers(self, name: str) -> np.ndarray | None:
        """A column (N,) float64 with NaN for what is empty; None where it holds other texts."""
        try:
            return np.array([float(value) if str(value).strip() else np.nan for value in self.texts(name)], np.float64)
        except ValueError:
            return None


def matched(asked: Sequence[Plain], names: Sequence[str]) -> np.ndarray:
    """For each name that was ``asked`` for the image it means, (K,) int64; -1 where there is none.

    Names are compared as they are, then without folders, then without their ending too, where that is unique.
    """
    out = np.full(len(asked), -1, np.int64)
    for shorten in (str, _file, _stem):
        if (out >= 0).all():
            break
        known: dict[str, int] = {}
        for place, name in enumerate(names):
            short = shorten(name)
            known[short] = -1 if short in known else place
        for row in np.flatnonzero(out < 0).tolist():
            out[row] = known.get(shorten(str(asked[row])), -1)
    return out


def _file(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[0]
