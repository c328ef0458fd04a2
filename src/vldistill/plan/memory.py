"""The memory of a configuration, computed from shapes: what the largest pass of each stage has alive.

Without workspaces of kernels, the process itself (on a GPU about half a GB of CUDA's own) and what an allocator holds
back; `benchmarks/memory.py` compares it with what processes take.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import torch

from vldistill.distillation.inner_steps import inner_loss
from vldistill.distillation.metagrad import InnerStep, hypergradient
from vldistill.distillation.metagrad.tape import TapeStorage, tensor_bytes
from vldistill.encoders.dual import DualEncoder
from vldistill.runtime.shapes import META, on_meta, peak_of_shapes
from vldistill.training.losses import infonce

TRACED = 2  # inner steps that are traced: every further one adds a copy of the parameters
ENDLESS = 1 << 60


@dataclass(frozen=True)
class RunBytes:
    """Memory of one gradient through an inner run.

    Args:
        activations: the most that is alive beside copies and weights, whatever the number of steps.
        copies: of the parameters, one for each step.
    """

    activations: int
    copies: int

    @property
    def total(self) -> int:
        """Both."""
        return self.activations + self.copies


def step_bytes(student: DualEncoder, images: tuple[int, ...], texts: tuple[int, ...]) -> int:
    """A first-order training step on inputs of these shapes (B, ...), with the gradients of the weights."""
    student = _bare(student)
    params = _shapes(student)
    leaves = [tensor.requires_grad_() for named in params.values() for tensor in named.values()]

    def work() -> object:
        inputs = (torch.empty(shape, device=META) for shape in (images, texts))
        return torch.autograd.grad(infonce(student(*inputs, params)), leaves)

    with torch.enable_grad():
        return peak_of_shapes(work)


def run_bytes(
    student: DualEncoder, images: tuple[int, ...], texts: tuple[int, ...], steps: int, rows: int = 0
) -> RunBytes:
    """The exact gradient (``adjoint``) through ``steps`` inner steps of ``student`` on distilled pairs.

    Args:
        images: (N, ...), what the image side consumes.
        texts: (N, ...).
        rows: pairs in each step; 0 is all.
    """
    student = _bare(student)
    params = _shapes(student)
    target = {side: {name: on_meta(tensor) for name, tensor in named.items()} for side, named in params.items()}
    distilled = {"images": torch.empty(images, device=META), "texts": torch.empty(texts, device=META)}
    index = torch.arange(rows or len(distilled["images"]), device=META)
    inner = [_Step(t, index, t) for t in range(min(steps, TRACED))]
    rates = {side: torch.tensor(1e-3) for side in params}

    def outer(reached: dict[str, dict[str, torch.Tensor]]) -> torch.Tensor:
        """The distance to the end of a segment."""
        apart = [((p - target[side][n]) ** 2).sum() for side, named in reached.items() for n, p in named.items()]
        return torch.stack(apart).sum()

    def work() -> object:
        storage = TapeStorage(ENDLESS)
        loss = functools.partial(inner_loss, student)
        return hypergradient(loss, outer, params, distilled, rates, inner, storage=storage)

    one = sum(tensor_bytes(list(named.values())) for named in params.values())
    return RunBytes(peak_of_shapes(work) - one * len(inner), one * steps)


class _Step(InnerStep):
    """An inner step whose rows are always taken: shapes do not tell whether they are all, in order."""

    def rows(self, data: torch.Tensor) -> torch.Tensor | None:
        """None where they are as many as there are: methods take all pairs in order then."""
        return None if len(self.index) == len(data) else self.index


def _bare(student: DualEncoder) -> DualEncoder:
    """The same without numbers."""
    return copy.deepcopy(student).to(META).eval()


def _shapes(student: DualEncoder) -> dict[str, dict[str, torch.Tensor]]:
    """The trained parameters without numbers."""
    return {side: {name: on_meta(p.detach()) for name, p in named.items()} for side, named in student.trained().items()}
