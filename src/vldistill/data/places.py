"""Where the images that a json file names are: in its folder, in images/ in it, or in tars beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath

from vldistill.data.stores import Place, TarIndex, find_in_tars, tar_index
from vldistill.errors import DataError


def safe_name(where: str, *parts: str) -> str:
    """The joined ``parts`` of a relative path that stays inside its folder. Raises DataError, naming ``where``."""
    name = PurePath(*parts)
    inside = not name.is_absolute() and ".." not in name.parts and name.parts
    if not inside or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in str(name)):
        raise DataError(
            f"{where}: the path {str(name)!r} is refused; expected a relative path inside the source's folder."
        )
    return name.as_posix()


def find_images(folder: Path, names: Iterable[tuple[str, ...]]) -> list[Place | None]:
    """Where each image is, None when nowhere; an image may have several names. Tars are listed only if needed."""
    tars: list[TarIndex] | None = None
    places: list[Place | None] = []
    for own in names:
        candidates = (path for name in own for path in (folder / name, folder / "images" / name))
        path = next((path for path in candidates if _is_file(path)), None)
        if path is not None:
            places.append(Place(path))
            continue
        if tars is None:
            tars = [tar_index(tar) for tar in _tars(folder)]
        found = (find_in_tars(name, tars) for name in own)
        places.append(next((place for place in found if place is not None), None))
    return places


def looked_in(folder: Path) -> str:
    """The places that :func:`find_images` looks in, for messages."""
    return ", ".join([str(folder), "its images/", *(tar.name for tar in _tars(folder))])


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if path.is_file())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system takes
        return False
