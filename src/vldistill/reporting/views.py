"""The contents of a page, ready to be written: texts as the user has them, pictures as ``data:`` addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vldistill.config.plain import Record
from vldistill.reporting.overview import Table


@dataclass(frozen=True)
class Near:
    """A real caption or photo near to something.

    Args:
        text: the caption, or the photo's name.
        score: cosine similarity; None where it is not known.
        picture: of a photo, a ``data:`` address.
    """

    text: str
    score: float | None = None
    picture: str = ""


@dataclass(frozen=True)
class PairView:
    """One distilled pair.

    Args:
        number: from 1.
        before: the picture it started from, a ``data:`` address; empty where there is none.
        after: the learned picture; empty in feature space.
        change: the difference of the two.
        caption: the caption it started from; empty for noise.
        nearest_before: real captions nearest to the text it started from.
        nearest_after: real captions nearest to the learned text, at least one.
        photos: real photos nearest to the learned image side.
        image_change: root mean square change in grey levels of 255; in feature space 1 - cosine; None if unknown.
        text_change: 1 - cosine between the text it started from and the learned one; None if unknown.
        group: the label of its class; None where there is none. ``group_name`` is the class's name.
    """

    number: int
    before: str = ""
    after: str = ""
    change: str = ""
    caption: str = ""
    nearest_before: Sequence[Near] = ()
    nearest_after: Sequence[Near] = ()
    photos: Sequence[Near] = ()
    image_change: float | None = None
    text_change: float | None = None
    group: int | None = None
    group_name: str = ""


@dataclass(frozen=True)
class FigureView:
    """A chart: its title, its ``<svg>`` element (safe as it is), and a sentence beneath."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class SetView:
    """A distilled set with its gallery, maps and similarity.

    Args:
        run: name of its run.
        name: of the set.
        space: ``pixels`` or ``features``.
        side: of its pictures, pixels.
        gain: of the change pictures.
        facts: lines below its name.
        pairs: every pair.
        figures: maps and the learned similarity.
        notes: parts that could not be shown, and why.
    """

    run: str
    name: str
    space: str
    side: int
    gain: float = 1.0
    facts: Sequence[str] = ()
    pairs: Sequence[PairView] = ()
    figures: Sequence[FigureView] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class BrowserView:
    """The retrieval browser of one run.

    Args:
        run: name of the run.
        table: the students; None without any.
        data: read by the page's script. ``students``: names. ``images``: name, ``data:`` address and rows of its own
            captions of every test image shown. ``captions``: every one shown. ``byCaption`` and ``byImage``: a query
            each, with its row ``q``; by student ``a``, the rows of the top five and whether each is a right one, and
            ``r``, the rank of the best right one, from 1; of a caption ``own``, the row of its photo.
        note: parts that could not be shown, and why.
        sides: what stands on the two sides, in the singular.
    """

    run: str
    table: Table | None = None
    data: Record = field(default_factory=dict)
    note: str = ""
    sides: Sequence[str] = ("photo", "caption")


@dataclass(frozen=True)
class Extras:
    """Parts of one run that need its data: sets, the browser, and what could not be shown.

    Args:
        sets: the galleries.
        browser: the retrieval browser, None where it was not requested.
        notes: one sentence each.
    """

    sets: Sequence[SetView] = field(default_factory=tuple)
    browser: BrowserView | None = None
    notes: Sequence[str] = ()
