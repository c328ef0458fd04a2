"""The files of a source of vectors, paired by the numbers in their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vldistill.data.account import Account, Ledger
from vldistill.data.embedded import arrays
from vldistill.data.embedded.sides import choose_sides
from vldistill.data.embedded.tables import Cells, columns_of, is_table, read_cells
from vldistill.data.patterns import files_of, walk
from vldistill.data.source import Source
from vldistill.data.splits import WORDS
from vldistill.errors import DataError

NUMBERED = re.compile(r"(?P<base>.*?)[-_.]?(?P<number>\d+)(?:-of-\d+)?")
MOST_GAPS = 100  # numbers for each file that is there; beyond, they are no count (dates, hashes)
DEPTH = 3  # folders of a source, itself the first, that are looked into
EXPECTED = (
    "Expected img_emb/ and text_emb/ with .npy files, .npz or .safetensors files with two arrays, a.npy and b.npy, or "
    "parquet with two columns of lists."
)

Numbers = dict[int | None, Path]
"""The files of one side by the number in their names; None where there is none."""


@dataclass(frozen=True, eq=False)
class Part:
    """Vectors of both sides, row by row.

    Attributes:
        image: (rows, D).
        text: (rows, d).
        names: of the two files, and of the arrays in them.
        headings: the columns of the table of these rows; empty where there is none.
        cells: reads some of its columns.
        table: its name.
        split: that its folder is called by.
    """

    image: np.ndarray
    text: np.ndarray
    names: tuple[str, str]
    headings: Sequence[str] = ()
    cells: Callable[[Sequence[str]], Cells] | None = None
    table: str = ""
    split: str | None = None

    def __post_init__(self) -> None:
        if len(self.image) != len(self.text):
            raise DataError(
                f"{self.names[0]} has {len(self.image):,} rows and {self.names[1]} {len(self.text):,}; expected as "
                f"many on both sides, row by row. Make both again from the same data."
            )

    def with_table(self, path: Path | None) -> Part:
        """The same with the table of its rows."""
        if path is None:
            return self
        headings = columns_of(path)
        if not headings:  # vectors alone
            return self
        return replace(self, headings=headings, cells=lambda columns: read_cells(path, columns), table=path.name)


@dataclass
class Parts:
    """The parts of a source.

    Attributes:
        every: the parts, in order.
        towers: the names of the two sides.
        format: what their files are.
        left: files that are left out, by reason, and whether vectors are lost with them.
        used: files that are read.
        gaps: files that are missing on both sides.
    """

    every: list[Part] = field(default_factory=list)
    towers: tuple[str, str] = ("", "")
    format: str = ""
    left: dict[Path, str] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    gaps: list[str] = field(default_factory=list)

    def account(self, files: Sequence[Path]) -> Account:
        """The account of all ``files`` that were weighed, and of those missing between others."""
        ledger = Ledger("files")
        ledger.use(len(self.used))
        for path in files:
            if path not in self.used:
                reason = self.left.get(path, "")
                ledger.leave(reason or "no vectors, and no table of any", path.name, loss=bool(reason))
        for name in self.gaps:
            ledger.leave("missing between others", name)
        return ledger.close(len(files) + len(self.gaps), needed=False)


def numbered(stem: str) -> tuple[str, int | None]:
    """``img_emb_07`` as ``img_emb`` and 7; None where no number ends the name."""
    found = NUMBERED.fullmatch(stem)
    return (found["base"], int(found["number"])) if found else (stem, None)


def find_parts(place: Path, source: Source) -> tuple[Parts, Account]:
    """The parts of a source on this machine, and the account of its files. Raises DataError for what has no pair."""
    root, files, source = _weighed(place, source)
    found = Parts()
    for split, folder in _splits(root, files).items():
        _add(found, [path for path in files if path.is_relative_to(folder)], folder, split, source)
    if not found.every:
        raise DataError(f"{source.text} holds no vectors of pairs. {EXPECTED}")
    return found, found.account(files)


def _weighed(place: Path, source: Source) -> tuple[Path, list[Path], Source]:
    """The folder of a source, the files to look at, and the source with the sides that a single file names."""
    if place.is_dir():
        found = [path for path in walk(place) if len(path.relative_to(place).parts) <= DEPTH]
        return place, [path for path in found if not path.name.startswith(".")], source
    if not place.is_file():
        return place.parent, files_of(source, ""), source
    if place.suffix.lower() != arrays.NUMPY:
        beside = [path for path in sorted(place.parent.iterdir()) if is_table(path) and path.stem == place.stem]
        return place.parent, [place, *(path for path in beside if path != place)], source
    text = source.options.get("text", "")
    other = place.parent / text
    if not text or not other.is_file():
        what = f"text is {text!r}, which is no file beside it" if text else "it is one side of pairs"
        raise DataError(f"{source.text}: {what}. Name the other side: ?text=FILE.npy.")
    tables = [path for path in sorted(place.parent.iterdir()) if is_table(path)]
    options = {**source.options, "image": place.name, "text": other.name}
    return place.parent, [place, other, *tables], replace(source, options=options)


def _holds(path: Path, *kinds: str) -> bool:
    return path.suffix.lower() in kinds


def _splits(root: Path, files: Sequence[Path]) -> dict[str | None, Path]:
    """Split -> its folder where all vectors lie in folders called so; else the root alone."""
    arrayed = [path for path in files if _holds(path, arrays.NUMPY, arrays.ZIPPED, arrays.TENSORS)] or files
    places = [path.relative_to(root).parts for path in arrayed]
    named = {WORDS[top.lower()]: root / top for top in sorted({parts[0] for parts in places}) if top.lower() in WORDS}
    inside = all(len(parts) > 1 and parts[0].lower() in WORDS for parts in places)
    return {**named} if named and inside else {None: root}


def _add(found: Parts, files: Sequence[Path], root: Path, split: str | None, source: Source) -> None:
    """The parts of one folder."""
    asked = Path(source.options["table"]).name if "table" in source.options else ""
    tables = [path for path in files if is_table(path) and asked not in (path.name, path.parent.name)]
    if npy := [path for path in files if _holds(path, arrays.NUMPY)]:
        _add_sides(found, npy, tables, root, split, source)
    elif npz := [path for path in files if _holds(path, arrays.ZIPPED)]:
        _add_whole(found, npz, tables, split, source, _npz_names, arrays.open_npz)
    elif tensors := [path for path in files if _holds(path, arrays.TENSORS)]:
        _add_whole(found, tensors, tables, split, source, _tensor_names, arrays.open_tensor)
    elif parquet := [path for path in files if _holds(path, arrays.PARQUET)]:
        _add_whole(found, parquet, [], split, source, _parquet_names, arrays.open_parquet)


def _npz_names(path: Path) -> list[str]:
    return [name for name, (shape, kind) in arrays.npz_arrays(path).items() if arrays.is_vectors(shape, kind)]


def _tensor_names(path: Path) -> list[str]:
    header, _ = arrays.tensor_header(path)
    return [name for name, about in header.items() if arrays.is_vectors(about["shape"], about["dtype"].lower()[:1])]


def _parquet_names(path: Path) -> list[str]:
    return [name for name, vectors in arrays.parquet_columns(path).items() if vectors]


def _add_whole(
    found: Parts,
    files: Sequence[Path],
    tables: Sequence[Path],
    split: str | None,
    source: Source,
    names_in: Callable[[Path], list[str]],
    opened: Callable[[Path, str], np.ndarray],
) -> None:
    """Files that hold both sides, each with the table of its name."""
    files = sorted(files, key=_order)
    image, text = choose_sides(names_in(files[0]), source.options, source.text, "arrays")
    beside = {table.name.partition(".")[0]: table for table in tables}
    alone = tables[0] if len(files) == len(tables) == 1 else None
    for path in files:
        if lacking := {image, text} - set(names_in(path)):
            raise DataError(
                f"{path} lacks {' and '.join(sorted(lacking))}, which {files[0].name} has. Make it again, or take it "
                f"out."
            )
        table = path if _holds(path, arrays.PARQUET) else beside.get(path.name.partition(".")[0], alone)
        part = Part(opened(path, image), opened(path, text), (f"{path.name}, {image}", f"{path.name}, {text}"))
        found.every.append(replace(part, split=split).with_table(table))
        found.used |= {path, *([table] if table else [])}
    found.left |= {table: "a table without vectors of its name" for table in tables if table not in found.used}
    found.towers, found.format = (image, text), files[0].suffix.lower().removeprefix(".")


def _order(path: Path) -> tuple[str, int, str]:
    base, number = numbered(path.stem)
    return base, -1 if number is None else number, path.name


def _add_sides(
    found: Parts, files: Sequence[Path], tables: Sequence[Path], root: Path, split: str | None, source: Source
) -> None:
    """Files of one side each, paired by number."""
    groups = _by_side(files, root)
    sides = _sides(groups, source)
    first, second = (groups[side] for side in sides)
    if len(first) == len(second) == 1:
        [(number, one)], [two] = first.items(), second.values()
        paired = [(one, two, number)]
    else:
        paired = [(first[number], second[number], number) for number in _in_order(first.keys() & second.keys())]
        for own, other, side in ((first, second, sides[1]), (second, first, sides[0])):
            lone = {own[number]: f"without the file of {side} with its number" for number in own.keys() - other.keys()}
            found.left |= lone
        found.gaps += _gaps(sides, [*first, *second])
    beside = _tables(tables, [number for _, _, number in paired], source)
    for image, text, number in paired:
        names = tuple(path.relative_to(root).as_posix() for path in (image, text))
        part = Part(arrays.open_npy(image), arrays.open_npy(text), (names[0], names[1]), split=split)
        found.every.append(part.with_table(beside.get(number)))
        found.used |= {image, text, *([beside[number]] if number in beside else [])}
    found.left |= {table: "a table without vectors of its number" for table in tables if table not in found.used}
    towers = [Path(side).name.removesuffix(arrays.NUMPY) for side in sides]
    found.towers, found.format = (towers[0], towers[1]), "npy"


def _gaps(sides: tuple[str, str], numbers: Iterable[int | None]) -> list[str]:
    """The numbers that neither side has between those that one has, as names of files."""
    there = {number for number in numbers if number is not None}
    first, last = min(there, default=0), max(there, default=0)
    lacking = sorted(set(range(first, last)) - there) if last - first < MOST_GAPS * len(there) else []
    return [f"{sides[0]} and {sides[1]} {number}" for number in lacking]


def _by_side(files: Sequence[Path], root: Path) -> dict[str, Numbers]:
    """The files by folder and name without the number, and then by that number."""
    groups: dict[str, Numbers] = defaultdict(dict)
    for path in files:
        base, number = numbered(path.stem)
        parts = [*path.parent.relative_to(root).parts, *([base] if base else [])]
        label = "/".join(dict.fromkeys(parts)) or path.name
        if (twin := groups[label].setdefault(number, path)) != path:
            raise DataError(
                f"{twin.name} and {path.name} have the same number, {number}; expected one file for each. Take one out."
            )
    return groups


def _sides(groups: dict[str, Numbers], source: Source) -> tuple[str, str]:
    """The labels of the two sides; the options may name a label, a part of it, or one file."""
    options = dict(source.options)
    for side in ("image", "text"):
        asked = options.get(side, "")
        if not asked or asked in groups:
            continue
        one = [path for members in groups.values() for path in members.values() if asked in (path.name, path.stem)]
        parts = [label for label in groups if asked in label.split("/")]
        if len(one) == 1:
            groups[asked] = {None: one[0]}
        elif len(parts) == 1:
            options[side] = parts[0]
    return choose_sides(list(groups), options, source.text, "kinds of .npy files")


def _in_order(numbers: Iterable[int | None]) -> list[int | None]:
    return sorted(numbers, key=lambda number: -1 if number is None else number)


def _tables(tables: Sequence[Path], numbers: Sequence[int | None], source: Source) -> dict[int | None, Path]:
    """The table of each number; of one pair of files the one table there is."""
    if len(numbers) == len(tables) == 1:
        return {numbers[0]: tables[0]}
    found: dict[int | None, Path] = {}
    for table in tables:
        number = numbered(table.name.partition(".")[0])[1]
        if (twin := found.setdefault(number, table)) != table:
            raise DataError(
                f"{source.text}: {twin.name} and {table.name} have the same number; expected one table for each pair "
                f"of files. Name the one that is meant, ?table=FILE, or take the other out."
            )
    return found
