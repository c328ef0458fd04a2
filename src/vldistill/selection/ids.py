"""Lists of chosen pairs for other tools: csv, parquet, DataComp's sorted uids, keys of WebDataset and img2dataset."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vldistill.data.containers import require_parquet
from vldistill.errors import ConfigError
from vldistill.selection.columns import SideTable
from vldistill.storage.files import atomic, write_text

UID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
UIDS = np.dtype("u8,u8")


@dataclass(frozen=True)
class ChosenPair:
    """A pair as ``pairs.json`` records it: the name of its image, its caption, and the rows of both in the source."""

    image: str
    caption: str
    image_row: int
    caption_row: int


@dataclass(frozen=True)
class Chosen:
    """Chosen pairs, in order, and the columns that a file gives of their images."""

    pairs: Sequence[ChosenPair]
    table: SideTable | None = None

    def column(self, name: str) -> list[str] | None:
        """A column of the table for these pairs; None where there is none."""
        if self.table is None or name not in self.table.columns:
            return None
        values = self.table.texts(name)
        return [str(values[pair.image_row]) for pair in self.pairs]

    @property
    def uids(self) -> list[str]:
        """The uids: a column ``uid``, or names of images that are uids. Raises ConfigError."""
        found = self.column("uid") or [sample_key(pair.image) for pair in self.pairs]
        check_uids(found)
        return found


def check_uids(found: Sequence[str]) -> None:
    """Refuse what are no uids of DataComp. Raises ConfigError."""
    wrong = next((uid for uid in found if not UID.fullmatch(uid)), None)
    if wrong is not None:
        raise ConfigError(
            f"select.ids npy writes uids of 32 hexadecimal digits, but there is {wrong!r}. Give a file with the "
            f"columns image and uid by select.columns, or write another list, such as csv."
        )


def sample_key(name: str) -> str:
    """The key of a WebDataset sample: the name of its file up to the first dot."""
    return PurePosixPath(name).name.partition(".")[0]


def _write_csv(chosen: Chosen, path: Path) -> None:
    text = io.StringIO()
    rows = csv.DictWriter(text, ["rank", *ChosenPair.__dataclass_fields__], lineterminator="\n")
    rows.writeheader()
    rows.writerows({"rank": rank, **asdict(pair)} for rank, pair in enumerate(chosen.pairs))
    write_text(path, text.getvalue())


def _write_parquet(chosen: Chosen, path: Path) -> None:
    columns: dict[str, list[object]] = {"rank": list(range(len(chosen.pairs)))}
    for name in ChosenPair.__dataclass_fields__:
        columns[name] = [getattr(pair, name) for pair in chosen.pairs]
    _table(columns, path)


def _table(columns: Mapping[str, list[object]], path: Path) -> None:
    parquet = require_parquet()
    import pyarrow

    with atomic(path) as temporary:
        parquet.write_table(pyarrow.table(dict(columns)), temporary)


def uid_array(uids: Sequence[str]) -> np.ndarray:
    """Uids as DataComp's subset files hold them: both halves as unsigned numbers, sorted, each once."""
    halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    return np.unique(np.array(halves, UIDS))


def _write_npy(chosen: Chosen, path: Path) -> None:
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, uid_array(chosen.uids))


def _write_wds(chosen: Chosen, path: Path) -> None:
    write_text(path, "".join(f"{sample_key(pair.image)}\n" for pair in chosen.pairs))


def _write_img2dataset(chosen: Chosen, path: Path) -> None:
    columns: dict[str, list[object]] = {
        "key": [sample_key(pair.image) for pair in chosen.pairs],
        "caption": [pair.caption for pair in chosen.pairs],
    }
    for name in ("url", "uid"):
        if (found := chosen.column(name)) is not None:
            columns[name] = list(found)
    _table(columns, path)


WRITERS: dict[str, tuple[str, Callable[[Chosen, Path], None]]] = {
    "csv": ("ids.csv", _write_csv),
    "parquet": ("ids.parquet", _write_parquet),
    "npy": ("ids.npy", _write_npy),
    "wds": ("keys.txt", _write_wds),
    "img2dataset": ("img2dataset.parquet", _write_img2dataset),
}
"""By format the name of the file and what writes it."""


def check_ids(formats: Sequence[str], names: Sequence[str], table: SideTable | None) -> None:
    """Refuse formats that need a package or uids that are not there, before anything is chosen.

    Raises:
        ConfigError: names of images that are no uids.
        MissingExtraError: parquet without pyarrow.
    """
    if {"parquet", "img2dataset"} & {*formats}:
        require_parquet()
    if "npy" in formats:
        known = table is not None and "uid" in table.columns
        uids = table.texts("uid")[table.found].tolist() if known and table is not None else map(sample_key, names)
        check_uids(list(uids))


def write_ids(formats: Sequence[str], chosen: Chosen, folder: Path) -> list[Path]:
    """Write the lists into ``folder``; returns their paths."""
    paths = []
    for name in formats:
        file, write = WRITERS[name]
        write(chosen, folder / file)
        paths.append(folder / file)
    return paths
