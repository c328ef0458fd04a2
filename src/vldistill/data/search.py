"""Photos that are not exactly where a source names them: another case, merged folders, no suffix, Windows' separators.

A photo is only taken where one file fits: a caption must never meet another image. What two names claim, none gets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePosixPath

from vldistill.data.patterns import walk
from vldistill.data.samples import IMAGE_SUFFIXES, is_hidden
from vldistill.data.splits import WORDS, split_in

NEUTRAL = re.compile(r"(.*[-_ ])?(images?|imgs?|pictures?|photos?|pics|data|jpegimages)([-_ ].*)?")
MOST = 5_000_000  # files of an index
SEVERAL = 3  # names that must all fit in another case
CLOSE_AMONG = 20_000  # names that the closest is chosen from


class PhotoIndex:
    """The files below some folders, by what their names have in common.

    Args:
        roots: the folders; what lies in several is listed once.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._by_stem: dict[str, list[tuple[Path, PurePosixPath]]] = defaultdict(list)
        listed: set[Path] = set()
        for root in roots:
            for path in _below(root):
                if path not in listed:
                    listed.add(path)
                    self._by_stem[_stem(path.name)].append((root, PurePosixPath(path.relative_to(root).as_posix())))

    def find(self, wanted: str, *, any_case: bool = False) -> list[Path]:
        """The files that fit a relative path best; one means that it was found.

        Suffixes fit in any case; names do with ``any_case``.
        """
        same = self._by_stem.get(_stem(wanted.rpartition("/")[2]))
        if not same:
            return []
        path = PurePosixPath(wanted)
        for alike in (_exactly, _composed, _suffix_folded, _without_suffix, *([_folded] if any_case else [])):
            fitting = [(root, own) for root, own in same if alike(path.name, own.name) and _fits(path, root, own)]
            if fitting:
                most = max(_shared(path, own) for _, own in fitting)
                return [root / own for root, own in fitting if _shared(path, own) == most]
        return []

    def is_merged(self, wanted: str, path: Path) -> bool:
        """Whether a file that was found lacks a folder that its name has."""
        name = PurePosixPath(wanted)
        return _shared(name, PurePosixPath(path.as_posix())) < len(name.parent.parts)

    def closest(self, wanted: str) -> str:
        """The file name most like that of ``wanted``; empty without any."""
        names = [str(own) for files in self._by_stem.values() for _, own in files][:CLOSE_AMONG]
        bases = {PurePosixPath(name).name: name for name in reversed(names)}
        near = get_close_matches(PurePosixPath(wanted).name, bases, n=1, cutoff=0.0)
        return bases[near[0]] if near else ""


def search(index: PhotoIndex, wanted: Mapping[int, str], exact: Mapping[str, set[Path]]) -> dict[int, Path]:
    """For each number the file that its path means, where exactly one does.

    Args:
        index: the files there are.
        wanted: relative paths by number.
        exact: by folder in the source, the folders in which others of it were found exactly: no other is used then.
    """
    found = _found(index, wanted, exact, any_case=False)
    left = {number: name for number, name in wanted.items() if number not in found}
    if not found and not any(exact.values()) and len(left) >= SEVERAL:  # names in another case, all of them?
        folded = _found(index, left, exact, any_case=True)
        found = folded if len(folded) == len(left) else found
    found = _without_chance(index, found, wanted)
    claims = Counter(found.values())
    return {number: path for number, path in found.items() if claims[path] == 1}


def _without_chance(index: PhotoIndex, found: Mapping[int, Path], wanted: Mapping[int, str]) -> dict[int, Path]:
    """Those found without folders that their names have, only where it is so for several and most of a folder."""
    if not found:
        return {}
    lost = Counter(PurePosixPath(name).parent for name in wanted.values())
    merged = Counter(
        PurePosixPath(wanted[number]).parent for number, path in found.items() if index.is_merged(wanted[number], path)
    )
    chance = {folder for folder, count in merged.items() if count < SEVERAL or 2 * count < lost[folder]}
    return {
        number: path
        for number, path in found.items()
        if PurePosixPath(wanted[number]).parent not in chance or not index.is_merged(wanted[number], path)
    }


def _found(
    index: PhotoIndex, wanted: Mapping[int, str], exact: Mapping[str, set[Path]], *, any_case: bool
) -> dict[int, Path]:
    found: dict[int, Path] = {}
    taken = {path for paths in exact.values() for path in paths}
    homes = {folder: {path.parent for path in paths} for folder, paths in exact.items()}
    for number, name in wanted.items():
        fitting = [path for path in index.find(name, any_case=any_case) if path not in taken and path.is_file()]
        if len(fitting) == 1:
            home = homes.get(str(PurePosixPath(name).parent))
            if not home or fitting[0].parent in home:
                found[number] = fitting[0]
    return found


def _below(root: Path) -> Iterator[Path]:
    files = (path for path in walk(root) if path.suffix.lower() in IMAGE_SUFFIXES)
    return islice((path for path in files if not is_hidden(path.relative_to(root).parts)), MOST)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    """The name without the suffix of an image, as names are compared."""
    key = _key(name)
    suffix = PurePosixPath(key).suffix
    return key.removesuffix(suffix) if suffix in IMAGE_SUFFIXES else key


def _exactly(wanted: str, own: str) -> bool:
    return wanted == own


def _composed(wanted: str, own: str) -> bool:
    return unicodedata.normalize("NFC", wanted) == unicodedata.normalize("NFC", own)


def _suffix_folded(wanted: str, own: str) -> bool:
    one, other = PurePosixPath(wanted), PurePosixPath(own)
    return _composed(one.stem, other.stem) and one.suffix.lower() == other.suffix.lower()


def _folded(wanted: str, own: str) -> bool:
    return _key(wanted) == _key(own)


def _without_suffix(wanted: str, own: str) -> bool:
    return PurePosixPath(_key(wanted)).suffix not in IMAGE_SUFFIXES and _key(wanted) == _stem(own)


def _folders(path: PurePosixPath) -> list[str]:
    return [_key(part) for part in path.parent.parts]


def _shared(wanted: PurePosixPath, own: PurePosixPath) -> int:
    """How many of the innermost folders are the same."""
    count = 0
    for one, other in zip(reversed(_folders(wanted)), reversed(_folders(own))):
        if one != other:
            break
        count += 1
    return count


def _fits(wanted: PurePosixPath, root: Path, own: PurePosixPath) -> bool:
    """Whether the folders of a file contradict those of the path that is wanted."""
    shared = _shared(wanted, own)
    asked, have = _folders(wanted), _folders(own)
    asked, have = asked[: len(asked) - shared], have[: len(have) - shared]
    if shared and not asked:
        return True  # the whole path with its folder, below another one
    splits = {split_in(part) for part in asked} - {None}
    others = {split_in(part) for part in (*have, root.name if not have else "")} - {None}
    if splits and others and splits != others:
        return False
    named = {word for word, split in WORDS.items() if split in splits}  # validation/ for val_4500_captions/
    return all(NEUTRAL.fullmatch(part) or part in named for part in have)  # merged into one folder
