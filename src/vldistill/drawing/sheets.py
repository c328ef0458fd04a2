"""Sheets: previews of distilled sets and contact sheets, as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vldistill.drawing.lettering import font, wrapped
from vldistill.drawing.palette import CARD, FAINT, INK, PAPER, RULE
from vldistill.drawing.pictures import check_pictures, enlarged, whole_side
from vldistill.storage.files import atomic

MOST_PAIRS, MOST_PICTURES = 20, 40  # on a sheet, from the first
MARGIN, GAP, PAD, LABEL, LINE = 24, 16, 12, 20, 18
"""Of a sheet, in pixels: edge, between cards, inside a card, the label's and the caption line's height."""


def draw_pairs(
    before: np.ndarray,
    after: np.ndarray,
    captions: Sequence[tuple[str, str]],
    path: Path,
    title: str,
) -> None:
    """Write a preview PNG of a distilled set: its first pairs before and after, each picture over its caption.

    Small pictures are enlarged without smoothing. Captions are wrapped, and cut with an ellipsis after five
    lines; characters that the DejaVu font lacks appear as boxes.

    Args:
        before: (N, 3, S, S) uint8, the pictures the distillation started from.
        after: (N, 3, S, S) uint8, the distilled pictures.
        captions: N times the caption before and the nearest real caption after; an empty one is left out.
        path: a name that ends in ``.png``; the file appears complete or not at all.
        title: a heading.

    Raises:
        ValueError: a wrong shape, dtype, count or file name.
    """
    check_pictures("after", after, captions)
    check_pictures("before", before, captions)
    if before.shape != after.shape:
        raise ValueError(f"before has shape {before.shape} but after has {after.shape}.")
    cards: list[_Card] = []
    for old, new, (start, nearest) in zip(before, after, captions[:MOST_PAIRS]):
        panels = [_Panel(old, "before", start), _Panel(new, "after, nearest caption", nearest)]
        cards.append(_Card(f"{len(cards) + 1}", panels))
    _draw_cards(cards, path, title, _count(len(cards), len(after), "pair"))


def draw_contact_sheet(images: np.ndarray, captions: Sequence[str], path: Path, title: str) -> None:
    """Write a PNG of the first pictures, each over its caption, as ``draw_pairs`` does.

    Args:
        images: (N, 3, S, S) uint8.
        captions: N texts; an empty one is left out.
        path: a name that ends in ``.png``; the file appears complete or not at all.
        title: a heading.

    Raises:
        ValueError: a wrong shape, dtype, count or file name.
    """
    check_pictures("images", images, captions)
    cards = [_Card("", [_Panel(picture, "", text)]) for picture, text in zip(images, captions[:MOST_PICTURES])]
    _draw_cards(cards, path, title, _count(len(cards), len(images), "picture"))


class _Panel(NamedTuple):
    picture: np.ndarray
    label: str
    caption: str


class _Card(NamedTuple):
    name: str
    panels: list[_Panel]


def _draw_cards(cards: Sequence[_Card], path: Path, title: str, subtitle: str) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} must end in .png.")
    side = whole_side(cards[0].panels[0].picture.shape[-1])
    panels = len(cards[0].panels)
    labelled = any(panel.label for panel in cards[0].panels)
    card_width = 2 * PAD + panels * side + (panels - 1) * GAP
    # Wide enough for a screen's 3:2, with cards about 1.4 pictures tall.
    columns = max(1, round(math.sqrt(1.5 * len(cards) * (1.45 * side) / card_width)))
    columns = math.ceil(len(cards) / math.ceil(len(cards) / columns))  # as full a last row as can be
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    texts = [[[wrapped(panel.caption, side) for panel in card.panels] for card in row] for row in rows]
    heights = [
        2 * PAD + LABEL * labelled + side + 6 + LINE * max(len(lines) for card in row for lines in card)
        for row in texts
    ]
    head = MARGIN + 58
    width = 2 * MARGIN + columns * card_width + (columns - 1) * GAP
    sheet = Image.new("RGB", (width, head + sum(heights) + GAP * (len(rows) - 1) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    heading = wrapped(title, width - 2 * MARGIN, lines=1, size=20, bold=True)
    draw.text((MARGIN, MARGIN - 4), heading[0] if heading else "", INK, font(20, bold=True))
    draw.text((MARGIN, head - 30), subtitle, FAINT, font(13))
    top = head
    for row, lines, height in zip(rows, texts, heights):
        for column, (card, card_lines) in enumerate(zip(row, lines)):
            left = MARGIN + column * (card_width + GAP)
            draw.rounded_rectangle((left, top, left + card_width - 1, top + height - 1), 6, CARD, RULE)
            _draw_card(sheet, card, card_lines, (left + PAD, top + PAD), side)
        top += height + GAP
    with atomic(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _draw_card(
    sheet: Image.Image, card: _Card, lines: Sequence[Sequence[str]], corner: tuple[int, int], side: int
) -> None:
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    for panel, text in zip(card.panels, lines):
        y = top
        if panel.label:
            label = f"{card.name}  {panel.label}" if panel is card.panels[0] else panel.label
            draw.text((left, y), label, FAINT, font(12))
            y += LABEL
        sheet.paste(enlarged(panel.picture, side), (left, y))
        y += side + 6
        for line in text:
            draw.text((left, y), line, INK, font(13))
            y += LINE
        left += side + GAP


def _count(shown: int, of: int, noun: str) -> str:
    plural = noun if of == 1 else noun + "s"
    return f"{of:,} {plural}" if shown == of else f"the first {shown:,} of {of:,} {plural}"
