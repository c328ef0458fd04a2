"""The neighbours of a distilled pair: its start, real captions and photos, and its place on a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from vldistill.config import DistillConfig, SelectConfig
from vldistill.config.former import current
from vldistill.config.plain import Record, section
from vldistill.distillation import start as starts
from vldistill.distillation.method import METHODS, Context, Start
from vldistill.distilled.distilled_set import CORESET, DistilledSet, one_line
from vldistill.drawing.figures import inline_svg, scatter
from vldistill.errors import VldistillError
from vldistill.evaluation.subjects import subject
from vldistill.options.resolve import resolve_distill
from vldistill.reporting.overview import percent
from vldistill.reporting.views import FigureView
from vldistill.runtime.randomness import generator
from vldistill.training.data import Inputs
from vldistill.workbench.bench import Workbench

T = TypeVar("T")
COMPARED_AT_ONCE = 16_384  # rows compared at a time
SAMPLE, SAMPLE_ENCODED = 600, 240  # real rows on a map; fewer where they have to be encoded first


@dataclass(frozen=True)
class Places:
    """A distilled set in the space of the frozen towers, and where it started.

    Args:
        images: (N, D) features of the learned images.
        texts: (N, d).
        start: the starting pairs, None where they cannot be recomputed.
        start_images: (N, D) features of the starting images, or None.
        trouble: why there is no start.
    """

    images: torch.Tensor
    texts: torch.Tensor
    start: Start | None
    start_images: torch.Tensor | None
    trouble: str = ""


def places(bench: Workbench, distilled: DistilledSet, select: SelectConfig | None = None) -> Places:
    """Features of a set and of its start.

    Raises:
        VldistillError: the set does not fit the towers of the run.
    """
    start, trouble = starting_pairs(bench, distilled, select)
    data = subject(bench, distilled).draw(0)
    rows = torch.arange(len(distilled))
    images = frozen_features(bench, data.images.rows(rows)) if bench.setting != "heads" else data.images.rows(rows)
    start_images = None
    if start is not None:  # features stay features
        start_images = start.images.cpu() if start.images.ndim == 2 else frozen_features(bench, start.images)
    texts = bench.sentence_vectors(data.texts.rows(rows))
    if start is not None:
        start = replace(start, texts=_sentences(bench, start))
    return Places(images.cpu(), texts.cpu(), start, start_images, trouble)


def _sentences(bench: Workbench, start: Start) -> torch.Tensor:
    """Sentence vectors (N, d) of the starting texts; the first ones where an image has several."""
    if start.text_mask is not None:
        tokens = torch.cat([start.texts, start.text_mask.to(start.texts).unsqueeze(-1)], dim=-1)
        return bench.sentence_vectors(tokens)
    return start.texts[:, 0] if start.texts.ndim == 3 else start.texts


@torch.no_grad()
def frozen_features(bench: Workbench, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Features (N, D) of normalised ``images`` by the tower as it is before training; standardised in ``heads``."""
    if bench.setting == "heads":
        return bench.encode_in_batches(images, batch).cpu()
    parts = [bench.image_tower(part.to(bench.device)).cpu() for part in images.split(batch)]
    return torch.cat(parts)


def starting_pairs(
    bench: Workbench, distilled: DistilledSet, select: SelectConfig | None = None
) -> tuple[Start | None, str]:
    """The pairs a set started from, recomputed from its configuration and ``select``; or None and the reason."""
    if distilled.info.get("kind") == CORESET:
        return None, "These are real pairs that a selector chose: nothing was learned, so there is no before."
    recorded = current(distilled.info.get("config", {}))
    distill = section(recorded, "distill")
    if not {"start", "pairs", "seed"} <= distill.keys():
        return None, "The set does not record its start."
    if distilled.info.get("data") != bench.pixels("train").pairs.fingerprint:
        return None, "The set was made from other data than the run's, so the pictures before are not known."
    try:
        config = _rebuilt(DistillConfig, distill)
        entry = METHODS.find(config.method)
        options = _rebuilt(entry.options, section(recorded, config.method))
        context = Context(bench, resolve_distill(config, bench.setting), options)
        start = starts.starting_pairs(entry.build(), context, select)
    except VldistillError as error:
        return None, f"Its start cannot be recomputed: {error}"
    recorded_captions = [one_line(caption.get("start", "")) for caption in distilled.captions]
    if len(start.captions) != len(distilled) or (
        recorded_captions and recorded_captions != list(map(one_line, start.captions))
    ):
        return None, "This version computes another start, so the pictures before are not shown."
    return start, ""


def _rebuilt(cls: type[T], values: Record) -> T:
    """A dataclass of options recorded in a set's JSON; options that no longer exist are ignored."""
    known = {field.name for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return cls(**{name: value for name, value in plain.items() if name in known})


@torch.no_grad()
def nearest(inputs: Inputs, queries: torch.Tensor, count: int, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` rows of ``inputs`` nearest (cosine) to each query.

    Args:
        inputs: M rows of width D.
        queries: (N, D).

    Returns:
        Cosines and rows, both (N, min(count, M)), the nearest first.
    """
    unit = F.normalize(queries.to(device), dim=1)
    count = min(count, len(inputs))
    scores, rows = unit.new_empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.int64, device=device)
    for begin in range(0, len(inputs), COMPARED_AT_ONCE):
        index = torch.arange(begin, min(begin + COMPARED_AT_ONCE, len(inputs)))
        product = unit @ F.normalize(inputs.rows(index), dim=1).T
        joined = torch.cat([scores, product], dim=1)
        where = torch.cat([rows, (index.to(device)).expand(len(unit), -1)], dim=1)
        scores, best = joined.topk(min(count, joined.shape[1]), dim=1)
        rows = where.gather(1, best)
    return scores.cpu().numpy(), rows.cpu().numpy()


def changes(before: torch.Tensor, after: torch.Tensor) -> list[float]:
    """1 - cosine of every row, (N, D) each."""
    return (1 - F.cosine_similarity(before.float().cpu(), after.float().cpu(), dim=1)).clamp_min(0).tolist()


def maps(bench: Workbench, distilled: DistilledSet, place: Places, name: str) -> list[FigureView]:
    """Two maps, of the image side and the text side, each with real rows, starts and distilled rows."""
    data = bench.split("train").data
    starts = (None, None) if place.start is None else (place.start_images, place.start.texts.cpu())
    views = []
    real_texts = bench.sentence_inputs("train")
    sides = (("images", data.images, place.images, starts[0]), ("texts", real_texts, place.texts, starts[1]))
    for side, inputs, learned, start in sides:
        encoded = side == "images" and bench.setting != "heads"
        size = min(len(inputs), SAMPLE_ENCODED if encoded else SAMPLE)
        sample = torch.randperm(len(inputs), generator=generator(0, "map", side))[:size]
        real = inputs.rows(sample)
        real = frozen_features(bench, real) if encoded else real.cpu()
        views.append(_map(f"{name}-{side}", side, real, learned, start))
    return views


def _map(name: str, side: str, real: torch.Tensor, learned: torch.Tensor, start: torch.Tensor | None) -> FigureView:
    clouds = [("real", real), *([("start", start)] if start is not None else []), ("distilled", learned)]
    drawn, shares = principal_plane([cloud for _, cloud in clouds])
    named = [(label, rows) for (label, _), rows in zip(clouds, drawn)]
    moves = np.stack([drawn[1], drawn[2]], axis=1) if start is not None else None
    first, second = map(percent, shares)
    xlabel = f"1st direction, {first} of the variance"
    figure = scatter(named, xlabel=xlabel, ylabel=f"2nd direction, {second}", moves=moves)
    label = f"Map of {side}: {len(real)} real rows, {len(learned)} distilled ones" + (
        " and where each of them started." if start is not None else "."
    )
    return FigureView(side, inline_svg(figure, name, label))


def principal_plane(clouds: Sequence[torch.Tensor]) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Every cloud, its rows scaled to length one, on the first two principal directions of the first cloud.

    Args:
        clouds: (n, D) each.

    Returns:
        (n, 2) each, and the share of the first cloud's variance along each direction.
    """
    unit = [F.normalize(cloud.double(), dim=1).numpy() for cloud in clouds]
    centre = unit[0].mean(0)
    _, sizes, directions = np.linalg.svd(unit[0] - centre, full_matrices=False)
    total = float((sizes**2).sum()) or 1.0
    shares = [float(size**2) / total for size in sizes[:2]] + [0.0, 0.0]
    plane = np.zeros((unit[0].shape[1], 2))
    plane[:, : len(directions[:2])] = directions[:2].T
    return [(rows - centre) @ plane for rows in unit], (shares[0], shares[1])
