"""PTM-ST: phased teachers with straightened trajectories (arXiv 2603.25388, ICLR 2026)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from vldistill.distillation.export import export_set
from vldistill.distillation.inner_steps import inner_loss, permuted_steps
from vldistill.distillation.method import USUAL_RATES, Context, Start, State, Update, register
from vldistill.distillation.recipes import soft_recipe
from vldistill.distillation.similarity import similarity_matrix, start_similarity
from vldistill.distillation.trajectory_matching import (
    MATCHING_OUTER,
    Segment,
    SoftOptions,
    check_segments,
    matching_update,
)
from vldistill.distillation.variables import start_variables
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.dual import SIDES, Groups
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory

Shares = dict[str, dict[str, torch.Tensor]]
"""b by side and name: (T + 1,), the part of the way from epoch 0 to T that is done at each epoch."""


@dataclass(frozen=True)
class PtmOptions(SoftOptions):
    """Options of phased teachers.

    Args:
        subsets: pairs of each phase, e.g. [200, 300]; they add up to distill.pairs. Empty is one phase of all pairs.
        first_starts: for each phase the first epoch that its segments start at.
        last_starts: for each phase the epoch that its segments start before.
        straighten: for each phase the epoch T that the experts' way from epoch 0 is straightened to; 0 leaves it.
        separate_starts: draw the start epoch for images and for texts separately (AMD).
        syn_steps: inner SGD steps of the student on the phase's pairs.
        student_epochs: of the set's own recipe, for each phase.
    """

    subsets: tuple[int, ...] = ()
    first_starts: tuple[int, ...] = (0, 1)
    last_starts: tuple[int, ...] = (2, 3)
    straighten: tuple[int, ...] = (6, 8)
    separate_starts: bool = False
    similarity: str = "full"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        self.check("ptm")
        if self.subsets and min(self.subsets) < 2:
            raise ConfigError(f"ptm.subsets is {self.subsets}; expected at least 2 pairs in each phase.")
        for name in ("first_starts", "last_starts", "straighten"):
            if len(getattr(self, name)) < max(1, len(self.subsets)):
                raise ConfigError(
                    f"ptm.{name} is {getattr(self, name)}; expected a number for each of the "
                    f"{max(1, len(self.subsets))} phases."
                )
        for phase, (first, last) in enumerate(zip(self.first_starts, self.last_starts)):
            if not 0 <= first < last:
                raise ConfigError(
                    f"ptm.first_starts {first} and ptm.last_starts {last} of phase {phase + 1}: "
                    f"expected 0 <= first < last."
                )
            straight = self.straighten[phase] if phase < len(self.straighten) else 0
            if straight and straight < last - 1 + self.expert_epochs:
                raise ConfigError(
                    f"ptm.straighten {straight} of phase {phase + 1}: segments reach epoch "
                    f"{last - 1 + self.expert_epochs}; straighten at least to there, or 0 to leave the way as it is."
                )


@register(
    "ptm",
    PtmOptions,
    MATCHING_OUTER,
    needs_experts=True,
    learns_similarity=True,
    inner_steps=lambda options: (options.syn_steps, options.minibatch),
)
class PhasedTeachers:
    """Distil one subset after the other, each from later epochs of straightened experts (PTM-ST).

    The iteration of ``lors`` on the pairs of the current phase; students train on the subsets in the same order.
    Published with an average of the set, ``distill.ema`` 0.99.
    """

    def __init__(self) -> None:
        self._shares: dict[tuple[str, int], Shares] = {}  # derived from the experts alone, so no part of the state

    def check(self, context: Context[PtmOptions]) -> None:
        """Refuse subsets that do not add up, and segments or epochs that the experts do not hold."""
        options = context.options
        if options.subsets and sum(options.subsets) != context.config.pairs:
            raise ConfigError(
                f"ptm.subsets {options.subsets} add up to {sum(options.subsets)}, but distill.pairs is "
                f"{context.config.pairs}. Make them agree."
            )
        for phase in range(len(_subsets(context))):
            check_segments("ptm", context.experts, _starts(options, phase), options.expert_epochs)
            needed = set(range(options.straighten[phase] + 1)) if options.straighten[phase] else set()
            for expert in context.experts:
                if missing := sorted(needed - set(expert.epochs)):
                    raise ConfigError(
                        f"ptm.straighten {options.straighten[phase]} needs every epoch up to there, but "
                        f"{expert.path.name} has no snapshot of epochs {missing}; it keeps {expert.epochs}. "
                        f"Record them (experts.epochs, experts.snapshots), or lower ptm.straighten; 0 turns it off."
                    )

    def setup(self, start: Start, context: Context[PtmOptions]) -> State:
        """Each phase's images, texts, rates and similarity, under names that end in its number if there are several."""
        options = context.options
        whole = start_variables(start, context)
        variables: dict[str, torch.Tensor] = {}
        rates: dict[str, str] = {}
        for phase, rows in enumerate(_rows(context)):
            part = {n: v[rows].clone() if n in ("images", "texts") else v.clone() for n, v in whole.items()}
            draw = context.at(0).generator("similarity", phase)
            count, like = rows.stop - rows.start, part["texts"]
            part |= start_similarity(options.similarity, count, options.rank, draw, like)
            variables |= {_name(context, name, phase): value for name, value in part.items()}
            rates |= {_name(context, name, phase): USUAL_RATES[name] for name in part}
        return State(variables, rates=rates)

    def step(self, state: State, context: Context[PtmOptions]) -> Update:
        """The iteration of ``lors`` on this phase's pairs, against its straightened segment."""
        options = context.options
        subsets = _subsets(context)
        done = len(subsets) * context.progress
        phase = min(int(done), len(subsets) - 1)
        update = matching_update(
            _part(state, context, phase),
            context,
            self._segment(context, phase),
            partial(inner_loss, context.bench.architecture, soft_loss=options.loss),
            permuted_steps(context, options.syn_steps, options.minibatch, subsets[phase]),
            alpha=options.alpha,
        )
        renamed = {_name(context, name, phase): slope for name, slope in update.gradients.items()}
        return replace(update, gradients=renamed, phase=f"subset {phase + 1}", progress=min(done - phase, 1.0))

    def _segment(self, context: Context[PtmOptions], phase: int) -> Segment:
        """A random segment of this phase, of one expert; both sides start at the same epoch unless asked otherwise."""
        options = context.options
        draw = context.generator("segment")
        expert = context.experts[int(torch.randint(len(context.experts), (), generator=draw))]
        starts = _starts(options, phase)
        start = {side: starts[int(torch.randint(len(starts), (), generator=draw))] for side in SIDES}
        if not options.separate_starts:
            start["text"] = start["image"]
        length = options.expert_epochs
        needed = {start[side] + ahead for side in SIDES for ahead in (0, length)}
        way = {epoch: self._snapshot(expert, epoch, options.straighten[phase]) for epoch in needed}
        begin: Groups = {side: way[start[side]][side] for side in SIDES}
        target: Groups = {side: way[start[side] + length][side] for side in SIDES}
        return context.on_device(begin), context.on_device(target)

    def _snapshot(self, expert: Trajectory, epoch: int, last: int) -> Groups:
        """theta_t = (1 - b(t)) theta_0 + b(t) theta_T for each tensor, T = ``last``; the snapshot itself if T is 0."""
        if not last or epoch in (0, last):
            return expert.snapshot(epoch)
        key = (str(expert.path), last)
        if key not in self._shares:
            self._shares[key] = travelled(expert, last)
        begin, end, shares = expert.snapshot(0), expert.snapshot(last), self._shares[key]
        return {
            side: {name: p.lerp(end[side][name], float(shares[side][name][epoch])) for name, p in begin[side].items()}
            for side in SIDES
        }

    def export(self, state: State, context: Context[PtmOptions]) -> DistilledSet:
        """All phases as one set, with a block-diagonal similarity; students train on the subsets in their order."""
        options = context.options
        subsets = _subsets(context)
        parts = [_part(state, context, phase) for phase in range(len(subsets))]
        blocks = [similarity_matrix(part.variables, options.alpha) for part in parts]
        whole = State(
            state.variables
            | {name: torch.cat([part.variables[name] for part in parts]) for name in ("images", "texts")}
        )
        recipe = soft_recipe(parts[-1], context)  # the last phase's rates serve all, as published
        if len(subsets) > 1:
            recipe = replace(recipe, phases=subsets)
        similarity = torch.block_diag(*(block for block in blocks if block is not None))
        return export_set(whole, context, recipe, similarity=similarity)


def travelled(expert: Trajectory, last: int) -> Shares:
    """b(t) for t = 0 .. ``last``: each tensor's step lengths up to epoch t over those of the whole way."""
    before = expert.snapshot(0)
    shares: Shares = {s: {n: torch.zeros(last + 1, dtype=torch.float64) for n in before[s]} for s in SIDES}
    for epoch in range(1, last + 1):
        after = expert.snapshot(epoch)
        for side in SIDES:
            for name, share in shares[side].items():
                share[epoch] = share[epoch - 1] + (after[side][name] - before[side][name]).double().norm()
        before = after
    for side in SIDES:
        for share in shares[side].values():
            share /= share[-1].clone().clamp(min=1e-30)  # a tensor that never moved stays at 0
    return shares


def _subsets(context: Context[PtmOptions]) -> tuple[int, ...]:
    """Pairs of each phase."""
    return tuple(context.options.subsets) or (context.config.pairs,)


def _rows(context: Context[PtmOptions]) -> list[slice]:
    """Rows of each phase in the whole set."""
    sizes = _subsets(context)
    return [slice(sum(sizes[:phase]), sum(sizes[: phase + 1])) for phase in range(len(sizes))]


def _starts(options: PtmOptions, phase: int) -> range:
    return range(options.first_starts[phase], options.last_starts[phase])


def _name(context: Context[PtmOptions], name: str, phase: int) -> str:
    """A variable of one phase; without its number where there is one phase only."""
    return f"{name}_{phase + 1}" if len(_subsets(context)) > 1 else name


def _part(state: State, context: Context[PtmOptions], phase: int) -> State:
    """The variables of one phase under their plain names."""
    if len(_subsets(context)) == 1:
        return state
    end = f"_{phase + 1}"
    return State({name.removesuffix(end): v for name, v in state.variables.items() if name.endswith(end)})
