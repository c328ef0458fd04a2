"""Which of several arrays, columns or kinds of files are the two sides of pairs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from vldistill.errors import DataError, unknown

TEXT = re.compile(
    r"(?:^|[^a-z])(texts?|txt|captions?|sentences?|descriptions?|titles?|queries|query|t|right)(?:$|[^a-z])"
)
IMAGE = re.compile(
    r"(?:^|[^a-z])(images?|img|pictures?|photos?|vision|visual|audio|sounds?|video|clips?|molecules?|v|left)(?:$|[^a-z])"
)
PREFERRED = ("l14", "b32")  # towers of DataComp's files, the one to take first
ENDS = ("img", "txt")  # of its arrays


def choose_sides(names: Sequence[str], options: Mapping[str, str], source: str, what: str) -> tuple[str, str]:
    """The names of the two sides: those of the options ``image`` and ``text``, else by their words.

    Two whose words say nothing are taken in the order of the alphabet.

    Args:
        names: of all that holds vectors.
        options: of the source.
        source: for messages.
        what: they are, in the plural.

    Raises:
        DataError: no such name, fewer than two, or several that could be meant.
    """
    known = sorted(names)
    asked = {side: options[side] for side in ("image", "text") if options.get(side)}
    for side, name in asked.items():
        if name not in known:
            raise DataError(f"{source}: {unknown(f'{what} ({side}=)', name, known)}")
    if len(asked) == 2 and asked["image"] == asked["text"]:
        raise DataError(f"{source}: image and text are both {asked['image']}; expected two different {what}.")
    left = [name for name in known if name not in asked.values()]
    if len(asked) == 2:
        return asked["image"], asked["text"]
    if len(asked) == 1 and len(left) == 1:
        return asked.get("image", left[0]), asked.get("text", left[0])
    if len(left) < 2 - len(asked):
        raise DataError(
            f"{source}: {len(known)} {what} with vectors ({', '.join(known) or 'none'}); expected two, one for each "
            f"side of the pairs."
        )
    if not asked and (found := _of_one_tower(known)):
        return found
    texts = [name for name in left if TEXT.search(name.lower())]
    images = [name for name in left if IMAGE.search(name.lower()) and name not in texts]
    if asked:
        candidates = texts if "image" in asked else images
        if len(candidates) == 1:
            return asked.get("image", candidates[0]), asked.get("text", candidates[0])
    elif len(texts) == len(images) == 1:
        return images[0], texts[0]
    elif len(left) == 2:
        return (left[1], left[0]) if texts == [left[0]] or images == [left[1]] else (left[0], left[1])
    raise DataError(
        f"{source}: several {what} hold vectors: {', '.join(known)}. Name the two sides: ?image=NAME&text=NAME."
    )


def _of_one_tower(names: Sequence[str]) -> tuple[str, str] | None:
    """The arrays of DataComp's files."""
    pairs = [tuple(f"{tower}_{end}" for end in ENDS) for tower in PREFERRED]
    return next(((image, text) for image, text in pairs if {image, text} <= set(names)), None)
