"""Pictures of a run: previews of distilled sets, contact sheets, and curves."""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vldistill.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, RULE, PAPER, CARD = "#1f2328", "#59636e", "#d1d9e0", "#f6f8fa", "#ffffff"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Okabe and Ito's colours, told apart with any common colour blindness; yellow and black left out."""
TILE = 192
"""About the side of a picture on a sheet, in pixels."""
CAPTION_LINES = 5


def draw_pairs(
    before: np.ndarray | None,
    after: np.ndarray,
    captions: Sequence[tuple[str, str]],
    path: Path,
    *,
    columns: int | None = None,
    limit: int = 20,
    title: str | None = None,
) -> None:
    """Write a preview PNG of a distilled set: every pair before and after, each picture over its caption.

    Small pictures are enlarged without smoothing. Captions are wrapped, and cut with an ellipsis after five
    lines; characters that the DejaVu font lacks appear as boxes.

    Args:
        before: (N, 3, S, S) uint8, the pictures the distillation started from, or None where there are none.
        after: (N, 3, S, S) uint8, the distilled pictures.
        captions: N times the caption before and the nearest real caption after; an empty one is left out.
        path: a name that ends in ``.png``; the file appears complete or not at all.
        columns: pairs beside each other; by default as many as make a sheet of about screen shape.
        limit: the most pairs to draw, from the first.
        title: a heading; by default none.

    Raises:
        ValueError: a wrong shape, dtype, count, limit or file name.
    """
    _check_pictures("after", after, captions)
    if before is not None:
        _check_pictures("before", before, captions)
        if before.shape != after.shape:
            raise ValueError(f"before has shape {before.shape} but after has {after.shape}.")
    cards: list[_Card] = []
    for index in range(_shown(len(after), limit)):
        text_before, text_after = captions[index]
        if before is None:
            panels = [_Panel(after[index], "nearest caption", text_after)]
        else:
            panels = [
                _Panel(before[index], "before", text_before),
                _Panel(after[index], "after, nearest caption", text_after),
            ]
        cards.append(_Card(f"{index + 1}", panels))
    _draw_cards(cards, path, columns, title, _count(len(cards), len(after), "pair"))


def draw_contact_sheet(
    images: np.ndarray,
    captions: Sequence[str],
    path: Path,
    *,
    columns: int | None = None,
    limit: int = 40,
    title: str | None = None,
) -> None:
    """Write a PNG of pictures, each over its caption, as ``draw_pairs`` does.

    Args:
        images: (N, 3, S, S) uint8.
        captions: N texts; an empty one is left out.
        path: a name that ends in ``.png``; the file appears complete or not at all.
        columns: pictures beside each other; by default as many as make a sheet of about screen shape.
        limit: the most pictures to draw, from the first.
        title: a heading; by default none.

    Raises:
        ValueError: a wrong shape, dtype, count, limit or file name.
    """
    _check_pictures("images", images, captions)
    shown = _shown(len(images), limit)
    cards = [_Card("", [_Panel(images[i], "", captions[i])]) for i in range(shown)]
    _draw_cards(cards, path, columns, title, _count(shown, len(images), "picture"))


def draw_curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Write a line chart as PNG or SVG, by the end of ``path``; it appears complete or not at all.

    Args:
        series: (x, y) points by the name of their line; a value that is not finite leaves a gap.
        path: a name that ends in ``.png`` or ``.svg``.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: a heading; by default none.
        levels: horizontal reference lines by name (such as full data, random, chance), in the unit of y;
            one that is not finite is left out.

    Raises:
        ValueError: a file name that ends otherwise.
    """
    from matplotlib.figure import Figure

    kind = _kind(path, ("png", "svg"))
    figure = Figure(figsize=(7.6, 4.4), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot(facecolor="white")
    reference = {name: y for name, y in (levels or {}).items() if math.isfinite(y)}
    _draw_lines(axes, series)
    _frame(axes, series, reference)
    axes.set_xlabel(_name(xlabel), color=INK, parse_math=False)
    axes.set_ylabel(_name(ylabel), color=INK, parse_math=False)
    if len(series) > 1:
        ncols = min(4, max(1, 95 // (8 + max(len(_name(name)) for name in series))))
        legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, frameon=False, borderaxespad=0.2)
        for text in legend.get_texts():
            text.set(color=INK, fontsize=9, parse_math=False)
    if title:
        figure.suptitle(_name(title, 80), x=0.01, ha="left", fontsize=12, weight="bold", color=INK, parse_math=False)
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _draw_lines(axes: Axes, series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for index, (name, points) in enumerate(series.items()):
        table = np.asarray(points, dtype=float).reshape(-1, 2)
        table[~np.isfinite(table)] = np.nan
        style = ("-", "--", ":")[index // len(PALETTE) % 3]
        few = len(table) <= 30
        axes.plot(
            *table.T, style, color=PALETTE[index % len(PALETTE)], linewidth=1.8,
            marker="o" if few else None, markersize=4, clip_on=False, zorder=3,
            label=f" {_name(name)}",  # the blank: matplotlib hides a name that starts with _
        )  # fmt: skip


def _frame(axes: Axes, series: Mapping[str, Sequence[tuple[float, float]]], reference: Mapping[str, float]) -> None:
    """Limits, grid and spines, and the reference levels with their names beside the right edge."""
    values = [y for points in series.values() for _, y in points if math.isfinite(y)]
    values += reference.values()
    low, high = min(values, default=0.0), max(values, default=1.0)
    if 0 <= low < high / 2 or low == high == 0:
        low = 0.0  # a recall shows its size only above zero
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    axes.set_ylim(low if low == 0 else low - margin, high + margin)
    axes.margins(x=0.02)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    bottom, top = axes.get_ylim()
    names = sorted(reference, key=lambda name: reference[name])
    heights = _spread([(reference[name] - bottom) / (top - bottom) for name in names], 0.05)
    for name, height in zip(names, heights):
        axes.axhline(reference[name], color=FAINT, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)
        axes.text(
            1.01, height, f"{_name(name)}  {reference[name]:.3g}", transform=axes.transAxes, parse_math=False,
            ha="left", va="center", fontsize=9, color=FAINT,
        )  # fmt: skip


def _name(text: str, most: int = 40) -> str:
    """``text`` on one line of at most ``most`` characters."""
    line = " ".join(_printable(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """``heights`` (ascending) moved as little as needed to be ``gap`` apart and not above 1."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    ceiling = 1.0
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


class _Panel(NamedTuple):
    picture: np.ndarray
    label: str
    caption: str


class _Card(NamedTuple):
    name: str
    panels: list[_Panel]


MARGIN, GAP, PAD, LABEL, LINE = 24, 16, 12, 20, 18
"""Of a sheet, in pixels: edge, between cards, inside a card, the label's and the caption line's height."""


def _draw_cards(cards: Sequence[_Card], path: Path, columns: int | None, title: str | None, subtitle: str) -> None:
    _kind(path, ("png",))
    side = _side(cards[0].panels[0].picture.shape[-1])
    panels = len(cards[0].panels)
    labelled = any(panel.label for panel in cards[0].panels)
    card_width = 2 * PAD + panels * side + (panels - 1) * GAP
    if columns is None:
        # Wide enough for a screen's 3:2, with cards about 1.4 pictures tall.
        columns = max(1, round(math.sqrt(1.5 * len(cards) * (1.45 * side) / card_width)))
        columns = math.ceil(len(cards) / math.ceil(len(cards) / columns))  # as full a last row as can be
    columns = min(max(1, columns), len(cards))
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    texts = [[[_wrap(panel.caption, side) for panel in card.panels] for card in row] for row in rows]
    heights = [
        2 * PAD + LABEL * labelled + side + 6 + LINE * max(len(lines) for card in row for lines in card)
        for row in texts
    ]
    head = MARGIN + (30 if title else 0) + 28
    width = 2 * MARGIN + columns * card_width + (columns - 1) * GAP
    sheet = Image.new("RGB", (width, head + sum(heights) + GAP * (len(rows) - 1) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        heading = _wrap(title, width - 2 * MARGIN, lines=1, size=20, bold=True)
        draw.text((MARGIN, MARGIN - 4), heading[0] if heading else "", INK, _font(20, bold=True))
    draw.text((MARGIN, head - 30), subtitle, FAINT, _font(13))
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
            draw.text((left, y), label, FAINT, _font(12))
            y += LABEL
        sheet.paste(_enlarge(panel.picture, side), (left, y))
        y += side + 6
        for line in text:
            draw.text((left, y), line, INK, _font(13))
            y += LINE
        left += side + GAP


def _side(pixels: int) -> int:
    """The side on the sheet of a picture of ``pixels``: a whole multiple of a tiny one, itself if it fits."""
    if pixels <= TILE // 2:
        return pixels * round(TILE / pixels)
    return pixels if 160 <= pixels <= 256 else TILE


def _enlarge(picture: np.ndarray, side: int) -> Image.Image:
    """A (3, S, S) uint8 array as a picture of ``side``; whole multiples keep their pixels sharp."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    whole = side % image.width == 0
    return image.resize((side, side), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib, ``size`` pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def _wrap(text: str, width: int, *, lines: int = CAPTION_LINES, size: int = 13, bold: bool = False) -> list[str]:
    """``text`` in at most ``lines`` lines of ``width`` pixels; what is too long ends with an ellipsis."""
    font = _font(size, bold)
    # A punctuation mark that stands alone, as in tokenised captions, stays with the word before it.
    words = re.findall(r"\S+(?: [^\w\s]+(?= |$))*", " ".join(_printable(text).split()))
    done: list[str] = []
    line = ""
    while words:
        word = words.pop(0)
        wider = f"{line} {word}" if line else word
        if font.getlength(wider) <= width:
            line = wider
            continue
        if len(done) == lines - 1:
            return [*done, _shorten(wider, width, font)]
        if line:
            done.append(line)
            line = ""
            words.insert(0, word)
        else:  # one word wider than a line: broken where the line ends
            fits = max(1, _fitting(word, width, font))
            done.append(word[:fits])
            words.insert(0, word[fits:])
    return [*done, line] if line else done


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    room = width - font.getlength("…")
    return text[: _fitting(text, room, font)].rstrip() + "…"


def _fitting(text: str, width: float, font: ImageFont.FreeTypeFont) -> int:
    """How many of the first characters of ``text`` fit into ``width`` pixels."""
    return next((n for n in range(1, len(text) + 1) if font.getlength(text[:n]) > width), len(text) + 1) - 1


def _printable(text: str) -> str:
    """The first 1,000 characters, composed, on one line, without what has no glyph of its own."""
    composed = unicodedata.normalize("NFC", text[:1000])
    hidden = ("Cc", "Cf", "Cs", "Cn")
    return "".join(
        " " if c.isspace() else c
        for c in composed
        if c.isspace() or not (unicodedata.category(c) in hidden or "\ufe00" <= c <= "\ufe0f")
    )


def _shown(count: int, limit: int) -> int:
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}.")
    return min(count, limit)


def _count(shown: int, of: int, noun: str) -> str:
    plural = noun if of == 1 else noun + "s"
    return f"{of:,} {plural}" if shown == of else f"the first {shown:,} of {of:,} {plural}"


def _kind(path: Path, kinds: Sequence[str]) -> str:
    kind = path.suffix.lower().lstrip(".")
    if kind not in kinds:
        raise ValueError(f"{path} must end in {' or '.join('.' + k for k in kinds)}.")
    return kind


def _check_pictures(name: str, pictures: np.ndarray, captions: Sequence[object]) -> None:
    shape = pictures.shape
    if pictures.dtype != np.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
        raise ValueError(f"{name} must be uint8 (N, 3, S, S), not empty; got {pictures.dtype} of shape {shape}.")
    if shape[0] != len(captions):
        raise ValueError(f"{name} has {shape[0]} pictures but there are {len(captions)} captions.")
