"""Weights of all training captions: how sure it is that a caption belongs to its image, for data with wrong ones.

A student of two heads learns a wrong caption later than right ones (arXiv 1706.05394): after few passes, with noise on
its features, its InfoNCE of a caption in a gallery of others is large where the caption is wrong. A mixture of two
normal distributions is fitted to that loss, and a weight is the probability of the lower one (DivideMix, ICLR 2020,
arXiv 2002.07394). The exact hypergradient of a held-out loss with respect to the weights, one step deep, was tried for
this and tells wrong captions from right ones hardly better than chance (docs/selection.md).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vldistill.encoders.dual import DualEncoder, Head
from vldistill.errors import ConfigError
from vldistill.runtime.randomness import generator, seeded
from vldistill.storage.files import write_text
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench

EPOCHS, BATCH, RATE, NOISE = 3, 512, 0.1, 0.5  # of the student
GALLERY, GALLERIES = 1000, 2  # captions compared with each other, and how often with new ones
LEAST = 8  # captions; a mixture of fewer means nothing
FILE = "weights.csv"


def caption_weights(bench: Workbench) -> np.ndarray:
    """The weight (M,) float64 from 0 to 1 of every training caption.

    Raises:
        ConfigError: fewer than eight captions.
    """
    pairs = bench.pixels("train").pairs
    if pairs.count_captions < LEAST:
        raise ConfigError(f"select.weigh needs {LEAST} captions or more; the train split has {pairs.count_captions}.")
    owner = torch.from_numpy(np.array(pairs.caption_image, np.int64))
    data = bench.frozen_features(None, None, owner)
    return right_ones(caption_losses(data, bench.encoder_config.dim, bench.encoder_config.temperature, bench.device))


def caption_losses(data: TrainingData, dim: int, temperature: float, device: torch.device) -> np.ndarray:
    """The InfoNCE (M,) of every caption with its image in galleries of others, by a student trained on all.

    Args:
        data: standardised features.
        dim: width of the student's embeddings.
        temperature: of its logits.
        device: where it is trained.
    """
    widths = [inputs.rows(torch.tensor([0])).shape[1] for inputs in (data.images, data.texts)]
    with seeded(torch.device("cpu"), 0, "weights"):
        student = DualEncoder(Head(widths[0], dim), Head(widths[1], dim), 1 / temperature).to(device)
    rates = {"image": (RATE,), "text": (RATE,)}
    recipe = Recipe(rates, epochs=EPOCHS, batch=BATCH, dropout=0.0, noise=NOISE, negatives="distinct")
    fit(student, data, recipe, seed=0, device=device)
    return _losses(student, data)


@torch.no_grad()
def _losses(student: DualEncoder, data: TrainingData) -> np.ndarray:
    total = torch.zeros(len(data), dtype=torch.float64)
    for turn in range(GALLERIES):
        order = torch.randperm(len(data), generator=generator("weights", turn))
        for rows in order.tensor_split(-(-len(data) // GALLERY)):
            images = student.embed("image", data.images.rows(data.caption_image[rows]))
            logits = student.logits(images, student.embed("text", data.texts.rows(rows)))
            equal = data.equal(rows)
            if equal is not None:
                logits = logits.masked_fill(equal.to(logits.device), -torch.inf)
            own = logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()
            total[rows] -= own.double().cpu() / 2
    return (total / GALLERIES).numpy()


def right_ones(losses: np.ndarray) -> np.ndarray:
    """The probability (M,) that each loss is of the lower of two normal distributions."""
    from sklearn.mixture import GaussianMixture

    column = losses[:, None]
    mixture = GaussianMixture(2, random_state=0, means_init=np.quantile(column, [0.3, 0.9])[:, None]).fit(column)
    means = np.asarray(mixture.means_)[:, 0]
    low = int(means.argmin())
    found = mixture.predict_proba(column)[:, low]
    found[losses < means[low]] = 1.0  # the wider one would take the smallest losses too
    return found


def write_weights(bench: Workbench, weights: Sequence[float] | np.ndarray, path: Path) -> None:
    """Write ``image,caption,weight`` of every training caption, as ``data.weights`` reads it."""
    pairs = bench.pixels("train").pairs
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "caption", "weight"])
    names = pairs.images.names
    for image, caption, weight in zip(pairs.caption_image.tolist(), pairs.captions, weights):
        rows.writerow([names[image], caption, f"{weight:.4f}"])
    write_text(path, text.getvalue())
