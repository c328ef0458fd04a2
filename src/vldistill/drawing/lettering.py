"""Text in pictures: the font, what it can show, and lines of a width."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont, features

CAPTION_LINES = 5


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib, ``size`` pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(file), size, layout_engine=_layout())


def _layout() -> ImageFont.Layout:
    """Raqm, which writes from right to left and joins letters where a script does; without it one by one."""
    complete = features.check("raqm") and features.check("fribidi")
    return ImageFont.Layout.RAQM if complete else ImageFont.Layout.BASIC


def wrapped(text: str, width: int, *, lines: int = CAPTION_LINES, size: int = 13, bold: bool = False) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels; what is too long ends with an ellipsis."""
    letters = font(size, bold)
    # A punctuation mark by itself, as in tokenised captions, stays with the word before it.
    words = re.findall(r"\S+(?: [^\w\s]+(?= |$))*", " ".join(printable(text).split()))
    done: list[str] = []
    line = ""
    while words:
        word = words.pop(0)
        wider = f"{line} {word}" if line else word
        if letters.getlength(wider) <= width:
            line = wider
        elif len(done) == lines - 1:
            return [*done, _shorten(wider, width, letters)]
        elif line:
            done.append(line)
            line = ""
            words.insert(0, word)
        else:  # one word wider than a line: broken where the line ends
            fits = max(1, _fitting(word, width, letters))
            done.append(word[:fits])
            words.insert(0, word[fits:])
    return [*done, line] if line else done


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    room = width - font.getlength("…")
    return text[: _fitting(text, room, font)].rstrip() + "…"


def _fitting(text: str, width: float, font: ImageFont.FreeTypeFont) -> int:
    """How many of the first characters of ``text`` fit into ``width`` pixels."""
    return next((n for n in range(1, len(text) + 1) if font.getlength(text[:n]) > width), len(text) + 1) - 1


def printable(text: str) -> str:
    """The first 1,000 characters, composed, on one line, without what has no glyph of its own."""
    composed = unicodedata.normalize("NFC", text[:1000])
    hidden = ("Cc", "Cf", "Cs", "Cn")
    return "".join(
        " " if c.isspace() else c
        for c in composed
        if c.isspace() or not (unicodedata.category(c) in hidden or "\ufe00" <= c <= "\ufe0f")
    )


def one_line(text: str, most: int = 40) -> str:
    """``text`` on one line of at most ``most`` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
