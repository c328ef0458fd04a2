"""Class sets: images with a class each, whose captions are prompts such as ``a photo of a cat``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vldistill.config.checks import PROMPT, prompt_for
from vldistill.config.plain import Plain, Record
from vldistill.data.jsonfile import load_json
from vldistill.errors import DataError

NONE = -1  # the label of an image that is not of exactly one class
SHOWN = 3  # names in messages
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
ID = re.compile(r"n\d{8}|(class|label|category|id|c)?[ _-]*[+-]?\d+(\.\d+)?|true|false", re.IGNORECASE)
"""What is no name: a number, also behind a word that says nothing, a yes or no, and WordNet's ids of ImageNet."""


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a set, and the label of each of its images.

    Args:
        names: of the K classes, in the order of their labels, as prompts spell them.
        labels: (N,) int64, the class of each image, 0..K-1; :data:`NONE` where it is not of exactly one.
        prompts: templates with ``{}`` for the name; each gives every image a caption.
        source: for messages.

    Raises:
        DataError: a single class, or two of one name.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    prompts: tuple[str, ...] = (PROMPT,)
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            has = f"one class ({self.names[0]})" if self.names else "no class: every label is empty"
            raise DataError(f"{self.source} has {has}; expected two or more: else there is nothing to distinguish.")
        self._refuse_equal(self.names, "?names=FILE gives them names of their own")

    def _refuse_equal(self, texts: Sequence[str], remedy: str) -> None:
        """Refuse classes whose texts (K) do not differ, but for capitals, which many text towers do not see."""
        counts = Counter(text.casefold() for text in texts)
        if twice := [text for text, count in counts.items() if count > 1]:
            raise DataError(
                f"{self.source}: {shown(twice)} stands for several classes, whose prompts would be the same; {remedy}."
            )

    def check_cleaned(self, clean: Callable[[str], str]) -> None:
        """Refuse prompts that ``clean`` makes equal. Raises DataError."""
        for number, prompt in enumerate(self.prompts):
            texts = [clean(self.texts(label)[number]) for label in range(len(self))]
            self._refuse_equal(texts, f"data.clean_captions made them so of {prompt!r}: leave it out, or shorten that")

    def __len__(self) -> int:
        return len(self.names)

    def texts(self, label: int) -> list[str]:
        """The prompts of a class."""
        return [prompt_for(prompt, self.names[label]) for prompt in self.prompts]

    def captions(self) -> list[list[str]]:
        """The captions of every image; none for one without a class. Those of a class are one list."""
        own = [self.texts(label) for label in range(len(self))]
        return [own[label] if label != NONE else [] for label in self.labels.tolist()]

    def select(self, rows: Sequence[int]) -> Classes:
        """The same classes with the labels of some images."""
        return replace(self, labels=self.labels[np.asarray(rows, np.int64)])

    def check_trained(self) -> None:
        """Refuse classes that none of these images, which students are trained on, is of. Raises DataError."""
        counts = np.bincount(self.labels[self.labels != NONE], minlength=len(self))
        lacking = [name for name, count in zip(self.names, counts.tolist()) if not count]
        if lacking:
            raise DataError(
                f"{self.source}: {len(lacking)} of {len(self)} classes have no training image ({shown(lacking)}), so "
                f"no student can learn them. Add images to train, take these classes out of the other splits, or give "
                f"smaller shares to val and test (?val=0.05&test=0.05)."
            )


def shown(names: Iterable[str]) -> str:
    """The first names, and that there are more."""
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")


def class_names(keys: Sequence[str], source: str, file: str = "") -> tuple[str, ...]:
    """The names of classes from what the source calls them: folders, labels or label numbers.

    Args:
        keys: in the order of the labels.
        source: for messages.
        file: gives the names: a json object by key or label number, or the other way round, a json list or a line for
            each label in order, or lines of a key and its name. Without it a key is its name, underscores being spaces.

    Raises:
        DataError: numbers or ids without names; a file that cannot be read, or lacks a class.
    """
    if file:
        return _named_in(Path(file).expanduser(), keys, source)
    if keys and all(map(ID.fullmatch, keys)):
        raise DataError(
            f"{source}: the classes are called {shown(keys)}, which are numbers or ids, and prompts need names. Give "
            f"them: ?names=FILE, a line for each label in order, lines of a label and its name, or a json object."
        )
    return tuple(" ".join(key.replace("_", " ").split()) or key for key in keys)


def _named_in(path: Path, keys: Sequence[str], source: str) -> tuple[str, ...]:
    places = {key: key if NUMBER.fullmatch(key) else str(number) for number, key in enumerate(keys)}
    found = _entries(path)
    if isinstance(found, Mapping):
        found = _turned(found, keys, places)
    else:
        lines = [_name(entry) for entry in found]
        found = _by_key(lines, keys) or _in_order(lines, keys, f"{source}: {path}")
    names = {key: _name(found.get(key, found.get(place))) for key, place in places.items()}
    if lacking := [key for key, name in names.items() if not name]:
        raise DataError(f"{source}: {path} has no name for {len(lacking):,} classes ({shown(lacking)}). Add them.")
    return tuple(names.values())


def _turned(found: Record, keys: Sequence[str], places: Mapping[str, str]) -> Record:
    """Names by key or number; turned round where these are the values, as in ``{"tench": 0}``."""
    turned: Record = {str(value): name for name, value in found.items() if isinstance(value, int | str)}
    known = any(key in found for key in (*keys, *places.values()))
    return turned if not known and any(key in turned for key in (*keys, *places.values())) else found


def _by_key(lines: Sequence[str], keys: Sequence[str]) -> Record:
    """The names by key from lines ``KEY NAME``, ``KEY,NAME`` or ``KEY: NAME``; nothing where a key has none."""
    known, found = {*keys}, dict[str, Plain]()
    for line in lines:
        parts = (line.split(sep, 1) for sep in (",", ":", None))
        pairs = ([part.strip().strip('"') for part in pair] for pair in parts if len(pair) == 2)
        found |= dict([pair for pair in pairs if pair[0] in known][:1])
    return found if known <= found.keys() else {}


def _in_order(lines: Sequence[str], keys: Sequence[str], where: str) -> Record:
    """The names by key from a line for each, or by number from a line for each number from 0."""
    if len(lines) == len(keys):
        return dict(zip(keys, lines))
    if all(map(NUMBER.fullmatch, keys)):
        return {str(number): line for number, line in enumerate(lines)}
    raise DataError(
        f"{where} has {len(lines):,} entries, and there are {len(keys):,} classes. Expected one for each in order, or "
        f"lines of a class and its name, for each of {shown(keys)}."
    )


def _entries(path: Path) -> Record | Sequence[Plain]:
    """A json object or list, or the lines of a text."""
    if path.suffix.lower() == ".json":
        found = load_json(path)
        if isinstance(found, Mapping | list):
            return found
        raise DataError(f"{path}: expected a json object of names by class, or a list of them.")
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text. Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"the names of classes, {path}, cannot be read ({error.strerror}). Correct ?names=.") from None


def _name(entry: Plain) -> str:
    """A name: a text, or the last of a list, as in ImageNet's ``{"0": ["n01440764", "tench"]}``; else empty."""
    last = entry[-1] if isinstance(entry, list) and entry else entry
    return " ".join(last.split()) if isinstance(last, str) else ""


def key_of(label: str) -> str:
    """A label as it is compared: without blanks around it, a whole number without its fraction (``1.0`` is ``1``)."""
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", label.strip())


def labels_of(keys: Sequence[Sequence[str]], known: Sequence[str]) -> np.ndarray:
    """The label of each image from its keys, (N,) int64: :data:`NONE` unless they are all the same known one."""
    numbers = {key_of(key): number for number, key in enumerate(known)}
    distinct = ({key_of(key) for key in own} - {""} for own in keys)
    return np.array([numbers.get(own.pop(), NONE) if len(own) == 1 else NONE for own in distinct], np.int64)


def in_label_order(keys: Iterable[str]) -> list[str]:
    """Distinct keys in order: numbers and numbered ids by their value, others by the alphabet."""
    found = {key_of(key) for key in keys} - {""}
    return sorted(found, key=_number_in) if all(map(ID.fullmatch, found)) else sorted(found)


def _number_in(key: str) -> tuple[float, str]:
    found = NUMBER.search(key)
    return float(found[0]) if found else 0.0, key
