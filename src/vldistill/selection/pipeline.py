"""The pipeline before a selector: lists, filters in the order given, then deduplication. Each step says what it did.

Shapes: N images, M captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np

from vldistill.config import SelectConfig
from vldistill.config.plain import Plain
from vldistill.config.select import PIPELINE
from vldistill.errors import ConfigError, DataError, unknown
from vldistill.selection.condition import Condition
from vldistill.selection.duplicate import DETECTORS, KEPT, Detector
from vldistill.selection.filter import FILTERS, Filter
from vldistill.selection.lists import images_in
from vldistill.selection.material import Material
from vldistill.selection.quotas import Group, check_quotas, groups_of
from vldistill.selection.steps import Step, step_of
from vldistill.workbench.bench import Workbench

PRESETS: dict[str, tuple[str, ...]] = {
    "datacomp_basic": ("words>=3", "characters>=6", "min_side>=200", "aspect<=3", "language=en"),
}
"""Filters by name. ``datacomp_basic``: the basic filter of DataComp (arXiv 2304.14108): English, more than two words
and five characters, a shorter side of 200 pixels and an aspect ratio of 3 at most; the language by py3langid, not
fastText.
"""


@dataclass(frozen=True)
class Prepared:
    """What the pipeline leaves.

    Args:
        rows: (M',) int64, the captions that are left, ascending.
        always: (N,) bool, images that have to be chosen.
        groups: images and numbers of pairs by the value of a column; empty without quotas.
        steps: what was done.
    """

    rows: np.ndarray
    always: np.ndarray
    groups: tuple[Group, ...]
    steps: tuple[Step, ...]


_DONE: WeakKeyDictionary[Workbench, dict[str, Prepared]] = WeakKeyDictionary()
"""What was prepared for a workbench: five students of one evaluation choose from the same pairs."""


def is_plain(options: SelectConfig) -> bool:
    """Whether nothing comes before the selector."""
    return not any(getattr(options, name) for name in PIPELINE)


def pipeline_options(options: SelectConfig) -> dict[str, Plain]:
    """The options of the pipeline that are given, by name; nothing where there is none."""
    given = {name: getattr(options, name) for name in PIPELINE if getattr(options, name)}
    if "deduplicate" in given:
        given["across"] = options.across
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def conditions(options: SelectConfig) -> list[Condition]:
    """The filters of the preset, then those given. Raises ConfigError."""
    if options.preset and options.preset not in PRESETS:
        raise ConfigError(unknown("select.preset", options.preset, PRESETS))
    return [Condition.parse(text) for text in (*PRESETS.get(options.preset, ()), *options.filters)]


def parse_detector(text: str) -> tuple[Detector, float]:
    """A detector and its threshold, from ``near`` or ``near=4``. Raises ConfigError."""
    name, _, value = (part.strip() for part in text.partition("="))
    entry = DETECTORS.find(name)
    usual, (low, high) = entry.threshold, entry.limits
    try:
        threshold = float(value) if value else usual or 0.0
    except ValueError:
        threshold = float("nan")
    if (usual is None and value) or not low <= threshold <= high:
        expected = f"a number from {low:g} to {high:g} ({entry.unit})" if usual is not None else "no threshold"
        raise ConfigError(f"select.deduplicate holds {text!r}; {name} takes {expected}, e.g. {name}.")
    return entry, threshold


def check_pipeline(options: SelectConfig) -> None:
    """Refuse what cannot be parsed, before any data are read. Raises ConfigError."""
    for condition in conditions(options):
        entry = FILTERS.get(condition.name)
        if entry is None and not options.columns:
            raise ConfigError(
                f"{unknown('filter', condition.name, FILTERS)} Or name a file with such a column by select.columns."
            )
        if entry is not None:
            condition.check_text() if entry.texts else condition.check_number()
    for text in options.deduplicate:
        parse_detector(text)
    check_quotas(options.quotas, options.quota_by, options.pairs, options.budgets)


def prepare(bench: Workbench, options: SelectConfig, pairs: int = 0) -> Prepared:
    """Run the pipeline on the training pairs of a workbench.

    Args:
        bench: the data.
        options: lists, filters, detectors, quotas.
        pairs: that will be chosen, for quotas; 0 is ``options.pairs``.

    Raises:
        ConfigError: names that do not exist, a step that keeps nothing, quotas that cannot be met.
    """
    options = replace(options, pairs=pairs or options.pairs)
    check_pipeline(options)
    known = _DONE.setdefault(bench, {})
    key = repr((pipeline_options(options), options.pairs, options.cluster_sample, options.seed))
    if key not in known:
        known[key] = _Run(bench, options).done()
    return known[key]


class _Run:
    """A pipeline at work: ``kept`` (M,) bool are the captions that are left."""

    def __init__(self, bench: Workbench, options: SelectConfig) -> None:
        self.bench, self.options = bench, options
        self.material = Material(bench, options)
        self.pairs = self.material.pairs
        self.kept = np.ones(self.pairs.count_captions, bool)
        self.always = np.zeros(self.pairs.count_images, bool)
        self.steps: list[Step] = []

    def done(self) -> Prepared:
        """All steps, one after the other; what cannot be measured is refused first."""
        asked = [(condition, self._entry(condition)) for condition in conditions(self.options)]
        for _, entry in asked:
            if entry.check is not None:
                entry.check(self.material)
        quota_values = self._quota_values()
        self._lists()
        for condition, entry in asked:
            self._filter(condition, entry)
        for text in self.options.deduplicate:
            self._deduplicate(text, *parse_detector(text))
        return Prepared(np.flatnonzero(self.kept), self.always, self._groups(quota_values), tuple(self.steps))

    @property
    def images(self) -> np.ndarray:
        """Which images (N,) bool have a caption that is left."""
        out = np.zeros(self.pairs.count_images, bool)
        out[self.pairs.caption_image[self.kept]] = True
        return out

    def _entry(self, condition: Condition) -> Filter:
        """A registered filter, or one on a column of ``select.columns``."""
        entry = FILTERS.get(condition.name)
        if entry is not None:
            return entry
        table = self.material.table
        assert table is not None
        numbers = table.numbers(condition.name)
        compares_texts = condition.sign in ("=", "!=") and not condition.value.replace(".", "").isdigit()
        if numbers is None or (compares_texts and ".." not in condition.value and "%" not in condition.value):
            condition.check_text()
            return Filter(lambda material: table.texts(condition.name), "image", True, False, "")
        return Filter(lambda material: numbers, "image", False, False, "")

    def _lists(self) -> None:
        names = self.pairs.images.names
        options = self.options
        if options.include:
            self.always = images_in(options.include, names, "select.include")
        for option in ("only", "exclude"):
            if path := getattr(options, option):
                listed = images_in(path, names, f"select.{option}")
                if option == "exclude" and (both := np.flatnonzero(listed & self.always)).size:
                    raise ConfigError(f"select.include and select.exclude both name {names[int(both[0])]}. Decide.")
                drop = listed if option == "exclude" else ~listed
                self._keep(f"{option} {path}", ~drop[self.pairs.caption_image])

    def _keep(self, name: str, fine: np.ndarray, note: str = "", why: Sequence[str] = ()) -> None:
        """Keep of what is left the captions that are ``fine`` (M,) bool, and those of included images."""
        before = self.kept
        after = before & (fine | self.always[self.pairs.caption_image])
        self.steps.append(step_of(name, self.pairs, before, after, note, why))
        self.kept = after
        self.bench.reporter.info(self.steps[-1].line())

    def _filter(self, condition: Condition, entry: Filter) -> None:
        values = entry.measure(self.material)
        if entry.of == "image":
            values = values[self.pairs.caption_image]
        here = values[self.kept]
        if entry.texts:
            fine, note = condition.holds_for_texts(values), ""
        else:
            note = condition.note(here)
            fine = condition.holds_among(values, here)
        if not (fine & self.kept).any():
            raise ConfigError(
                f"select.filters {condition.text} keeps none of {self.kept.sum():,} pairs: {_range(here)}."
            )
        dropped = np.flatnonzero(self.kept & ~fine & ~self.always[self.pairs.caption_image])[:3]
        why = [f"({condition.name} {values[row]:.4g})" if not entry.texts else f"({values[row]})" for row in dropped]
        self._keep(condition.text, fine, note, why)

    def _deduplicate(self, text: str, entry: Detector, threshold: float) -> None:
        """Drop what is too near to what was kept, or to val and test. Included images go first and stay."""
        parts, skipped = self._known_parts(entry)
        counted = sum(len(rows) for _, rows in parts)
        if entry.of == "image":
            own = np.flatnonzero(self.images)
            own = own[np.argsort(~self.always[own], kind="stable")]
        else:
            own = np.flatnonzero(self.kept)
        found = entry.find([*parts, (self.material, own)], threshold, self.options)[counted:]
        dropped = found != KEPT
        names = self.pairs.images.names
        bad = np.zeros(len(names) if entry.of == "image" else len(self.kept), bool)
        bad[own[dropped]] = True
        reasons: dict[int, str] = {}
        for item, owner in zip(own[dropped].tolist(), found[dropped].tolist()):
            if len(reasons) == 3:
                break
            reasons[item] = f"(as {self._named(owner, parts, own, entry)})"
        fine = ~bad[self.pairs.caption_image] if entry.of == "image" else ~bad
        first = np.flatnonzero(self.kept & ~fine)[:3]
        items = self.pairs.caption_image[first] if entry.of == "image" else first
        across = int((found[dropped] < counted).sum())
        unit = "photos" if entry.of == "image" else "captions"
        note = f"threshold {threshold:g}, {entry.unit}; " if entry.threshold is not None else ""
        others = " and ".join(self._across()) or "no other split"
        note += f"{int(dropped.sum()):,} {unit}, {across:,} of them as in {others}"
        self._keep(f"deduplicate {text}", fine, note + skipped, [reasons.get(int(item), "") for item in items])

    def _named(self, number: int, parts: list[tuple[Material, np.ndarray]], own: np.ndarray, entry: Detector) -> str:
        for material, rows in [*parts, (self.material, own)]:
            if number < len(rows):
                image = int(rows[number]) if entry.of == "image" else int(material.pairs.caption_image[rows[number]])
                place = "" if material is self.material else f"{material.split}: "
                return f"{place}{material.pairs.images.names[image]}"
            number -= len(rows)
        return ""

    def _across(self) -> list[str]:
        return [split for split in self.options.across if self._has(split)]

    def _has(self, split: str) -> bool:
        try:
            self.bench.pairs(split)
        except DataError:
            return False
        return True

    def _known_parts(self, entry: Detector) -> tuple[list[tuple[Material, np.ndarray]], str]:
        """The items of the other splits, and which are not there."""
        lacking = [split for split in self.options.across if not self._has(split)]
        parts: list[tuple[Material, np.ndarray]] = []
        for split in self._across():
            material = Material(self.bench, self.options, split)
            count = material.pairs.count_images if entry.of == "image" else material.pairs.count_captions
            parts.append((material, np.arange(count)))
        return parts, f"; no split {' or '.join(lacking)}" if lacking else ""

    def _quota_values(self) -> np.ndarray | None:
        """The value (N,) of every image in the column of the quotas. Raises ConfigError where there is none."""
        by = self.options.quota_by
        if not by:
            return None
        if by == "class" and self.pairs.classes is not None:
            names = np.array(self.pairs.classes.names, object)
            return names[self.pairs.classes.labels]
        if self.material.table is None:
            raise ConfigError(
                f"select.quota_by is {by!r}, but select.columns names no file with such a column"
                + ("." if by != "class" else ", and the data are no class set.")
            )
        return self.material.table.texts(by)

    def _groups(self, values: np.ndarray | None) -> tuple[Group, ...]:
        if values is None:
            return ()
        options = self.options
        groups = groups_of(values, self.images, options.quota_by, options.quotas, options.pairs)
        counts = ", ".join(f"{group.name or 'others'} {group.count:,}" for group in groups[:8])
        images, left = int(self.images.sum()), int(self.kept.sum())
        shown = counts + (", ..." if len(groups) > 8 else "")
        self.steps.append(Step(f"quota by {options.quota_by}", left, left, images, (), shown))
        self.bench.reporter.info(f"quota by {options.quota_by}: {shown}")
        return tuple(groups)


def _range(values: np.ndarray) -> str:
    """The values that there are, for the message of a filter that keeps nothing."""
    if values.dtype == object:
        known, counts = np.unique(values.astype(str), return_counts=True)
        top = ", ".join(f"{known[place]} ({counts[place]:,})" for place in np.argsort(-counts)[:5])
        return f"there are {top}. Name one of them, or leave the filter out"
    known = values[~np.isnan(values)]
    if not len(known):
        return "none has a value"
    return f"values run from {known.min():.4g} to {known.max():.4g}, median {np.median(known):.4g}. Loosen it"
