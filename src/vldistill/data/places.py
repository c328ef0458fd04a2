"""Where the images that a json file names are: in its folder, in images/ in it, or in tars beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from vldistill.data.patterns import listed
from vldistill.data.source import Source
from vldistill.data.stores import FileImages, Place, TarIndex, find_in_tars, tar_index
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


def find_images(
    folder: Path, names: Sequence[str], sought: Iterable[tuple[str, ...]] | None = None
) -> tuple[FileImages, dict[int, str]]:
    """The images ``names`` as a store, and of those that are nowhere, index -> where they were looked for.

    Args:
        folder: looked in, as are its images/ and its tars; these are listed only if needed.
        names: of the images.
        sought: the relative paths that each may have; by default its name.
    """
    tars: list[TarIndex] | None = None
    places: list[Place | None] = []
    for own in sought or ((name,) for name in names):
        candidates = (path for name in own for path in (folder / name, folder / "images" / name))
        path = next(filter(_is_file, candidates), None)
        if path is not None:
            places.append(Place(path))
            continue
        if tars is None:
            tars = [tar_index(tar) for tar in listed(folder, "*.tar")]
        found = (find_in_tars(name, tars) for name in own)
        places.append(next((place for place in found if place is not None), None))
    looked = ", ".join([str(folder), "its images/", *(tar.name for tar in listed(folder, "*.tar"))])
    missing = {index: looked for index, place in enumerate(places) if place is None}
    return FileImages(tuple(names), tuple(places)), missing


def images_folder(source: Source, usual: Path) -> Path:
    """The folder that the option ``images`` names, else ``usual``. Raises DataError."""
    if "images" not in source.options:
        return usual
    folder = Path(source.options["images"]).expanduser()
    if not folder.is_dir():
        raise DataError(f"{source.text}: images is {str(folder)!r}, which is no folder. Give the folder of the images.")
    return folder


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than the file system takes
        return False
