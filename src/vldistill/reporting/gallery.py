"""The gallery of one set: every pair before and after, and its neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.data.cache import DecodedImages, squashed
from vldistill.data.pairs import Pairs
from vldistill.distilled.distilled_set import DistilledSet, one_line
from vldistill.drawing.figures import heat_map, inline_svg
from vldistill.drawing.pictures import change_gain, change_pictures, change_sizes, data_uri, fitting_quality, to_bytes
from vldistill.encoders.precomputed import PRECOMPUTED
from vldistill.errors import DataError
from vldistill.reporting.neighbours import Places, changes, maps, nearest, places
from vldistill.reporting.views import FigureView, Near, PairView, SetView
from vldistill.workbench.bench import Workbench
from vldistill.workbench.headline import IN_WORDS, val_measure, val_score

NEAREST = 3
PHOTO_SIDE = 96  # of real photos beside a pair, pixels


def view_set(
    run: str,
    distilled: DistilledSet,
    bench: Workbench | None,
    name: str,
    budget: int,
    trouble: str = "",
    select: SelectConfig | None = None,
) -> SetView:
    """The page's view of a set.

    Args:
        run: name of its run.
        bench: the data and towers it was made with; None where they are not available: no pictures before, no nearest
            photos, no maps, and only the captions that the set itself carries.
        name: unique in the report, of letters, digits and ``-``.
        budget: bytes of the page that its pictures may take.
        trouble: why there is no bench.
        select: of the run, for a start that a selector chose.

    Raises:
        VldistillError: the set does not fit the towers of the run.
    """
    place = places(bench, distilled, select) if bench else None
    trouble = trouble or (place.trouble if place else "")
    figures = maps(bench, distilled, place, name) if bench and place else []
    if distilled.similarity is not None:
        figures.append(_similarity(distilled, name))
    after = to_bytes(distilled.pixels().numpy()) if distilled.space == "pixels" else None
    before = _start_bytes(distilled, place) if after is not None and place else None
    drawn, gain, sizes, small = _pictures(before, after, len(distilled), budget)
    views = []
    captions = _captions(distilled, bench, place)
    photos = _photos(bench, place, len(distilled), budget // 4)
    text_changes = changes(place.start.texts, place.texts) if place and place.start else None
    if after is None and place and place.start_images is not None:
        sizes = changes(place.start_images, place.images)
    groups = _groups(distilled)
    for index, (caption, nearest_before, nearest_after) in enumerate(captions):
        views.append(
            PairView(
                number=index + 1,
                **drawn[index],
                caption=caption,
                nearest_before=nearest_before,
                nearest_after=nearest_after,
                photos=photos[index],
                image_change=None if sizes is None else float(sizes[index]),
                text_change=None if text_changes is None else float(text_changes[index]),
                group=groups[index][0],
                group_name=groups[index][1],
            )
        )
    views.sort(key=lambda view: math.inf if view.group is None else view.group)  # stable: else by number
    side = distilled.images.shape[-1] if after is not None else 0
    notes = [note for note in (trouble, small, *map(str, distilled.info.get("steps", ()))) if note]
    return SetView(run, distilled.name, distilled.space, side, gain, _facts(distilled, gain), views, figures, notes)


def _groups(distilled: DistilledSet) -> list[tuple[int | None, str]]:
    """The label and the name of the class of every pair; neither where there is none."""
    found = distilled.classes
    if found is None:
        return [(None, "")] * len(distilled)
    return [(label, "" if label is None else found.names[label]) for label in found.labels]


def _facts(distilled: DistilledSet, gain: float) -> list[str]:
    image, selection = distilled.towers["image"], distilled.info.get("selection") or {}
    facts = [f"{len(distilled)} pairs, {distilled.stored_floats:,} stored floats"]
    facts.append(f"method {distilled.info.get('method', 'unknown')}, iteration {distilled.info.get('iteration', '?')}")
    if (score := val_score(selection)) is not None:
        words, looks = IN_WORDS[val_measure(selection)], selection.get("looks")
        facts.append(f"{words} on val {score:.1f} % at the best of {looks} validations")
    if image.get("kind") == PRECOMPUTED:
        facts.append(
            f"vectors of {image['name']}: the real ones nearest to each are shown, with a picture where there is one"
        )
    elif distilled.space == "features":
        facts.append(f"features of {image['name']}, no pictures: the real photos nearest to each are shown")
    else:
        facts.append(f"{image['size']} px")
        facts.append(f"change: after - before around grey, × {gain:.1f}")
    return facts


def _start_bytes(distilled: DistilledSet, place: Places) -> np.ndarray | None:
    """The starting pictures as bytes; None without any, or where they are of another size than the learned ones."""
    if place.start is None or place.start.images.shape != distilled.images.shape:
        return None
    return to_bytes(replace(distilled, images=place.start.images.cpu()).pixels().numpy())


def _pictures(
    before: np.ndarray | None, after: np.ndarray | None, count: int, budget: int
) -> tuple[list[dict[str, str]], float, Sequence[float] | None, str]:
    """Addresses of every pair's pictures, the gain of the change, its size by pair, and a note if they were reduced."""
    if after is None:
        return [{} for _ in range(count)], 1.0, None, ""
    stacks = {"after": after}
    gain, sizes = 1.0, None
    if before is not None:
        changes = change_sizes(before, after)
        gain, sizes = change_gain(changes), changes.tolist()
        stacks = {"before": before, "after": after, "change": change_pictures(before, after, gain)}
    every = np.concatenate([stack[:: max(1, len(after) // 4)] for stack in stacks.values()])
    share, quality = fitting_quality(every, len(after) * len(stacks), budget)
    drawn = [
        {name: data_uri(stack[index], share, quality) for name, stack in stacks.items()} for index in range(len(after))
    ]
    side = after.shape[-1]
    small = f"To keep this file small, pictures are shown at {round(side * share)} of {side} px." if share < 1 else ""
    return drawn, gain, sizes, small


def _captions(
    distilled: DistilledSet, bench: Workbench | None, place: Places | None
) -> list[tuple[str, list[Near], list[Near]]]:
    """By pair: the caption it started from, the nearest ones before, and after."""
    recorded = [{kind: one_line(own) for kind, own in c.items()} for c in distilled.captions] or [{}] * len(distilled)
    if bench is None or place is None:
        return [(c.get("start", ""), [], [Near(c["nearest"])] if c.get("nearest") else []) for c in recorded]
    after = _nearest_captions(bench, place.texts)
    before = _nearest_captions(bench, place.start.texts) if place.start else [[] for _ in recorded]
    return [(c.get("start", ""), b, a) for c, b, a in zip(recorded, before, after, strict=True)]


def _nearest_captions(bench: Workbench, texts: torch.Tensor) -> list[list[Near]]:
    """Different captions: many real ones read the same."""
    split = bench.split("train")
    scores, rows = nearest(bench.sentence_inputs("train"), texts, 8 * NEAREST, bench.device)
    found = []
    for own_scores, own_rows in zip(scores, rows):
        best: dict[str, float] = {}
        for score, row in zip(own_scores, own_rows):
            best.setdefault(split.pairs.captions[int(row)], float(score))
        found.append([Near(text, score) for text, score in list(best.items())[:NEAREST]])
    return found


def _photos(bench: Workbench | None, place: Places | None, count: int, budget: int) -> list[list[Near]]:
    """The nearest real photos of every pair; none where the tower is trained, for nothing real is encoded there."""
    if bench is None or place is None or bench.setting != "heads":
        return [[] for _ in range(count)]
    split = bench.split("train")
    scores, rows = nearest(split.data.images, place.images, NEAREST, bench.device)
    names = split.pairs.images.names
    pictures = photo_addresses(split.pixels, np.unique(rows), rows.size, budget, 75)
    return [
        [Near(names[int(row)], float(score), pictures.get(int(row), "")) for score, row in zip(own_scores, own_rows)]
        for own_scores, own_rows in zip(scores, rows)
    ]


def photo_addresses(
    pixels: DecodedImages, rows: Sequence[int] | np.ndarray, shown: int, budget: int, quality: int
) -> dict[int, str]:
    """``data:`` addresses of real photos by row, of at most ``quality``: ``shown`` of them fit ``budget`` bytes.

    Of pairs that are given by their vectors those alone whose picture is there.
    """
    found = _own_pictures(pixels.pairs, rows) if pixels.pairs.vectors is not None else None
    some = list(rows) if found is None else list(found)
    if not some:
        return {}
    few = some[:: max(1, len(some) // 8)]
    sample = np.asarray(pixels.array[few]) if found is None else np.stack([found[int(row)] for row in few])
    share, fitting = fitting_quality(sample, shown, budget)
    share = min(share, 1.0, PHOTO_SIDE / sample.shape[-1])
    own = pixels.array if found is None else found
    return {int(row): data_uri(own[int(row)], share, min(quality, fitting)) for row in some}


def _own_pictures(pairs: Pairs, rows: Iterable[int]) -> dict[int, np.ndarray]:
    """The pictures (3, S, S) of some pairs of vectors, by row, where they can be read."""
    found: dict[int, np.ndarray] = {}
    for row in map(int, rows):
        with suppress(DataError):
            found[row] = squashed(pairs.images.read(row, PHOTO_SIDE), PHOTO_SIDE)
    return found


def _similarity(distilled: DistilledSet, name: str) -> FigureView:
    assert distilled.similarity is not None
    values = distilled.similarity.float().numpy()
    figure = heat_map(values, xlabel="text", ylabel="image")
    diagonal = float(values.diagonal().mean())
    rest = float((values.sum() - values.trace()) / max(1, values.size - len(values)))
    label = f"Heat map of the learned similarity of {len(values)} images and texts."
    note = f"Mean on the diagonal {diagonal:.2f}, elsewhere {rest:.2f}."
    return FigureView("learned similarity", inline_svg(figure, f"{name}-similarity", label), note)
