"""Learned: pairs that carry the canonical directions together, weighed by what a student learns from them.

1. In closed form. A student that aligns pairs (x_i, y_i) learns a similarity like x^T M y with M the sum of x_i y_i^T,
   and M* of the regularised canonical correlations is the best one (see ``canonical``). Greedily the pair is taken
   whose x y^T brings the direction of the sum nearest to that of M*: the largest cosine in the inner product
   <A, B> = tr(Sx^p A Sy^p Sy^p B^T Sx^p), which lies between plain features (p = 0) and the real data's predictions
   (p = 1/2). A pair needs two numbers of each candidate, and one column of their Gram matrix for each pair taken.
2. By the hypergradient. Of a few times as many pairs as asked for, weights w_i are learned: a fresh student takes inner
   steps on minibatches where pair i counts w_i times, as one that is repeated does, and the InfoNCE of the result on
   training pairs outside is descended along the exact gradient with respect to w. A weight is cap / (1 + (cap - 1)
   e^-z): it approaches the cap, so that no pair stands for all others. The pairs of the largest weights are taken.

Shapes: N images, M captions, D and d the widths of features, P candidates whose weights are learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vldistill.config import SelectConfig
from vldistill.distillation.covariances import covariances
from vldistill.distillation.metagrad import InnerStep, hypergradient
from vldistill.distillation.methods.canonical import canonical_directions
from vldistill.encoders.dual import SIDES, DualEncoder, Groups, Head
from vldistill.errors import ConfigError
from vldistill.runtime.randomness import generator, seed_of, seeded
from vldistill.selection.selector import Candidates, register
from vldistill.training.data import TrainingData
from vldistill.training.losses import equal_pairs, infonce
from vldistill.training.recipe import SCHEDULES

RIDGE = 6.0  # of the canonical correlations; the variance of features is 1
POWER = 0.15  # p of the inner product. Both were chosen on val of Flickr8k, by one student
RANK = 100  # canonical directions at most
ROWS = 8192  # features turned at a time

WIDTH = 256  # of the embeddings of the students, and of the images' features: as many principal components at most
STEPS, BATCH = 30, 128  # inner steps of a student, and pairs in each
RATE, MOMENTUM, DECAY = 0.15, 0.9, 5e-4
NOISE = 0.3  # on the features of both sides in inner steps
HELD_OUT = 1024  # training pairs outside of the pool in an outer loss
STEP = 0.15  # of Adam, on z
SCALE = 1 / 0.07  # of the logits
SMALLEST = 0.02  # share of the rate that the cosine schedule ends with


def _check(pairs: int, options: SelectConfig) -> None:
    """Refuse smaller budgets where weights order the pairs. Raises ConfigError."""
    if options.learn_steps and options.budgets:
        raise ConfigError(
            f"select.learn_steps is {options.learn_steps}: pairs of the largest weights are in no order, in which the "
            f"first would be the choice of select.budgets {options.budgets}. Use select.learn_steps 0, or no budgets."
        )


@register("learned", drawn=False, nested=True, reads=("learn_steps", "learn_pool", "learn_cap"), check=_check)
def learned(candidates: Candidates, count: int, seed: int, options: SelectConfig) -> torch.Tensor:
    """Pairs whose products add up to the canonical map of all data, then weights by the hypergradient of a student."""
    data, own = candidates.data, candidates.image_captions
    pool = min(round(options.learn_pool * count), len(own)) if options.learn_steps else count
    rows = carrying(data, own, pool)
    if not options.learn_steps or pool <= count:
        return rows[:count]
    with candidates.workbench.reporter.progress("weights of pairs", options.learn_steps) as bar:
        weights = pool_weights(data, own, rows, options, lambda value: bar.advance(1, held_out=value))
    return rows[weights.topk(count).indices]


@torch.no_grad()
def carrying(data: TrainingData, image_captions: Sequence[np.ndarray], count: int) -> Tensor:
    """``count`` captions of distinct images, in order, whose products come nearest to the canonical map."""
    found = Products(data)
    free = torch.ones(len(data), dtype=torch.bool)
    overlap = torch.zeros(len(data))  # <phi_j, sum> of every candidate
    along, length = 0.0, 0.0  # <sum, M*> and |sum|^2
    chosen: list[int] = []
    for _ in range(count):
        cosine = (along + found.aims) / (length + 2 * overlap + found.squares).clamp_(min=1e-9).sqrt()
        best = int(cosine.masked_fill_(~free, -torch.inf).argmax())
        along += float(found.aims[best])
        length += float(2 * overlap[best] + found.squares[best])
        overlap += found.column(best)
        free[torch.from_numpy(image_captions[int(data.caption_image[best])])] = False
        chosen.append(best)
    return torch.tensor(chosen)


class Products:
    """The products x_j y_j^T of all pairs, in the inner product of step 1, without being written out.

    Attributes:
        aims: (M,), <x_j y_j^T, M*>.
        squares: (M,), |x_j y_j^T|^2.
    """

    def __init__(self, data: TrainingData, ridge: float = RIDGE, power: float = POWER) -> None:
        moments = covariances(data)
        left, right = canonical_directions(data, RANK, ridge)
        turns = [_power(moment, power) for moment in (moments.images, moments.texts)]
        self.owner = data.caption_image
        self.images = _turned(data, "images", turns[0])
        self.texts = _turned(data, "texts", turns[1])
        aim = (turns[0] @ left.T @ right @ turns[1]).float()
        to = torch.cat([part @ aim for part in self.images.split(ROWS)])
        self.aims = self._rows(to, self.texts)
        self.squares = self.images.square().sum(1)[self.owner] * self.texts.square().sum(1)

    def _rows(self, images: Tensor, texts: Tensor) -> Tensor:
        """The scalar products of each caption's row with its image's, (M,)."""
        parts = zip(self.owner.split(ROWS), texts.split(ROWS))
        return torch.cat([(images[owner] * text).sum(1) for owner, text in parts])

    def column(self, pair: int) -> Tensor:
        """The inner products of all pairs with one, (M,)."""
        image = self.images @ self.images[self.owner[pair]]
        return image[self.owner] * (self.texts @ self.texts[pair])


def _turned(data: TrainingData, side: str, turn: Tensor) -> Tensor:
    """Features (rows, width) of a side times ``turn``, float32 on the CPU."""
    inputs = data.images if side == "images" else data.texts
    return torch.cat([inputs.rows(rows).cpu() @ turn.float() for rows in torch.arange(len(inputs)).split(ROWS)])


def _power(moment: Tensor, power: float) -> Tensor:
    """A positive matrix to a power."""
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp(min=0).pow(power)) @ vectors.T


def pool_weights(
    data: TrainingData,
    image_captions: Sequence[np.ndarray],
    rows: Tensor,
    options: SelectConfig,
    advance: Callable[[float], None],
) -> Tensor:
    """The weights (P,) of the captions ``rows``, learned by the hypergradient; they begin equal, at 1.

    Args:
        data: all training pairs.
        image_captions: rows of captions by image.
        rows: (P,) captions of distinct images.
        options: outer steps, and the cap of a weight.
        advance: called after each with its outer loss.
    """
    students = WeighedStudents(data, image_captions, rows)
    z = torch.zeros(len(rows), requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=STEP, betas=(0.8, 0.95))
    for step in range(options.learn_steps):
        weights = capped(z, options.learn_cap)
        value, slope = students.slope(weights.detach(), step)
        optimiser.zero_grad()
        weights.backward(slope)
        optimiser.step()
        advance(value)
    return capped(z.detach(), options.learn_cap)


def capped(z: Tensor, cap: float) -> Tensor:
    """Positive weights below ``cap``, 1 where ``z`` is 0."""
    return cap * torch.sigmoid(z - math.log(cap - 1))


class WeighedStudents:
    """Students of two heads on weighted pairs, a fresh one in each outer step.

    Args:
        data: all training pairs.
        image_captions: rows of captions by image.
        rows: (P,) captions of the pairs whose weights are learned; all other images are held out.
    """

    def __init__(self, data: TrainingData, image_captions: Sequence[np.ndarray], rows: Tensor) -> None:
        self.data, self.own = data, image_captions
        owner = data.caption_image
        self.basis = principal(data, WIDTH)
        self.images, self.texts = self._inputs(rows)
        self.captions = data.caption_number
        self.equal = self.captions[rows]
        taken = torch.zeros(len(data.images), dtype=torch.bool)
        taken[owner[rows]] = True
        others = torch.nonzero(~taken)[:, 0]
        self.held = others if len(others) >= 2 else torch.arange(len(data.images))
        self.shape = SCHEDULES["cosine"]

    def _inputs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        images = self.data.images.rows(self.data.caption_image[rows]).cpu() @ self.basis
        return images, self.data.texts.rows(rows).cpu()

    def slope(self, weights: Tensor, step: int) -> tuple[float, Tensor]:
        """The outer loss of a student trained on pairs of these ``weights`` (P,), and its gradient (P,)."""
        with seeded(torch.device("cpu"), 0, "learned", step):
            student = DualEncoder(Head(self.basis.shape[1], WIDTH), Head(self.texts.shape[1], WIDTH), SCALE)
        rates = torch.tensor([RATE * max(self.shape(t / STEPS), SMALLEST) for t in range(STEPS)])
        found = hypergradient(
            self._inner(student),
            self._outer(student, step),
            student.trained(),
            {"weights": weights},
            {"image": rates, "text": rates},
            self._steps(step),
            momentum=MOMENTUM,
            weight_decay=DECAY,
        )
        return float(found.value), found.distilled["weights"]

    def _steps(self, step: int) -> list[InnerStep]:
        """Inner steps that pass the pairs in random orders, one after the other."""
        draw, count = generator("learned rows", step), len(self.texts)
        size = min(BATCH, count)
        steps, rest = list[InnerStep](), torch.empty(0, dtype=torch.int64)
        for t in range(STEPS):
            if len(rest) < size:
                rest = torch.randperm(count, generator=draw)
            index, rest = rest[:size], rest[size:]
            steps.append(InnerStep(t, index, seed_of("learned noise", step, t), self._same(self.equal[index])))
        return steps

    @staticmethod
    def _same(captions: Tensor) -> Tensor | None:
        """Which pairs (B, B) have equal captions and are no negatives of each other."""
        return equal_pairs(torch.arange(len(captions)), captions)

    def _inner(self, student: DualEncoder) -> Callable[..., Tensor]:
        def loss(params: Groups, learned: dict[str, Tensor], step: InnerStep) -> Tensor:
            draw = generator(step.seed)
            sides = (self.images[step.index], self.texts[step.index])
            noisy = [part + NOISE * torch.randn(part.shape, generator=draw) for part in sides]
            logits = student.logits(student.embed("image", noisy[0], params), student.embed("text", noisy[1], params))
            return weighed_infonce(logits, learned["weights"][step.index], step.equal)

        return loss

    def _outer(self, student: DualEncoder, step: int) -> Callable[[Groups], Tensor]:
        draw = generator("learned held out", step)
        images = self.held[torch.randperm(len(self.held), generator=draw)[:HELD_OUT]]
        rows = torch.tensor([self._one_of(self.own[image], draw) for image in images.tolist()])
        inputs, equal = self._inputs(rows), self.data.equal(rows)

        def loss(params: Groups) -> Tensor:
            embedded = [student.embed(side, part, params) for side, part in zip(SIDES, inputs)]
            return infonce(student.logits(*embedded), equal)

        return loss

    @staticmethod
    def _one_of(captions: np.ndarray, draw: torch.Generator) -> int:
        return int(captions[int(torch.randint(len(captions), (), generator=draw))])


def weighed_infonce(logits: Tensor, weights: Tensor, equal: Tensor | None = None) -> Tensor:
    """InfoNCE where pair i counts ``weights[i]`` times, as a positive and as a negative.

    For whole numbers it is the InfoNCE of a batch that holds pair i as often, whose copies are no negatives of each
    other.

    Args:
        logits: (B, B), images by texts; pair i is on the diagonal.
        weights: (B,), above 0.
        equal: (B, B) bool, pairs that are no negatives of each other.
    """
    own = logits.diagonal()
    others = logits if equal is None else logits.masked_fill(equal, -torch.inf)
    # a copy is no negative of the others: the pair itself counts once in the sum
    spread = weights.log() * (1 - torch.eye(len(weights)))
    to_texts = torch.logsumexp(others + spread, 1) - own
    to_images = torch.logsumexp(others.T + spread, 1) - own
    return (weights * (to_texts + to_images)).sum() / (2 * weights.sum())


def principal(data: TrainingData, width: int) -> Tensor:
    """The ``width`` directions (D, width) of largest variance of the images' features, all where there are fewer."""
    moment = covariances(data).images
    return torch.linalg.eigh(moment).eigenvectors[:, -width:].float()
