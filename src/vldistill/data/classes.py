"""Class sets: images with a class each, whose captions are prompts such as ``a photo of a cat``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vldistill.config.checks import PROMPT, prompt_for
from vldistill.config.plain import Plain, Record
from vldistill.data.jsonfile import load_json
from vldistill.errors import DataError

NONE = -1  # the label of an image that is not of exactly one class
SHOWN = 3  # names in messages


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
            raise DataError(
                f"{self.source} has {len(self.names)} class ({shown(self.names)}); expected two or more: with "
                f"one there is nothing to distinguish."
            )
        twice = sorted({name for name in self.names if self.names.count(name) > 1}) if self._repeats else []
        if twice:
            raise DataError(
                f"{self.source}: {len(twice)} names stand for several classes ({shown(twice)}), whose prompts would "
                f"be the same. Give them names of their own: ?names=FILE."
            )

    @property
    def _repeats(self) -> bool:
        return len(set(self.names)) < len(self.names)

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
        file: gives the names: a json object by key or label number, a json list or a line for each label in order, or
            lines ``KEY NAME``. Without it a key is its name, underscores being spaces.

    Raises:
        DataError: numbers without names; a file that cannot be read, or lacks a class.
    """
    if file:
        return tuple(_named_in(Path(file).expanduser(), keys, source))
    if keys and all(key.isdecimal() for key in keys):
        raise DataError(
            f"{source}: the classes are called {shown(keys)}, which are numbers, and prompts need names. Give them: "
            f"?names=FILE, a line for each label in order, or a json object by label."
        )
    return tuple(" ".join(key.replace("_", " ").split()) for key in keys)


def _named_in(path: Path, keys: Sequence[str], source: str) -> list[str]:
    found = _entries(path)
    if not isinstance(found, Mapping):
        lines = [str(entry).strip() for entry in found]
        first = dict(line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
        numbered = all(key.isdecimal() for key in keys)
        if not numbered and not {*keys} <= first.keys() and len(lines) != len(keys):
            lacking = shown(key for key in keys if key not in first)
            raise DataError(
                f"{source}: {path} has {len(lines):,} entries, and there are {len(keys):,} classes. Expected one for "
                f"each in order, or lines of a class and its name; there is none for {lacking}."
            )
        ordered = {str(number): line for number, line in enumerate(lines) if line}
        found = first if {*keys} <= first.keys() and not numbered else ordered
    numbers = {key: key if key.isdecimal() else str(number) for number, key in enumerate(keys)}
    names = {key: _name(found.get(key, found.get(numbers[key]))) for key in keys}
    if lacking := [key for key, name in names.items() if not name]:
        raise DataError(f"{source}: {path} has no name for {len(lacking):,} classes ({shown(lacking)}). Add them.")
    return list(names.values())


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


def labels_of(keys: Sequence[Sequence[str]], known: Sequence[str]) -> np.ndarray:
    """The label of each image from its keys, (N,) int64: :data:`NONE` unless they are all the same known one."""
    numbers = {key: number for number, key in enumerate(known)}
    distinct = ({key.strip() for key in own} - {""} for own in keys)
    return np.array([numbers.get(own.pop(), NONE) if len(own) == 1 else NONE for own in distinct], np.int64)


def in_label_order(keys: Iterable[str]) -> list[str]:
    """Distinct keys in order: numbers by their value, others by the alphabet."""
    found = {key.strip() for key in keys} - {""}
    return sorted(found, key=int) if all(key.isdecimal() for key in found) else sorted(found)
