"""Zero-shot classification: an image is of the class whose mean prompt its embedding is nearest to.

The prompts of a class are embedded, normalised, averaged and normalised again. Shapes: N images, K classes, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vldistill.encoders.dual import DualEncoder
from vldistill.evaluation.measures import Accuracy
from vldistill.evaluation.retrieval import check_scores_finite, twins
from vldistill.training.stepper import embed_in_parts
from vldistill.workbench.bench import Workbench
from vldistill.workbench.class_sets import prompt_inputs

SCORE_BYTES = 2**26  # of scores at a time
IMAGES_AT_ONCE = 256


def mean_prompts(prompts: torch.Tensor, each: int) -> torch.Tensor:
    """Embeddings of classes (K, D) from those of their prompts (K * each, D), all of a class together."""
    return F.normalize(F.normalize(prompts, dim=-1).unflatten(0, (-1, each)).mean(1), dim=-1)


@torch.no_grad()
def class_ranks(images: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many other classes are at least as near to each image as its own, (N,) int64.

    A tie counts against the student; equal embeddings of classes tie exactly, however the product rounds.

    >>> classes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> class_ranks(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), classes, torch.tensor([0, 1])).tolist()
    [0, 1]

    Args:
        images: (N, D), normalised.
        classes: (K, D), normalised.
        labels: (N,) int64, 0..K-1.

    Raises:
        DivergedError: embeddings that are not finite.
    """
    check_scores_finite(images, classes)
    twin, _ = twins(classes)
    labels = labels.to(images.device)
    rows = max(1, SCORE_BYTES // (4 * len(classes)))
    ranks = []
    for part, own in zip(images.split(rows), labels.split(rows)):
        scores = (part @ classes.T)[:, twin]
        ranks.append((scores >= scores.gather(1, own[:, None])).sum(1) - 1)
    return torch.cat(ranks)


def accuracy_of(ranks: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    """The accuracies of images (N,) that are ranked already; classes without an image do not count."""
    labels = labels.to(ranks.device)
    hits = (ranks < 1).double()
    counts = torch.bincount(labels)
    own = torch.zeros(len(counts), dtype=torch.float64, device=ranks.device).scatter_add_(0, labels, hits)
    present = counts > 0
    balanced = (own[present] / counts[present]).mean()
    return Accuracy(*(100.0 * float(value) for value in (hits.mean(), (ranks < 5).double().mean(), balanced)))


@torch.no_grad()
def class_embeddings(bench: Workbench, student: DualEncoder) -> torch.Tensor:
    """The mean prompts (K, D) of the workbench's classes, as a student embeds them; a few classes at a time."""
    assert bench.classes is not None
    each = len(bench.classes.prompts)
    student.eval()

    def parts() -> Iterator[torch.Tensor]:
        for inputs in prompt_inputs(bench):
            found = [embed_in_parts(student, "text", part, bench.compute) for part in inputs.split(IMAGES_AT_ONCE)]
            yield mean_prompts(torch.cat(found), each)

    return torch.cat(list(parts()))


@torch.no_grad()
def rank_classes(bench: Workbench, student: DualEncoder, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The rank of the class of every image of a split (N,), and the labels (N,)."""
    real = bench.split(split)
    assert real.pairs.classes is not None
    labels = torch.from_numpy(real.pairs.classes.labels.copy())
    student.eval()
    parts = torch.arange(len(real.data.images)).split(IMAGES_AT_ONCE)
    images = [embed_in_parts(student, "image", real.data.images.rows(part), bench.compute) for part in parts]
    return class_ranks(torch.cat(images), class_embeddings(bench, student), labels), labels


def classify_split(bench: Workbench, student: DualEncoder, split: str) -> Accuracy:
    """The accuracies of a student on a split of a class set."""
    return accuracy_of(*rank_classes(bench, student, split))
