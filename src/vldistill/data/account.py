"""The account of a source: what was seen in it, what is used, and what is left out, by reason, with the first names.

``seen`` comes from a listing of its own (the lines of a file, the rows that its footer declares, the headers of a tar),
never from adding up the other two. That the two sides agree is checked wherever an account is closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vldistill.errors import DataError

FIRST = 3  # names kept for each reason


@dataclass
class LeftOut:
    """What was left out for one reason.

    Attributes:
        count: of units.
        first: their first names.
        loss: captions or images are lost; False for what is not data, such as the header of a table.
        detail: the first full message, where there is one.
    """

    count: int = 0
    first: list[str] = field(default_factory=list)
    loss: bool = True
    detail: str = ""


@dataclass(frozen=True)
class Account:
    """One balanced account.

    Attributes:
        unit: what is counted, in the plural: ``rows``, ``files``, ``tar members``.
        seen: in the source.
        used: of them.
        left_out: the rest, by reason.
    """

    unit: str
    seen: int
    used: int
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rest = sum(one.count for one in self.left_out.values())
        if self.seen != self.used + rest:
            raise DataError(
                f"{self.seen:,} {self.unit} were seen, but {self.used:,} are used and {rest:,} left out; expected a "
                f"balance. Either the source changed while it was read: read it again. Or this is a bug: report it."
            )

    def losses(self, but: str = "") -> list[str]:
        """A sentence for each reason, ``but`` one, for which captions or images are lost."""
        left = self.left_out.items()
        return [self._sentence(reason, one) for reason, one in left if one.loss and reason != but]

    def _sentence(self, reason: str, one: LeftOut) -> str:
        tail = f"; the first: {one.detail.rstrip('.')}" if one.detail else ""
        return (
            f"{one.count:,} {singular(self.unit) if one.count == 1 else self.unit} left out: {reason}{named(one)}{tail}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for json."""
        left = [
            {"reason": reason, "count": one.count, "first": one.first, "loss": one.loss}
            | ({"detail": one.detail} if one.detail else {})
            for reason, one in self.left_out.items()
        ]
        return {"unit": self.unit, "seen": self.seen, "used": self.used, "left_out": left}


def singular(unit: str) -> str:
    """``list entries`` -> ``list entry``."""
    return unit[:-3] + "y" if unit.endswith("ies") else unit.removesuffix("s")


def named(one: LeftOut) -> str:
    """The first names in brackets; nothing without names."""
    more = ", ..." if one.count > len(one.first) else ""
    return f" ({', '.join(one.first)}{more})" if one.first else ""


class Ledger:
    """An account that is still open.

    Args:
        unit: what is counted, in the plural.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.used = 0
        self._left: dict[str, LeftOut] = {}

    def use(self, count: int = 1) -> None:
        """``count`` more are used."""
        self.used += count

    def leave(self, reason: str, name: str, count: int = 1, *, loss: bool = True, detail: str = "") -> None:
        """``count`` more are left out; ``name`` is the first of them."""
        one = self._left.setdefault(reason, LeftOut(loss=loss, detail=detail))
        one.count += count
        if len(one.first) < FIRST:
            one.first.append(name[:200])

    @contextmanager
    def unit_of(self, name: str, count: int = 1, reason: str = "malformed") -> Iterator[None]:
        """``count`` units are used by the block, or left out where it raises DataError."""
        try:
            yield
        except DataError as error:
            self.leave(reason, name, count, detail=str(error))
        else:
            self.used += count

    def close(self, seen: int, *, needed: bool = True) -> Account:
        """The account, against the independent count ``seen``.

        Raises:
            DataError: the two sides differ; or nothing is used, for a reason that has a message of its own
                (``needed``).
        """
        account = Account(self.unit, seen, self.used, self._left)
        message = next((one.detail for one in self._left.values() if one.detail), "")
        if needed and not self.used and message:
            raise DataError(message)
        return account


def files_account(read: Sequence[Any], others: Mapping[str, Sequence[Any]], seen: int) -> Account:
    """The account of the files that were weighed: those read, and by reason those that are no data of this kind."""
    ledger = Ledger("files")
    ledger.use(len(read))
    for reason, paths in others.items():
        for path in paths:
            ledger.leave(reason, getattr(path, "name", str(path)), loss=False)
    return ledger.close(seen, needed=False)


def merged(accounts: Sequence[Account]) -> Account:
    """Accounts of the same unit as one."""
    left: dict[str, LeftOut] = {}
    for account in accounts:
        for reason, one in account.left_out.items():
            known = left.setdefault(reason, LeftOut(0, [], one.loss, one.detail))
            known.count += one.count
            known.first = [*known.first, *one.first][:FIRST]
    seen, used = (sum(getattr(account, name) for account in accounts) for name in ("seen", "used"))
    return Account(accounts[0].unit, seen, used, left)
