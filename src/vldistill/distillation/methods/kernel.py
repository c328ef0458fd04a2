"""Closed-form students inside, the contrastive loss of their scores outside: no experts and no inner steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from vldistill.config import Outer
from vldistill.config.checks import at_least, positive, require
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.kernels import KERNELS, Kernel, kernel_named, solved
from vldistill.distillation.method import Context, Start, State, Update, register
from vldistill.distillation.real_batches import real_batch, real_inputs
from vldistill.distillation.recipes import DecayingStudent, decaying_recipe
from vldistill.distillation.student_pool import StudentPool
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES
from vldistill.runtime.devices import moved
from vldistill.training.losses import infonce

LEARNED = ("log_ridge_image", "log_ridge_text", "log_step")


@dataclass(frozen=True)
class KernelOptions(DecayingStudent):
    """Options of closed-form students.

    Args:
        kernel: of the features of both sides: linear, rbf, or ntk (the neural tangent kernel of the heads).
        ridge: where the learned ridges of both sides start, in units of the kernel's mean diagonal: small for a student
            that reproduces its pairs, large for one that takes a single step.
        step: where the learned size of the student's step starts.
        temperature: of the outer loss.
        real_batch: real images per outer batch, with a caption each; all of them where there are fewer.
        noise: standard deviation of the normal noise on the features of the real batch, in those of the features: to
            keep the pairs from fitting the training data alone.
        students: of a pool that is partly trained on the set; each iteration takes the kernel of one of them. 0 takes
            that of the frozen features.
        online_steps: steps of such a student on the set, one an iteration, before a new one takes its place.
    """

    kernel: str = "linear"
    ridge: float = 100.0
    step: float = 1.0
    temperature: float = 0.04
    real_batch: int = 512
    noise: float = 0.7
    students: int = 0
    online_steps: int = 50

    def __post_init__(self) -> None:
        require(self.kernel in KERNELS, "kernel.kernel", self.kernel, " or ".join(KERNELS))
        positive(self, "kernel", "ridge", "step", "temperature")
        at_least(2, self, "kernel", "real_batch")
        at_least(1, self, "kernel", "online_steps")
        at_least(0, self, "kernel", "noise", "students")
        self.check("kernel")


@register(
    "kernel",
    KernelOptions,
    Outer(iterations=500, image_lr=0.03, text_lr=0.1, rate_lr=0.02, decay="cosine", ema=0.9),
    settings=frozenset({"heads"}),
)
class KernelStudents:
    """Descend the contrastive loss of a student that is solved in closed form; no experts, no inner steps.

    Kernel ridge regression on the pairs is the inner problem, as in KIP (arXiv 2011.00050), a contrastive loss of its
    scores the outer one, which CLP-DD (arXiv 2605.07194) found to matter for classes; the pool of students is FRePo's
    (arXiv 2206.00719).
    """

    def check(self, context: Context[KernelOptions]) -> None:
        """Nothing but the options themselves can be wrong."""

    def setup(self, start: Start, context: Context[KernelOptions]) -> State:
        """Images and texts of the start, the logarithms of the student's numbers, and the pool."""
        options = context.options
        begun = start_variables(start, context)
        numbers = dict(zip(LEARNED, (options.ridge, options.ridge, options.step)))
        logs = {name: torch.tensor(math.log(number), dtype=torch.float64) for name, number in numbers.items()}
        carried = StudentPool.begun(context, options.students)
        return State(
            {"images": begun["images"], "texts": begun["texts"], **logs}, carried, dict.fromkeys(LEARNED, "rate_lr")
        )

    def step(self, state: State, context: Context[KernelOptions]) -> Update:
        """The gradient of InfoNCE of the closed-form student's scores on a noisy real batch."""
        encoded = encode_learned(context, state.variables["images"])
        pool = StudentPool(context, state.carried)
        kernels = self._kernels(context, pool)
        index, real = self._real(context)
        texts = state.variables["texts"]
        plain = torch.stack([state.variables[name].exp() for name in LEARNED])
        there = moved(plain.to(texts.dtype), texts.device)  # all numbers in one copy
        leaves = [tensor.detach().requires_grad_(True) for tensor in (encoded.inputs, texts, there)]
        with torch.enable_grad():
            numbers: dict[str, torch.Tensor] = dict(zip(LEARNED, leaves[2]))
            equal = context.equal_learned(torch.arange(len(texts)))
            scores = closed_form_scores(kernels, (leaves[0], leaves[1]), real, numbers, equal)
            loss = infonce(scores / context.options.temperature, context.equal_real(index))
        slopes = torch.autograd.grad(loss, leaves)
        return Update(
            gradients={
                "images": encoded.pull(slopes[0]),
                "texts": slopes[1],
                **dict(zip(LEARNED, slopes[2].to(plain) * plain)),
            },
            value=float(loss.detach()),
            logs={name.removeprefix("log_"): float(number) for name, number in zip(LEARNED, plain)},
            carried=pool.trained_on(encoded.inputs, texts),
        )

    def _kernels(self, context: Context[KernelOptions], pool: StudentPool) -> dict[str, Kernel]:
        plain = kernel_named(context.options.kernel, context.bench.encoder_config.dim)
        if not context.options.students:
            return dict.fromkeys(SIDES, plain)
        return {side: plain.of(pool.hidden(side)) for side in SIDES}

    def _real(self, context: Context[KernelOptions]) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Captions (B,) and the noisy features of their images and of themselves."""
        images, (captions,) = real_batch(context, context.options.real_batch, 1)
        shown, (texts,) = real_inputs(context, images, [captions])
        draw = context.generator("noise")
        noisy = (
            x + context.options.noise * moved(torch.randn(x.shape, generator=draw), x.device) for x in (shown, texts)
        )
        return captions, (next(noisy), next(noisy))

    def export(self, state: State, context: Context[KernelOptions]) -> DistilledSet:
        """The set with a student whose weights decay fast."""
        return export_set(state, context, decaying_recipe(context))


def closed_form_scores(
    kernels: Mapping[str, Kernel],
    pairs: tuple[torch.Tensor, torch.Tensor],
    real: tuple[torch.Tensor, torch.Tensor],
    numbers: Mapping[str, torch.Tensor],
    equal: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cosines (B, B) of real images and texts to a student that learned ``pairs`` in closed form.

    Wide random linear heads W_0 and V_0 keep inner products, k(x, x') = (W_0 x)^T W_0 x', and embed images orthogonally
    to texts. One gradient step on InfoNCE of N pairs, where all others are equal negatives, moves each side towards its
    partners: W = W_0 + t sum_i (V_0 y_i - mean_j V_0 y_j) x_i^T, and V alike. With C = I - 1 1^T / N, K the kernels of
    the pairs, e_x = C k(X, x) and e_y = C k(Y, y):

        f(x)^T g(y) = 2 t e_x^T e_y
        |f(x)|^2 = k(x, x) + t^2 e_x^T K_y e_x,    |g(y)|^2 = k(y, y) + t^2 e_y^T K_x e_y

    Further steps regress on their pairs: e_x = C (I + K_x / r)^(-1) k(X, x); a ridge r without limit is one step.

    Args:
        pairs: images (N, D) and texts (N, d).
        real: images (B, D) and texts (B, d).
        numbers: r of either side over the mean diagonal of its kernel, and t, by the names of :data:`LEARNED`.
        equal: (N, N) bool, pairs that are no negatives of each other: their texts are not in each other's mean, and C
            is (I - A)^T, with A_ij one over the number of texts in the mean of pair i. None where all are negatives.
    """
    share = None
    if equal is not None:
        share = (~equal).to(pairs[1])
        share = (share / share.sum(1, keepdim=True)).T
    grams = [kernels[side](learned, learned) for side, learned in zip(SIDES, pairs)]
    sums = []
    for side, learned, rows, gram in zip(SIDES, pairs, real, grams):
        ridge = numbers[f"log_ridge_{side}"]
        damped = ridge * gram.diagonal().mean() * solved(gram, ridge, kernels[side](learned, rows))
        sums.append((damped - (damped.mean(0) if share is None else share @ damped)).T)
    step = numbers["log_step"]
    sizes = []
    for side, rows, found, other in zip(SIDES, real, sums, reversed(grams)):
        sizes.append(kernels[side].own(rows) + step.square() * (found @ other * found).sum(1))
    return 2 * step * sums[0] @ sums[1].T / (sizes[0][:, None] * sizes[1][None]).sqrt()
