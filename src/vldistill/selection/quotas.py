"""How many pairs each value of a column gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vldistill.errors import ConfigError, unknown

FORM = re.compile(r"\s*(\S.*?)\s*=\s*(\d+(?:\.\d+)?)\s*(%?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Group:
    """A part of the images that gets a number of pairs of its own.

    Args:
        name: the value of the column; empty for all others together.
        images: (N,) bool.
        count: pairs.
    """

    name: str
    images: np.ndarray
    count: int


def parse_quota(text: str) -> tuple[str, float, bool]:
    """Value, number, and whether that is a share in percent. Raises ConfigError."""
    found = FORM.fullmatch(text)
    if not found or (found[3] and float(found[2]) > 100) or (not found[3] and "." in found[2]):
        raise ConfigError(
            f"select.quotas holds {text!r}; expected VALUE=COUNT or VALUE=SHARE%, e.g. city=40 or city=25%."
        )
    return found[1], float(found[2]), bool(found[3])


def check_quotas(quotas: Sequence[str], by: str, pairs: int, budgets: Sequence[int] = ()) -> None:
    """Refuse quotas that are malformed, without a column, or more than all pairs. Raises ConfigError."""
    if quotas and not by:
        raise ConfigError("select.quotas needs a column: name it by select.quota_by (class, or one of select.columns).")
    parsed = [parse_quota(text) for text in quotas]
    names = [name for name, _, _ in parsed]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"select.quotas names {twice!r} twice; expected each value once.")
    total = sum(_count(number, share, pairs) for _, number, share in parsed)
    if total > pairs:
        raise ConfigError(f"select.quotas ask for {total:,} pairs together, but select.pairs is {pairs:,}. Lower them.")
    if budgets and not all(share for _, _, share in parsed):
        raise ConfigError(
            "select.quotas are counts, which smaller budgets cannot all hold; give shares, e.g. city=25%."
        )


def groups_of(values: np.ndarray, usable: np.ndarray, by: str, quotas: Sequence[str], pairs: int) -> list[Group]:
    """The groups of images and how many pairs each gets.

    Without ``quotas`` every value gets the same number, as far as it has images; what a value lacks goes to others.
    With them, images of values that are not named share the rest.

    Args:
        values: (N,) texts, the value of each image.
        usable: (N,) bool, images that are left to choose.
        by: the column's name, for messages.
        quotas: as :func:`parse_quota` takes them.
        pairs: in all.

    Raises:
        ConfigError: a value that no image has, or a quota larger than its images.
    """
    there = {str(value): (values == value) & usable for value in np.unique(values.astype(str))}
    if not quotas:
        return _equal(there, pairs)
    groups: list[Group] = []
    for name, number, share in map(parse_quota, quotas):
        if name not in there:
            raise ConfigError(f"select.quotas: {unknown(f'value of column {by}', name, there)}")
        count = _count(number, share, pairs)
        have = int(there[name].sum())
        if have < count:
            raise ConfigError(
                f"select.quotas asks for {count:,} pairs with {by} {name}, but {have:,} images have it"
                f"{' after the steps before' if (values == name).sum() > have else ''}. Ask for {have:,} or fewer, or "
                f"loosen the filters."
            )
        groups.append(Group(name, there[name], count))
    rest = pairs - sum(group.count for group in groups)
    named = np.isin(values.astype(str), [group.name for group in groups])
    others = usable & ~named
    if rest > others.sum():
        raise ConfigError(
            f"select.quotas leave {rest:,} of {pairs:,} pairs to other values of {by}, which have {others.sum():,} "
            f"images. Raise the quotas, or ask for fewer pairs."
        )
    return [group for group in (*groups, Group("", others, rest)) if group.count]


def _count(number: float, share: bool, pairs: int) -> int:
    return int(pairs * number / 100 + 1e-9) if share else int(number)


def _equal(there: dict[str, np.ndarray], pairs: int) -> list[Group]:
    """As many of each value, as far as there are."""
    have = {name: int(images.sum()) for name, images in there.items()}
    counts = dict.fromkeys(have, 0)
    left = pairs
    while left and (open_ones := [name for name in have if counts[name] < have[name]]):
        each = max(1, left // len(open_ones))
        for name in open_ones:
            more = min(each, have[name] - counts[name], left)
            counts[name] += more
            left -= more
    return [Group(name, there[name], counts[name]) for name in have if counts[name]]
