"""Where the images that a source names are: in its folder, in images/ in it, in tars beside it, or nearby."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from vldistill.data.columns import DOWNLOAD
from vldistill.data.jsonfile import kind
from vldistill.data.patterns import advice_to_unpack, listed
from vldistill.data.search import PhotoIndex, search
from vldistill.data.source import Source
from vldistill.data.stores import FileImages, Place, TarIndex, find_in_tars, tar_index
from vldistill.errors import DataError

ANNOTATIONS = re.compile(r"(.*[-_])?(ann|annotations?|captions?|jsons?|karpathy|splits?)([-_].*)?", re.IGNORECASE)
ADDRESS = re.compile(r"(https?|s3|gs)://\S+")
LONGEST = 1000  # letters of a path
DRIVE = re.compile(r"[A-Za-z]:[/\\]")


def safe_name(where: str, *parts: str) -> str:
    """The joined ``parts`` of a relative path that stays inside its folder. Raises DataError, naming ``where``."""
    name = PurePath(*(part.replace("\\", "/") for part in parts))  # as Windows writes paths
    inside = not name.is_absolute() and ".." not in name.parts and name.parts
    if not inside or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in str(name)):
        raise DataError(
            f"{where}: the path {str(name)[:200]!r} is refused; expected a relative path inside the source's folder."
        )
    return name.as_posix()


def path_in_cell(cell: Any, column: str, folder: Path, where: str, *, exactly_named: bool = False) -> str:
    """The path of an image in the cell of a table, below ``folder``. Raises DataError.

    Args:
        cell: a text, or a list of one.
        column: its name, for messages.
        folder: of the images.
        where: for messages.
        exactly_named: the option ``images`` named the folder: paths from elsewhere are looked for in it.
    """
    cell = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell
    if not isinstance(cell, str) or not (raw := cell.strip()):
        holds = f"holds {kind(cell)}" if cell else "is empty"
        raise DataError(f"{where}: the column {column!r} {holds}; expected the path of an image.")
    if ADDRESS.fullmatch(raw):
        raise DataError(f"{where}: the column {column!r} holds addresses ({raw[:80]}). {DOWNLOAD}")
    if len(raw) > LONGEST:
        raise DataError(
            f"{where}: the column {column!r} holds a text of {len(raw):,} letters ({raw[:20]}...), as base64 "
            f"data of images has; expected the path of an image. Decode the images into files and name these."
        )
    path = Path(raw)
    if path.is_absolute() and not path.is_relative_to(folder):  # by another name of it, where there are links
        real = Path(os.path.realpath(path.parent), path.name)
        path = folder / real.relative_to(home) if real.is_relative_to(home := folder.resolve()) else path
    if path.is_absolute() and path.is_relative_to(folder):
        raw = path.relative_to(folder).as_posix()
    elif path.is_absolute() or DRIVE.match(raw):
        if not exactly_named:
            parent = "FOLDER" if DRIVE.match(raw) else path.parent
            raise DataError(
                f"{where}: {raw!r} is outside {folder}, where images are looked for. Name the folder above them, e.g. "
                f"?images={parent}."
            )
        raw = DRIVE.sub("", raw).lstrip("/")
    return safe_name(where, raw)


class NamedFiles:
    """Images that are files, named by the cells of a table.

    Args:
        source: whose option ``images`` may name their folder.
        usual: their folder otherwise.
    """

    def __init__(self, source: Source, usual: Path) -> None:
        self.folder, self._exactly = images_folder(source, usual).absolute(), "images" in source.options
        self.paths: dict[int, str] = {}

    def add(self, row: int, cell: Any, column: str, where: str) -> str:
        """The path in the cell of one more row, which names its image. Raises DataError."""
        self.paths[row] = path_in_cell(cell, column, self.folder, where, exactly_named=self._exactly)
        return self.paths[row]

    def find(self, names: Sequence[str], rows: Iterable[int]) -> tuple[FileImages, dict[int, str]]:
        """The images of some rows as :func:`find_images` gives them."""
        sought = [(self.paths[row],) for row in rows]
        return find_images(self.folder, names, sought, exactly_named=self._exactly)


def find_images(
    folder: Path, names: Sequence[str], sought: Iterable[tuple[str, ...]] | None = None, *, exactly_named: bool = False
) -> tuple[FileImages, dict[int, str]]:
    """The images ``names`` as a store, and of those that are nowhere, index -> where they were looked for.

    Args:
        folder: looked in, as are its images/ and its tars; these are listed only if needed. What is not there is
            searched below it, and beside it where it holds annotations only.
        names: of the images.
        sought: the relative paths that each may have, the most exact one first; by default its name.
        exactly_named: the option ``images`` named the folder: nothing beside it is searched.
    """
    tars: list[TarIndex] | None = None
    places: list[Place | None] = []
    exact: dict[str, set[Path]] = defaultdict(set)
    lost: dict[int, str] = {}
    homes = (str(folder), str(folder / "images"))
    for number, own in enumerate(sought or ((name,) for name in names)):
        file = next(filter(os.path.isfile, (f"{home}/{name}" for name in own for home in homes)), None)
        if file is not None:
            path = Path(file)
            places.append(Place(path))
            exact[str(PurePosixPath(own[0]).parent)].add(path)
            continue
        if tars is None:
            tars = [tar_index(tar) for tar in listed(folder, "*.tar")]
        found = (find_in_tars(name, tars) for name in own)
        places.append(next((place for place in found if place is not None), None))
        if places[-1] is None:
            lost[number] = own[0]
    missing = _search(folder, lost, exact, places, exactly_named) if lost else {}
    return FileImages(tuple(names), tuple(places)), missing


def _search(
    folder: Path, lost: dict[int, str], exact: dict[str, set[Path]], places: list[Place | None], exactly_named: bool
) -> dict[int, str]:
    """Fill in places that are found by searching; the rest, with where they were looked for."""
    beside = not exactly_named and ANNOTATIONS.fullmatch(folder.absolute().name)
    roots = [folder]
    index = PhotoIndex(roots)
    found = search(index, lost, exact)
    if beside and not found and _may_search(folder.absolute().parent):
        roots = [folder, *_siblings(folder)]
        index = PhotoIndex(roots)
        found = search(index, lost, exact)
    for number, path in found.items():
        places[number] = Place(path)
    left = [number for number in lost if number not in found]
    if not left:
        return {}
    looked = ", ".join([str(folder), "its images/", *(tar.name for tar in listed(folder, "*.tar"))])
    looked += "".join(f", {root}" for root in roots[1:4])
    packed = advice_to_unpack(folder.iterdir() if folder.is_dir() else [])
    missing = dict.fromkeys(left, looked)
    closest = index.closest(lost[left[0]])
    missing[left[0]] = (
        f"{looked}, with all below; the closest file there is {closest}{_by_case(closest, lost[left[0]])}"
        if closest
        else f"{looked}, with all below; there are no images"
    )
    if not exactly_named:
        missing[left[0]] += f". {packed}Name the folder of the images: ?images=FOLDER"
    return missing


def _by_case(closest: str, wanted: str) -> str:
    """The remark that two paths differ by case only."""
    return ", which differs by case only" if closest.casefold() == wanted.casefold() else ""


def _siblings(folder: Path) -> list[Path]:
    """The folders beside one, for annotations that lie beside the images."""
    own = folder.absolute()
    return sorted(path for path in own.parent.iterdir() if path.is_dir() and path != own and path.name[0] != ".")


def _may_search(folder: Path) -> bool:
    """Whether the folders in ``folder`` may be listed: not those of a whole home or disk."""
    try:
        return len(folder.parts) > 2 and folder != Path.home() and os.access(folder, os.R_OK)
    except (OSError, RuntimeError):
        return False


def images_folder(source: Source, usual: Path) -> Path:
    """The folder that the option ``images`` names, else ``usual``. Raises DataError."""
    if "images" not in source.options:
        return usual
    folder = Path(source.options["images"]).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{source.text}: images is {str(folder)!r}, which is not a folder. Give the folder of the images."
        )
    return folder
