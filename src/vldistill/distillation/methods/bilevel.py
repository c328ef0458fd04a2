"""Direct bilevel distillation: train fresh students on the set, and descend the loss of the result on real pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from vldistill.config import ImageTowerConfig, Outer
from vldistill.config.checks import at_least, require
from vldistill.config.former import later
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import check_minibatch, head_spans, inner_loss, inner_steps
from vldistill.distillation.metagrad.backward_sweep import advance, hypergradient
from vldistill.distillation.metagrad.inner import ESTIMATORS
from vldistill.distillation.method import BestKnown, Context, Start, State, Update, register
from vldistill.distillation.real_batches import real_batch, real_loss
from vldistill.distillation.similarity import similarity_matrix, start_similarity
from vldistill.distillation.student_pool import StudentPool
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES, DualEncoder, Groups
from vldistill.errors import ConfigError, unknown
from vldistill.training.recipe import SCHEDULES, Recipe
from vldistill.training.steps import steps_in

SMALLEST_SHARE = 0.02  # a cosine schedule ends here instead of at 0: a rate has to be positive


@dataclass(frozen=True)
class BilevelOptions:
    """Options of direct bilevel distillation.

    Args:
        steps: inner steps T of a student's training.
        first_steps: inner steps at the beginning of a curriculum.
        curriculum: part of the iterations over which the inner steps grow from first_steps to steps; 0 is off.
        window: gradients flow through this many steps only, ending at a step drawn at random; 0 is all of them.
        minibatch: distilled pairs per inner step; 0 takes all.
        momentum: of the inner SGD.
        weight_decay: of the inner SGD.
        schedule: shape of the inner rates over the steps: constant or cosine.
        rate_per_step: learn a rate for every step instead of one factor per side.
        real_batch: real images per outer batch; all of them where there are fewer.
        captions_per_image: captions of each of them.
        outer_dropout: part of the real batch's features set to 0 at random, the rest scaled up, in setting heads:
            to reduce overfitting to the training images, which sets of many pairs show.
        students: of a pool that is partly trained on the set (FRePo, arXiv 2206.00719): the inner training of an
            iteration begins at one of them in place of a new random student. 0 is no pool.
        online_steps: steps of such a student on the set, one an iteration, before a new one takes its place.
        rank: of a learned soft similarity; 0 learns none.
        alpha: scale of the low-rank part of the similarity.
        estimator: of the gradient: adjoint, unrolled, tesla or difference.
        student_decay: weight decay of the set's own recipe in setting heads, where it takes away what is left of the
            random start in directions that no pair shows; with trained towers it is weight_decay.
        towers: other image towers to learn for: each iteration draws the run's own or one of these, so that the set
            leans on what they have in common and moves better to a tower it was not made with.
    """

    steps: int = 40
    first_steps: int = 10
    curriculum: float = 0.0
    window: int = 0
    minibatch: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    rate_per_step: bool = False
    real_batch: int = 2048
    captions_per_image: int = 1
    outer_dropout: float = later(0.0, neutral=0.0)
    students: int = later(0, neutral=0)
    online_steps: int = later(50, neutral=50)
    rank: int = 0
    alpha: float = 1.0
    estimator: str = "adjoint"
    student_decay: float = 0.01
    towers: tuple[ImageTowerConfig, ...] = ()

    def __post_init__(self) -> None:
        at_least(1, self, "bilevel", "steps", "first_steps", "captions_per_image", "online_steps")
        at_least(2, self, "bilevel", "real_batch")
        at_least(0, self, "bilevel", "weight_decay", "student_decay", "rank", "students")
        require(0 <= self.momentum < 1, "bilevel.momentum", self.momentum, "a number in [0, 1)")
        require(0 <= self.outer_dropout < 1, "bilevel.outer_dropout", self.outer_dropout, "a part in [0, 1)")
        fine = 0 <= self.curriculum <= 1
        require(fine, "bilevel.curriculum", self.curriculum, "a part of the iterations, 0 to 1")
        require(0 <= self.window <= self.steps, "bilevel.window", self.window, f"0 (off) to {self.steps} steps")
        if self.window and self.momentum:
            raise ConfigError(
                f"bilevel.window needs bilevel.momentum 0, not {self.momentum}: a window starts without a past."
            )
        if self.schedule not in SCHEDULES:
            raise ConfigError(unknown("schedule", self.schedule, SCHEDULES))
        if self.estimator not in ESTIMATORS:
            raise ConfigError(unknown("estimator", self.estimator, ESTIMATORS))
        if self.estimator == "tesla" and self.momentum:
            raise ConfigError(
                f"bilevel.estimator tesla needs bilevel.momentum 0, not {self.momentum}: its formula has no momentum. "
                f"Use adjoint, or momentum 0."
            )


@register(
    "bilevel",
    BilevelOptions,
    Outer(iterations=300, image_lr=0.01, text_lr=0.1, rate_lr=0.02, decay="cosine", ema=0.9),
    several_captions=True,
    inner_steps=lambda options: (options.steps, options.minibatch),
    as_planned=lambda options: replace(options, towers=()),
    best_known=(BestKnown("heads", "its sets of 100 pictures are level with the best with frozen towers; no experts"),),
)
class Bilevel:
    """Train fresh students on the set and descend the contrastive loss of the result on real pairs; no experts.

    Each iteration: new random heads, T inner SGD steps on the distilled pairs, symmetric InfoNCE of the outcome on
    a real batch, and its exact gradient to images, texts, rates and similarity. Truncated windows at random
    positions follow RaT-BPTT ("Embarrassingly Simple Dataset Distillation", ICLR 2024).
    """

    def check(self, context: Context[BilevelOptions]) -> None:
        """Refuse options that do not go together, and batches that the set cannot fill."""
        options = context.options
        check_minibatch("bilevel.minibatch", options.minibatch, context.config.pairs)
        if options.rank and context.config.captions > 1:
            raise ConfigError(
                f"bilevel.rank is {options.rank} and distill.captions {context.config.captions}: a learned similarity "
                f"is between images and one text each. Use bilevel.rank 0 or distill.captions 1."
            )
        if options.outer_dropout and context.bench.setting != "heads":
            raise ConfigError(
                f"bilevel.outer_dropout is {options.outer_dropout}, which drops features of frozen towers; setting "
                f"{context.bench.setting} trains on images. Use 0, or setting heads."
            )
        if options.towers and context.config.space == "features":
            raise ConfigError(
                "bilevel.towers are other image towers, but distill.space features learns features of one. "
                "Use space pixels, or no other towers."
            )
        if options.towers and options.students:
            raise ConfigError(
                f"bilevel.students is {options.students}, a pool of students of one tower, but bilevel.towers names "
                f"others. Use students 0, or no other towers."
            )
        for tower in options.towers:
            context.bench.beside(tower).check_towers()

    def setup(self, start: Start, context: Context[BilevelOptions]) -> State:
        """Images, texts and rates of the start; the similarity starts as the identity; the pool is random."""
        options = context.options
        variables = start_variables(start, context)
        if options.rate_per_step:
            shape = _shape(options).to(variables["log_rate_image"])
            for side in SIDES:
                variables[f"log_rate_{side}"] = variables[f"log_rate_{side}"] + shape.log()
        if options.rank:
            count, texts = context.config.pairs, variables["texts"]
            draw = context.at(0).generator("similarity")
            variables |= start_similarity("lowrank", count, options.rank, draw, texts)
        return State(variables, StudentPool.begun(context, options.students))

    def step(self, state: State, context: Context[BilevelOptions]) -> Update:
        """Train a fresh student, and differentiate the loss of the result."""
        options = context.options
        own, context = context.bench, self._with_tower(context)
        student = context.bench.student(context.seed_of("student"))
        pool = StudentPool(context, state.carried)
        params = pool.params if options.students else student.trained()
        count = inner_step_count(options, context.progress)
        steps = inner_steps(context, count, options.minibatch)
        used = torch.cat([step.index for step in steps])
        encoded = encode_learned(context, state.variables["images"], own, rows=used)
        with torch.enable_grad():
            leaves = {n: v.detach().requires_grad_(True) for n, v in state.variables.items() if n != "images"}
            rates = {side: _rates(leaves[f"log_rate_{side}"], options, count) for side in SIDES}
            similarity = similarity_matrix(leaves, options.alpha)
        distilled = {"images": encoded.inputs, "texts": leaves["texts"].detach()}
        if similarity is not None:
            distilled["similarity"] = similarity.detach()
        plain = {side: rate.detach().to(distilled["texts"].dtype) for side, rate in rates.items()}
        first, last = self._window(options, context, count)
        pairs, captions = context.config.pairs, context.config.captions
        spans = head_spans(student, pairs, captions) if options.estimator == "adjoint" else ()

        inner = partial(inner_loss, student, spans=spans)
        before = {side: rate[:first] for side, rate in plain.items()}
        decay = options.weight_decay
        begin = advance(inner, params, distilled, before, steps[:first], weight_decay=decay, spans=spans)
        found = hypergradient(
            inner,
            self._outer_loss(student, context),
            begin,
            distilled,
            {side: rate[first:last] for side, rate in plain.items()},
            steps[first:last],
            momentum=options.momentum,
            weight_decay=decay,
            estimator=options.estimator,
            spans=spans,
        )
        online = {side: rate[:1] for side, rate in plain.items()}
        taken = steps[: 1 if options.students else 0]
        reached = advance(inner, params, distilled, online, taken, weight_decay=decay, spans=spans)
        outputs = list(rates.values()) + ([] if similarity is None else [similarity])
        slopes = [_padded(found.rates[side], rates[side], first) for side in SIDES]
        slopes += [] if similarity is None else [found.distilled["similarity"]]
        inputs = {name: leaf for name, leaf in leaves.items() if name != "texts"}
        pulled = torch.autograd.grad(outputs, list(inputs.values()), slopes)
        return Update(
            gradients={
                "images": encoded.pull(found.distilled["images"]),
                "texts": found.distilled["texts"],
                **dict(zip(inputs, pulled)),
            },
            value=float(found.value),
            logs={"inner_steps": float(count), **{f"mean_rate_{s}": float(plain[s].mean()) for s in SIDES}},
            carried=pool.carried(reached),
        )

    def _with_tower(self, context: Context[BilevelOptions]) -> Context:
        """The context with the image tower of this iteration."""
        towers = (context.bench.encoder_config.image, *context.options.towers)
        drawn = int(torch.randint(len(towers), (), generator=context.generator("tower")))
        return replace(context, bench=context.bench.beside(towers[drawn])) if drawn else context

    def _window(self, options: BilevelOptions, context: Context[BilevelOptions], count: int) -> tuple[int, int]:
        """First and last inner step that gradients flow through."""
        if not options.window or options.window >= count:
            return 0, count
        draw = context.generator("window")
        last = int(torch.randint(options.window, count + 1, (), generator=draw))
        return last - options.window, last

    def _outer_loss(self, student: DualEncoder, context: Context[BilevelOptions]) -> Callable[[Groups], torch.Tensor]:
        options = context.options
        images, captions = real_batch(context, options.real_batch, options.captions_per_image)
        return real_loss(student, context, images, captions, options.outer_dropout)

    def export(self, state: State, context: Context[BilevelOptions]) -> DistilledSet:
        """The set with the student of the inner loop: its steps, rates and momentum; in ``heads`` with more decay."""
        options = context.options
        batch = options.minibatch or context.config.pairs
        several = context.config.captions
        per_epoch = steps_in(context.config.pairs * several, Recipe(epochs=1, batch=batch), blocks=several)
        epochs = max(1, math.ceil(options.steps / per_epoch))
        rates = {side: _rates(state.variables[f"log_rate_{side}"], options, options.steps) for side in SIDES}
        recipe = Recipe(
            rates={side: tuple(float(rate) for rate in rates[side]) for side in SIDES},
            epochs=epochs,
            batch=batch,
            momentum=options.momentum,
            weight_decay=options.student_decay if context.bench.setting == "heads" else options.weight_decay,
            schedule="constant",
            dropout=0.0,
            temperature=context.bench.encoder_config.temperature,
            loss="soft_infonce" if options.rank else "infonce",
        )
        return export_set(state, context, recipe, similarity=similarity_matrix(state.variables, options.alpha))


def inner_step_count(options: BilevelOptions, progress: float) -> int:
    """Inner steps when ``progress`` (0 to 1) of the distillation is done, growing linearly during the curriculum."""
    grown = progress / max(options.curriculum, 1e-9)
    if not options.curriculum or grown >= 1 or options.first_steps >= options.steps:
        return options.steps
    return round(options.first_steps + grown * (options.steps - options.first_steps))


def _shape(options: BilevelOptions) -> torch.Tensor:
    """The schedule over all inner steps, (T,)."""
    shares = [SCHEDULES[options.schedule](t / options.steps) for t in range(options.steps)]
    return torch.tensor([max(share, SMALLEST_SHARE) for share in shares], dtype=torch.float64)


def _rates(log_rate: torch.Tensor, options: BilevelOptions, count: int) -> torch.Tensor:
    """Inner rates (count,) of one side; a shorter training runs through the whole schedule faster."""
    place = torch.linspace(0, options.steps - 1, count).round().long()
    if log_rate.ndim:
        return log_rate.exp()[place]
    return log_rate.exp() * _shape(options).to(log_rate)[place]


def _padded(gradient: torch.Tensor, rates: torch.Tensor, first: int) -> torch.Tensor:
    """The gradient of a window's rates as one of all rates."""
    out = torch.zeros_like(rates)
    out[first : first + len(gradient)] = gradient.to(rates)
    return out
