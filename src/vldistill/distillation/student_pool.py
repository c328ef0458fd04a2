"""A pool of students that are partly trained on the set as it is being learned (FRePo, arXiv 2206.00719)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch.func import functional_call

from vldistill.distillation.method import Context
from vldistill.encoders.dual import Groups, Head, packed, unpacked
from vldistill.training.losses import infonce


class StudentPool:
    """The pool as it is carried from step to step; iterations take its students in turn.

    Every ``online_steps`` steps that a student has taken, a random one replaces it; the first ones are staggered.

    Args:
        context: of the iteration; its options have ``students`` and ``online_steps``, those of
            :meth:`trained_on` ``student_rate`` and ``student_temperature``.
        carried: what the last step carried.
    """

    def __init__(self, context: Context, carried: Mapping[str, torch.Tensor]) -> None:
        self._context = context
        options = context.options
        self._name = f"student{context.iteration % max(options.students, 1)}/"
        turn, place = divmod(context.iteration, max(options.students, 1))
        late = place * options.online_steps // max(options.students, 1)
        renewed = turn > 0 and (turn + late) % options.online_steps == 0
        self.params: Groups = self._new() if renewed and options.students else unpacked(carried, self._name)

    def _new(self) -> Groups:
        student = self._context.bench.student(self._context.at(self._context.iteration).seed_of("pool"))
        return {
            side: {name: p.detach().clone() for name, p in named.items()} for side, named in student.trained().items()
        }

    @staticmethod
    def begun(context: Context, count: int) -> dict[str, torch.Tensor]:
        """What a pool of ``count`` random students carries: their parameters by name."""
        carried: dict[str, torch.Tensor] = {}
        for number in range(count):
            named = context.bench.student(context.at(0).seed_of("pool", number)).trained()
            carried |= {key: p.detach().clone() for key, p in packed(named, f"student{number}/").items()}
        return carried

    def hidden(self, side: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """What the student's head makes of features (B, D) before its last layer, (B, H)."""
        head = self._context.bench.architecture.side(side)
        assert isinstance(head, Head)  # setting heads
        weights = {name: self.params[side][f"project.{name}"] for name in ("weight", "bias")}
        return lambda rows: F.gelu(functional_call(head.project, weights, (rows,)))

    def carried(self, params: Groups) -> dict[str, torch.Tensor]:
        """What is carried on where the student has come to ``params``; nothing without a pool."""
        return packed(params, self._name) if self._context.options.students else {}

    def trained_on(self, images: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is carried on after the student's step on features (N, D) and texts (N, d); nothing without a pool."""
        if not self._context.options.students:
            return {}
        options, bench = self._context.options, self._context.bench
        flat = {name: p.detach().requires_grad_(True) for name, p in packed(self.params, self._name).items()}
        with torch.enable_grad():
            student, params = bench.architecture, unpacked(flat, self._name)
            cosines = student.embed("image", images.detach(), params) @ student.embed("text", texts.detach(), params).T
            equal = self._context.equal_learned(torch.arange(len(texts)))
            loss = infonce(cosines / (options.student_temperature or bench.encoder_config.temperature), equal)
        slopes = torch.autograd.grad(loss, list(flat.values()))
        return {name: (p - options.student_rate * slope).detach() for (name, p), slope in zip(flat.items(), slopes)}
