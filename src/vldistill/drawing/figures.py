"""Charts of a run as files, or as SVG for a page whose colours follow its theme."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from vldistill.drawing.lettering import one_line
from vldistill.drawing.palette import FAINT, INK, PALETTE, RULE
from vldistill.storage.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
WIDE, SMALL = (7.6, 4.4), (4.9, 3.3)
"""Figure sizes in inches: a file of its own, and one of several beside each other on a page."""
THEME = {INK: "--ink", FAINT: "--soft", RULE: "--rule"} | {c: f"--c{i}" for i, c in enumerate(PALETTE)}
"""The variable of the page's stylesheet for a colour of a drawing."""


def draw_curves(
    series: Mapping[str, Points],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Write a line chart as PNG; it appears complete or not at all.

    Args:
        series: (x, y) points by the name of their line; a value that is not finite leaves a gap.
        path: of the file.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: a heading; by default none.
        levels: horizontal reference lines by name (such as full data, random, chance), in the unit of y;
            one that is not finite is left out.
    """
    figure = curves(series, xlabel=xlabel, ylabel=ylabel, title=title, levels=levels)
    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(temporary, format="png")


def curves(
    series: Mapping[str, Points],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    levels: Mapping[str, float] | None = None,
    errors: Mapping[str, Sequence[float]] | None = None,
    size: tuple[float, float] = WIDE,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """The line chart of :func:`draw_curves`, not yet written anywhere.

    Args:
        errors: by the name of a line, half the length of the bar at each of its points.
        size: width and height in inches.
        log_x: a logarithmic scale, where every x is above 0.
        log_y: the same for y.
    """
    figure, axes = _figure(size)
    reference = {name: y for name, y in (levels or {}).items() if math.isfinite(y)}
    _draw_lines(axes, series, errors or {})
    _frame(axes, series, reference, 0.22 / size[1])
    for wanted, axis, column in ((log_x, "x", 0), (log_y, "y", 1)):
        values = [point[column] for points in series.values() for point in points if math.isfinite(point[column])]
        if wanted and values and min(values) > 0:
            _logarithmic(axes, axis, values)
    _label(axes, xlabel, ylabel)
    if len(series) > 1:
        rows = _legend(axes, [one_line(name) for name in series], size[0])
        figure.set_size_inches(size[0], size[1] + 0.17 * max(0, rows - 2))  # many names take nothing from the lines
    if title:
        figure.suptitle(one_line(title, 80), x=0.01, ha="left", fontsize=12, weight="bold", color=INK, parse_math=False)
    return figure


def scatter(clouds: Sequence[tuple[str, np.ndarray]], *, xlabel: str, ylabel: str, moves: np.ndarray | None) -> Figure:
    """A map: real rows as faint dots, then starts and distilled rows above them.

    Args:
        clouds: (name, (n, 2) positions): real ones first, then where pairs started (if known), then the distilled.
        moves: (N, 2, 2) from and to, drawn as thin lines, or None.
    """
    from matplotlib.collections import LineCollection

    figure, axes = _figure((4.9, 4.3))
    styles = (
        {"s": 7, "color": FAINT, "alpha": 0.35, "linewidths": 0},
        {"s": 20, "facecolors": "none", "edgecolors": PALETTE[0], "linewidths": 1.0},
        {"s": 20, "color": PALETTE[1], "linewidths": 0},
    )
    chosen = styles if len(clouds) == 3 else (styles[0], styles[2])
    for order, ((name, places), style) in enumerate(zip(clouds, chosen)):
        axes.scatter(*places.T, label=f" {one_line(name)}", zorder=2 + 2 * order, **style)
    if moves is not None:
        axes.add_collection(LineCollection(list(moves), colors=PALETTE[1], linewidths=0.5, alpha=0.5, zorder=3))
    _label(axes, xlabel, ylabel)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(RULE)
    _legend(axes, [name for name, _ in clouds], 4.9)
    return figure


def heat_map(values: np.ndarray, *, xlabel: str, ylabel: str) -> Figure:
    """A square matrix (N, N) as colours, with its scale."""
    figure, axes = _figure((4.9, 4.3))
    shown = axes.imshow(values, cmap="viridis", interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    _label(axes, xlabel, ylabel)
    bar = figure.colorbar(shown, ax=axes, shrink=0.85)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(colors=FAINT, labelsize=9, length=0)
    return figure


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """``figure`` as an ``<svg>`` element for a page: text stays text, colours are variables of the stylesheet.

    Args:
        name: unique on the page, of letters, digits and ``-``; it begins every id.
        label: what a screen reader reads out.
    """
    from xml.sax.saxutils import quoteattr

    buffer = io.StringIO()
    figure.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Everything between tags is text of the chart; only the tags are rewritten.
    text = re.sub(r"<[^>]+>", lambda tag: _rewritten(tag[0], name), text)
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    space = 'xmlns="http://www.w3.org/2000/svg"'
    return f'<svg {space} {box[0] if box else ""} role="img" aria-label={quoteattr(label)}>{rest}'


def _rewritten(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag).replace("xlink:href", "href")
    tag = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", tag)
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    for colour, variable in THEME.items():
        tag = re.sub(colour, f"var({variable})", tag, flags=re.IGNORECASE)
    return tag


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, facecolor="white", layout="constrained")
    return figure, figure.add_subplot(facecolor="white")


def _label(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(one_line(xlabel), color=INK, parse_math=False)
    axes.set_ylabel(one_line(ylabel), color=INK, parse_math=False)


def _legend(axes: Axes, names: Sequence[str], width: float) -> int:
    """Above the axes, in as many columns as fit into ``width`` inches; returns the number of rows."""
    ncols = min(4, max(1, int(width * 12.5) // (8 + max(len(name) for name in names))))
    legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, frameon=False, borderaxespad=0.2)
    for text in legend.get_texts():
        text.set(color=INK, fontsize=9, parse_math=False)
    return math.ceil(len(names) / ncols)


def _logarithmic(axes: Axes, axis: str, values: Sequence[float]) -> None:
    """A logarithmic scale, and ticks at the values themselves where they are few, as budgets are."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    if axis == "y":
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.15)
        return
    axes.set_xscale("log")
    axes.set_xlim(low / 1.3, high * 1.3)
    distinct = sorted(set(values))
    if len(distinct) <= 6:
        axes.xaxis.set_major_locator(FixedLocator(distinct))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _draw_lines(axes: Axes, series: Mapping[str, Points], errors: Mapping[str, Sequence[float]]) -> None:
    for index, (name, points) in enumerate(series.items()):
        table = np.asarray(points, dtype=float).reshape(-1, 2)
        table[~np.isfinite(table)] = np.nan
        style = ("-", "--", ":")[index // len(PALETTE) % 3]
        colour = PALETTE[index % len(PALETTE)]
        few = len(table) <= 30
        axes.plot(
            *table.T, style, color=colour, linewidth=1.8,
            marker="o" if few else None, markersize=4, clip_on=False, zorder=3,
            label=f" {one_line(name)}",  # the blank: matplotlib hides a name that starts with _
        )  # fmt: skip
        if name in errors:
            axes.errorbar(*table.T, yerr=errors[name], fmt="none", ecolor=colour, elinewidth=1.0, capsize=2, zorder=3)


def _frame(axes: Axes, series: Mapping[str, Points], reference: Mapping[str, float], gap: float) -> None:
    """Limits, grid and spines, and the reference levels with names beside the right edge, ``gap`` between them."""
    from matplotlib.ticker import MaxNLocator

    values = [y for points in series.values() for _, y in points if math.isfinite(y)]
    values += reference.values()
    low, high = min(values, default=0.0), max(values, default=1.0)
    if 0 <= low < high / 2 or low == high == 0:
        low = 0.0  # a recall shows its size only above zero
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    axes.set_ylim(low if low == 0 else low - margin, high + margin)
    axes.margins(x=0.02)
    if all(float(x).is_integer() for points in series.values() for x, _ in points if math.isfinite(x)):
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    bottom, top = axes.get_ylim()
    names = sorted(reference, key=lambda name: reference[name])
    heights = _spread([(reference[name] - bottom) / (top - bottom) for name in names], gap)
    for name, height in zip(names, heights):
        axes.axhline(reference[name], color=FAINT, linewidth=1.1, linestyle=(0, (5, 3)), zorder=2)
        axes.text(
            1.01, height, f"{one_line(name, 24)}  {reference[name]:.3g}", transform=axes.transAxes, parse_math=False,
            ha="left", va="center", fontsize=9, color=FAINT,
        )  # fmt: skip


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """``heights`` (ascending) moved as little as needed to be ``gap`` from each other and not above 1."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    ceiling = 1.0
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
