# %% [markdown]
# # Add a method
#
# A method says what is learned, and gives the gradients of one outer iteration; optimisers, guards, validation, checkpoints
# and resuming are the loop's. Here is one in a notebook: it matches the cross moment of image and text features, the
# matrix $X^\top Y / n$ of the real pairs, with few learned pairs.

# %%
from dataclasses import dataclass

import torch

import vldistill as vd
from vldistill.config import Outer
from vldistill.distillation.encode import encode_learned
from vldistill.distillation.export import export_set
from vldistill.distillation.method import Context, Start, State, Update, register
from vldistill.distillation.recipes import plain_recipe
from vldistill.distillation.variables import start_variables

# %% [markdown]
# Options are a frozen dataclass; each becomes `--moments.NAME`, a key of the section `moments:` and an argument in Python.
# `student_epochs` and `student_batch` belong to the recipe that the set will carry.


# %%
@dataclass(frozen=True)
class MomentsOptions:
    """Options of the cross moment.

    Args:
        real_batch: real pairs of an iteration.
        student_epochs: of the set's own recipe.
        student_batch: of the set's own recipe.
    """

    real_batch: int = 256
    student_epochs: int = 60
    student_batch: int = 128


@register(
    "moments",
    MomentsOptions,
    Outer(iterations=40, image_lr=0.03, text_lr=0.03),
    settings=frozenset({"heads"}),
    needs_experts=False,
)
class Moments:
    """Match the cross moment of frozen features."""

    def check(self, context: Context) -> None:
        """Nothing is impossible here; refuse options with a ConfigError."""

    def setup(self, start: Start, context: Context) -> State:
        """Images and texts of the starting pairs are learned."""
        return State(start_variables(start, context))

    def step(self, state: State, context: Context) -> Update:
        """The gradient of the squared gap, through the frozen tower to the pixels."""
        data = context.bench.split("train").data
        chosen = torch.randint(len(data), (context.options.real_batch,), generator=context.generator("real"))
        images, texts = data.images.rows(data.caption_image[chosen]), data.texts.rows(chosen)
        target = images.T @ texts / len(chosen)

        encoded = encode_learned(context, state.variables["images"])
        x = encoded.inputs.detach().requires_grad_(True)
        y = state.variables["texts"].detach().requires_grad_(True)
        with torch.enable_grad():
            loss = (x.T @ y / len(x) - target).square().mean()
            to_features, to_texts = torch.autograd.grad(loss, (x, y))
        return Update({"images": encoded.pull(to_features), "texts": to_texts}, float(loss))

    def export(self, state: State, context: Context) -> vd.DistilledSet:
        """The set, with a plain student."""
        return export_set(state, context, plain_recipe(context))


# %% [markdown]
# Registered, it works everywhere in this process, also with options by name. Random numbers come from
# `context.generator("real")`, which depends on seed and iteration alone: a stopped run resumes to the same bits.

# %%
data = "scenes:train=400,val=100,test=100"
pairs = vd.distill(data, pairs=12, method="moments", run="run", validate_every=20, **{"moments.real_batch": 128})
pairs

# %%
print(vd.evaluate(pairs, seeds=2, trials=2, quiet=True))
print(vd.evaluate("random:12", run="run", seeds=2, trials=2, quiet=True))

# %% [markdown]
# To keep it, save the class as one file in `src/vldistill/distillation/methods/`: then the command line, `compare` and the
# contract tests know it too. [CONTRIBUTING](../../CONTRIBUTING.md) tells all that `register` takes.
