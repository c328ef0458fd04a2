"""Conditions on a measured value, as a user types them: ``words>=3``, ``aspect<=3``, ``score=top30%``, ``language=en``.

============================  ================================================================
``NAME>=X``, ``>``, ``<=``     pairs whose value is at least, above, at most, below X
``NAME=A..B``                 from A to B; either end may be left out. Needs no quotes in a shell
``NAME>=p25``                 at least the 25th percentile of the pairs that reach the step
``NAME=top30%``               the 30 % with the highest values; ``bottom30%`` the lowest
``NAME=en+de``, ``NAME!=en``   texts: one of these, none of these
============================  ================================================================
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from vldistill.errors import ConfigError

FORM = re.compile(r"\s*([a-z]\w*)\s*(>=|<=|!=|==|=|>|<)\s*(\S.*?)\s*", re.DOTALL | re.IGNORECASE)
EXAMPLE = "words>=3, aspect=..3, score=top30% or language=en"


@dataclass(frozen=True)
class Condition:
    """One condition.

    Args:
        text: as it was typed.
        name: of the filter.
        sign: ``>=``, ``>``, ``<=``, ``<``, ``=`` or ``!=``.
        value: what follows the sign.
    """

    text: str
    name: str
    sign: str
    value: str

    @staticmethod
    def parse(text: str) -> Condition:
        """Raises ConfigError for what is no condition."""
        found = FORM.fullmatch(text)
        if not found:
            raise ConfigError(f"select.filters holds {text!r}; expected NAME, a sign and a value, e.g. {EXAMPLE}.")
        return Condition(text.strip(), found[1], "=" if found[2] == "==" else found[2], found[3])

    def check_number(self) -> None:
        """Refuse a value that numbers cannot be compared with. Raises ConfigError."""
        self._limits(np.zeros(1))

    def check_text(self) -> None:
        """Refuse signs that texts have no use for. Raises ConfigError."""
        if self.sign not in ("=", "!="):
            raise ConfigError(f"select.filters: {self.text} compares texts; expected = or !=, e.g. {self.name}=en+de.")

    @property
    def texts(self) -> list[str]:
        """The texts that are named."""
        return [part.strip() for part in self.value.split("+") if part.strip()]

    def holds_for_texts(self, values: np.ndarray) -> np.ndarray:
        """Which of ``values`` (K,) of texts fulfil it, (K,) bool."""
        self.check_text()
        found = np.isin(values, self.texts)
        return found if self.sign == "=" else ~found

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Which of ``values`` (K,) of numbers fulfil it, (K,) bool; undefined ones (NaN) do not."""
        return self.holds_among(values, values)

    def holds_among(self, values: np.ndarray, among: np.ndarray) -> np.ndarray:
        """The same, where shares and percentiles are those of the values ``among``."""
        low, high, strict = self._limits(among)
        with np.errstate(invalid="ignore"):
            inside = (values > low) & (values < high) if strict else (values >= low) & (values <= high)
        return ~inside & ~np.isnan(values) if self.sign == "!=" else inside

    def note(self, values: np.ndarray) -> str:
        """The threshold that a share or a percentile stands for among ``values``; nothing where it is a plain one."""
        if not re.search(r"[p%]", self.value):
            return ""
        low, high, _ = self._limits(values)
        return f"from {low:.4g} on" if math.isfinite(low) else f"up to {high:.4g}"

    def _limits(self, values: np.ndarray) -> tuple[float, float, bool]:
        """Lowest and highest value, and whether these are left out themselves."""
        if share := re.fullmatch(r"(top|bottom)\s*([\d.]+)\s*%", self.value):
            part = _number(share[2], self)
            if self.sign != "=" or not 0 < part <= 100:
                raise ConfigError(
                    f"select.filters: {self.text}; expected a share in (0, 100], e.g. {self.name}=top30%."
                )
            return (_ranked(values, 1 - part / 100), math.inf, False) if share[1] == "top" else (
                -math.inf, -_ranked(-values, 1 - part / 100), False,
            )  # fmt: skip
        if self.sign in ("=", "!="):
            first, dots, last = self.value.partition("..")
            if not dots:
                last = first
            if dots and not first.strip() and not last.strip():
                raise ConfigError(f"select.filters: {self.text}; expected an end, e.g. {self.name}=3..30.")
            low = self._end(first, values) if first.strip() else -math.inf
            high = self._end(last, values) if last.strip() else math.inf
            if low > high:
                raise ConfigError(f"select.filters: {self.text} runs from {low:g} to {high:g}; expected low..high.")
            return low, high, False
        end = self._end(self.value, values)
        low, high = (end, math.inf) if self.sign[0] == ">" else (-math.inf, end)
        return low, high, len(self.sign) == 1

    def _end(self, word: str, values: np.ndarray) -> float:
        word = word.strip()
        if word.startswith("p"):
            part = _number(word[1:], self)
            if not 0 <= part <= 100:
                raise ConfigError(f"select.filters: {self.text}; expected a percentile from p0 to p100.")
            known = values[~np.isnan(values)]
            return float(np.percentile(known, part)) if len(known) else math.nan
        return _number(word, self)


def _ranked(values: np.ndarray, below: float) -> float:
    """The value from which on the highest are kept, where the part ``below`` of all is not."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan
    place = min(math.floor(below * len(known) + 1e-9), len(known) - 1)
    return float(np.partition(known, place)[place])


def _number(word: str, condition: Condition) -> float:
    try:
        found = float(word)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(
            f"select.filters: {condition.text} compares with {word!r}; expected a number, e.g. {EXAMPLE}."
        )
    return found
