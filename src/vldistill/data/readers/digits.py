"""The reader of scikit-learn's scans of digits."""

from __future__ import annotations

from vldistill.data.account import Account
from vldistill.data.classes import Classes
from vldistill.data.collection import Collection
from vldistill.data.digits import NAMES, PROMPT, DigitImages, scans, splits_of
from vldistill.data.reader import reader
from vldistill.errors import DataError


@reader("digits", matches=lambda source: source == "digits" or source.startswith("digits:"))
def read(source: str) -> Collection:
    """The word digits: 1,797 real scans, a class set that scikit-learn holds; a fifth of each class is test."""
    if source != "digits":
        raise DataError(f"{source}: digits has no options. Write digits alone.")
    images, (_, labels) = DigitImages(), scans()
    classes = Classes(NAMES, labels, (PROMPT,), source)
    account = Account("scans", len(labels), len(images))
    about = {"format": "scikit-learn's digits", "classes": list(NAMES)}
    captions = classes.captions()
    return Collection(source, images, captions, splits_of(labels), about=about, accounts=(account,), classes=classes)
