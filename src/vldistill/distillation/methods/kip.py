"""Kernel inducing points: pairs from which kernel ridge regression predicts real captions and photos."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vldistill.config import Outer
from vldistill.config.checks import at_least, positive, require
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.kernels import KERNELS, Kernel, in_double, kernel_named, regression
from vldistill.distillation.method import Context, Start, State, Update, register
from vldistill.distillation.real_batches import real_batch, real_inputs
from vldistill.distillation.recipes import DecayingStudent, decaying_recipe
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.runtime.devices import fetched


@dataclass(frozen=True)
class KipOptions(DecayingStudent):
    """Options of kernel inducing points.

    Args:
        kernel: of the features of both sides: linear, rbf, or ntk (the neural tangent kernel of the heads).
        ridge: of the regressions, in units of the kernel's mean diagonal.
        real_batch: real images per outer batch, with a caption each; all of them where there are fewer.
    """

    kernel: str = "ntk"
    ridge: float = 1e-6
    real_batch: int = 5000

    def __post_init__(self) -> None:
        require(self.kernel in KERNELS, "kip.kernel", self.kernel, " or ".join(KERNELS))
        positive(self, "kip", "ridge")
        at_least(2, self, "kip", "real_batch")
        self.check("kip")


@register(
    "kip",
    KipOptions,
    Outer(iterations=300, image_lr=0.04, text_lr=0.04, decay="cosine"),
    settings=frozenset({"heads"}),
)
class KernelInducingPoints:
    """Descend the squared error of kernel ridge regression on the pairs, both directions; no experts (KIP).

    Kernel inducing points (Nguyen et al. 2021, arXiv 2011.00050) for pairs: images predict text vectors and texts image
    features, by kernel ridge regression in float64.
    """

    def check(self, context: Context[KipOptions]) -> None:
        """Nothing but the options themselves can be wrong."""

    def setup(self, start: Start, context: Context[KipOptions]) -> State:
        """Images and texts of the start."""
        begun = start_variables(start, context)
        return State({name: begun[name] for name in ("images", "texts")})

    def step(self, state: State, context: Context[KipOptions]) -> Update:
        """The gradient of both directions' errors on a real batch."""
        options = context.options
        kernel = kernel_named(options.kernel, context.bench.encoder_config.dim)
        encoded = encode_learned(context, state.variables["images"])
        learned = encoded.inputs, state.variables["texts"]
        images, captions = real_batch(context, options.real_batch, 1)
        real_images, (real_texts,) = real_inputs(context, images, captions)
        real = in_double(real_images), in_double(real_texts)
        leaves = [in_double(side.detach()).requires_grad_(True) for side in learned]
        with torch.enable_grad():
            to_text = error(kernel, leaves, real, options.ridge)
            to_image = error(kernel, leaves[::-1], real[::-1], options.ridge)
        slopes = torch.autograd.grad(to_text + to_image, leaves)
        pulled = [slope.to(side) for slope, side in zip(slopes, learned)]
        errors = [float(one) for one in fetched([to_text.detach(), to_image.detach()])]
        return Update(
            gradients={"images": encoded.pull(pulled[0]), "texts": pulled[1]},
            value=sum(errors),
            logs=dict(zip(("to_text", "to_image"), errors)),
        )

    def export(self, state: State, context: Context[KipOptions]) -> DistilledSet:
        """The set with a student whose weights decay fast."""
        return export_set(state, context, decaying_recipe(context))


def error(
    kernel: Kernel,
    learned: list[torch.Tensor],
    real: tuple[torch.Tensor, ...],
    ridge: float,
) -> torch.Tensor:
    """1/2 the mean squared error, over rows and features, of real outputs that are predicted from real inputs.

    K_ts (K_ss + ridge tr(K_ss) / N I)^(-1) Y_s, with learned inputs and outputs s and real ones t.

    Args:
        learned: inputs (N, D) and outputs (N, d).
        real: inputs (B, D) and outputs (B, d).
    """
    (inputs, outputs), (real_inputs, wanted) = learned, real
    found = regression(kernel(real_inputs, inputs), kernel(inputs, inputs), ridge, outputs)
    return (found - wanted).square().mean() / 2
