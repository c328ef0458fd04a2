"""Students: trained on a set, a subset or the full data, and scored on a split."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vldistill.encoders.dual import DualEncoder
from vldistill.errors import DivergedError
from vldistill.evaluation.measures import Recalls
from vldistill.evaluation.retrieval import QueryRanks, metrics_of, retrieval_ranks
from vldistill.evaluation.zero_shot import classify_split
from vldistill.runtime.randomness import seed_of
from vldistill.training.data import Inputs, TrainingData
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.training.stepper import embed_in_parts
from vldistill.workbench.bench import Split, Workbench


@torch.no_grad()
def embed_split(bench: Workbench, student: DualEncoder, split: Split, batch: int = 256) -> tuple[torch.Tensor, ...]:
    """Embeddings of a split: images (N, D) and captions (M, D)."""

    def embed(side: str, inputs: Inputs) -> torch.Tensor:
        parts = torch.arange(len(inputs)).split(batch)
        return torch.cat([embed_in_parts(student, side, inputs.rows(rows), bench.compute) for rows in parts])

    student.eval()
    images = embed("image", split.data.images)
    if split.pairs.classes is None:
        return images, embed("text", split.data.texts)
    first: dict[str, int] = {}  # prompts repeat for every image of a class
    rows = [first.setdefault(text, row) for row, text in enumerate(split.pairs.captions)]
    distinct = torch.tensor(list(first.values()))
    texts = torch.cat(
        [embed_in_parts(student, "text", split.data.texts.rows(part), bench.compute) for part in distinct.split(batch)]
    )
    return images, texts[torch.searchsorted(distinct, torch.tensor(rows)).to(texts.device)]


def rank_split(bench: Workbench, student: DualEncoder, split: str) -> QueryRanks:
    """The rank of every query of a split."""
    real = bench.split(split)
    images, captions = embed_split(bench, student, real)
    return retrieval_ranks(images, captions, real.data.caption_image)


def score_student(bench: Workbench, student: DualEncoder, split: str) -> Recalls:
    """The recalls of ``student`` on a split."""
    return metrics_of(rank_split(bench, student, split))


def score_split(bench: Workbench, student: DualEncoder, split: str) -> float:
    """What students are chosen by, higher is better: the mean recall, or on a class set the top-1 accuracy."""
    if bench.has_classes:
        return classify_split(bench, student, split).top1
    return score_student(bench, student, split).mean_recall


def train_student(
    bench: Workbench,
    data: TrainingData,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[DualEncoder, int], None] | None = None,
) -> DualEncoder:
    """A fresh student trained on ``data``."""
    student = bench.student(seed_of("student", seed), recipe.dropout)
    hook = (lambda epoch, loss: on_epoch(student, epoch)) if on_epoch else None
    fit(student, data, recipe, seed=seed, device=bench.device, on_epoch=hook, compute=bench.compute)
    return student


def score_recipe(bench: Workbench, data: TrainingData, recipe: Recipe, seed: int) -> float:
    """:func:`score_split` on val of one student; a diverged one scores 0."""
    try:
        return score_split(bench, train_student(bench, data, recipe, seed), "val")
    except DivergedError:
        return 0.0
