"""The targets ``SELECTOR:N`` and ``SELECTOR:NxC``: N real images with one caption, or C captions, each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vldistill.errors import ConfigError
from vldistill.selection.selector import SELECTORS


@dataclass(frozen=True)
class ChosenTarget:
    """Real pairs that a selector chooses: ``count`` images with ``captions`` captions each."""

    selector: str
    count: int
    captions: int = 1

    @staticmethod
    def parse(target: str) -> ChosenTarget:
        """Raises ConfigError for anything else, and for an unknown selector."""
        found = re.fullmatch(r"([^:]*):([0-9]+)(?:x([0-9]+))?", target)
        if not found or int(found[2]) < 2 or int(found[3] or 1) < 1:
            raise ConfigError(
                f"set {target!r}: expected a set's folder, SELECTOR:N such as random:N with N of 2 or more, "
                f"SELECTOR:NxC for C captions of each image, or full."
            )
        SELECTORS.find(found[1])
        return ChosenTarget(found[1], int(found[2]), int(found[3] or 1))


def count_in(target: str) -> int | None:
    """N of a target; None where it has none."""
    found = re.search(r":([0-9]+)(?:x[0-9]+)?$", target)
    return int(found[1]) if found else None
