"""The contract of a distillation method: what it is given, what it returns, and how it is registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F

from vldistill.config import SETTINGS, Outer, ResolvedDistillConfig
from vldistill.distilled.distilled_set import Caption, DistilledSet
from vldistill.encoders.dual import Groups
from vldistill.errors import ConfigError, unknown
from vldistill.experts.trajectory import Trajectory
from vldistill.registry import Registry, summary_of
from vldistill.runtime.devices import moved
from vldistill.runtime.randomness import generator, seed_of
from vldistill.training.losses import equal_pairs
from vldistill.workbench.bench import Workbench

OptionsT = TypeVar("OptionsT", covariant=True)
OptionsIn = TypeVar("OptionsIn", contravariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """Starting pairs.

    Args:
        images: (N, 3, S, S), normalised; (N, D) standardised features where they come from a set of features.
        texts: (N, d), standardised sentence vectors, or (N, C, d) where each image has C of them; in setting ``both``
            (N, L, e) input embeddings.
        captions: the N captions the texts come from, lists where each image has C of them; empty strings for noise.
        text_mask: (N, L) 1 for a token and 0 for padding, in setting ``both``.
        rows: (N,) int64, the training captions the texts come from; None for noise.
    """

    images: torch.Tensor
    texts: torch.Tensor
    captions: Sequence[Caption]
    text_mask: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def resized(self, size: int) -> Start:
        """The same pairs with images of ``size`` pixels; 0 leaves them."""
        if not size or self.images.ndim == 2 or self.images.shape[-1] == size:
            return self
        return replace(self, images=F.interpolate(self.images, size=(size, size), mode="bicubic", antialias=True))


@dataclass(frozen=True)
class Context(Generic[OptionsT]):
    """What a method may use in one outer iteration.

    Args:
        bench: towers, features and splits.
        config: the outer loop.
        options: the method's own options.
        experts: recorded experts, where the method needs them.
        iteration: counted from 0.
        draw: of several in one iteration (``distill.draws``), counted from 0.
        spent: part of ``distill.minutes`` that is over, 0 to 1; 0 where there is no such limit.
        text_numbers: (N, C) int64, equal for equal learned texts, and for texts of one class, where negatives are
            ``distinct``.
    """

    bench: Workbench
    config: ResolvedDistillConfig
    options: OptionsT
    experts: list[Trajectory] = field(default_factory=list)
    iteration: int = 0
    draw: int = 0
    spent: float = 0.0
    text_numbers: torch.Tensor | None = None

    @property
    def progress(self) -> float:
        """Part of the distillation that is done, 0 to 1: of the iterations or of the minutes, whichever ends first."""
        return max(self.iteration / max(self.config.iterations, 1), self.spent)

    @property
    def negatives(self) -> Literal["all", "distinct"]:
        """``distill.negatives``; of class sets the distinct ones."""
        return self.bench.negatives(self.config.negatives)

    def at(self, iteration: int, draw: int = 0) -> Context[OptionsT]:
        """The same context in another iteration, or in another draw of it."""
        return replace(self, iteration=iteration, draw=draw)

    def on_device(self, groups: Groups) -> Groups:
        """Parameters by side and name, on the device of the work."""
        return {
            side: {name: moved(tensor, self.bench.device) for name, tensor in named.items()}
            for side, named in groups.items()
        }

    @property
    def _place(self) -> tuple[object, ...]:
        drawn = ("draw", self.draw) if self.draw else ()  # the first is what a single one would be
        return (self.config.seed, self.iteration, *drawn)

    def equal_real(self, captions: torch.Tensor) -> torch.Tensor | None:
        """(B, B), which of the real pairs ``captions`` (B,) are no negatives of each other; None where all are."""
        if self.negatives == "all":
            return None
        equal = self.bench.split("train").data.equal(captions)
        return None if equal is None else moved(equal, self.bench.device)

    def equal_learned(self, rows: torch.Tensor, step: int = 0) -> torch.Tensor | None:
        """(B, B), which of the learned pairs ``rows`` (B,) are no negatives of each other in inner step ``step``."""
        if self.text_numbers is None:
            return None
        equal = equal_pairs(rows, self.text_numbers[rows, step % self.text_numbers.shape[1]])
        return None if equal is None else moved(equal, self.bench.device)

    def generator(self, *names: object) -> torch.Generator:
        """Random numbers that depend on the seed, the iteration, the draw and ``names`` alone."""
        return generator(*self._place, *names)

    def seed_of(self, *names: object) -> int:
        """A seed that depends on the same."""
        return seed_of(*self._place, *names)


USUAL_RATES = {
    "images": "image_lr",
    "texts": "text_lr",
    "log_rate_image": "rate_lr",
    "log_rate_text": "rate_lr",
    "similarity_diagonal": "similarity_lr",
    "similarity_left": "similarity_lr",
    "similarity_right": "similarity_lr",
    "similarity_full": "similarity_lr",
}
"""Outer rates of the variables that methods share, by name."""


@dataclass
class State:
    """What a method learns and carries on.

    Args:
        variables: learned tensors by name; ``images``, ``texts``, and the logarithms ``log_rate_*``.
        rates: by name, the outer rate of :class:`~vldistill.config.Outer` that a variable takes (``image_lr``); what
            is not named takes that of :data:`USUAL_RATES`, and a name that neither knows is an error.
        carried: other tensors that belong to the state.
    """

    variables: dict[str, torch.Tensor]
    carried: dict[str, torch.Tensor] = field(default_factory=dict)
    rates: dict[str, str] = field(default_factory=dict)

    def rate_of(self, name: str) -> str:
        """The outer rate that a variable takes. Raises ConfigError where none is known."""
        rate = self.rates.get(name) or USUAL_RATES.get(name)
        if rate is None:
            raise ConfigError(
                f"the method learns {name!r} but names no outer rate for it. Give State its name in rates, "
                f"e.g. rates={{{name!r}: 'text_lr'}}."
            )
        return rate

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything, by name."""
        return {
            **{f"variables/{name}": value for name, value in self.variables.items()},
            **{f"carried/{name}": value for name, value in self.carried.items()},
        }

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy what :meth:`state_dict` gave back into this state."""
        for name, value in self.state_dict().items():
            value.copy_(tensors[name])


@dataclass(frozen=True)
class Update:
    """The result of one step.

    Args:
        gradients: by variable name; a variable without one stays as it is.
        value: the outer loss.
        logs: numbers worth logging.
        phase: where a method works in phases, the name of this one: losses of different phases are not compared.
        progress: part of the phase that is done, 0 to 1, for the decay of the outer rates; None is
            :attr:`Context.progress`.
        carried: new values of carried tensors, by name.
    """

    gradients: dict[str, torch.Tensor]
    value: float
    logs: dict[str, float] = field(default_factory=dict)
    phase: str = ""
    progress: float | None = None
    carried: dict[str, torch.Tensor] = field(default_factory=dict)


class Method(Protocol[OptionsIn]):
    """A distillation method. One that takes outer iterations is a :class:`TrainedMethod`.

    Its other properties are declared at registration, see :class:`Entry`.
    """

    def check(self, context: Context[OptionsIn]) -> None:
        """Refuse impossible options before long work starts."""
        ...

    def setup(self, start: Start, context: Context[OptionsIn]) -> State:
        """Make the state from the starting pairs."""
        ...

    def export(self, state: State, context: Context[OptionsIn]) -> DistilledSet:
        """The set as it stands; texts and images are copies.

        Carried tensors are those of the last step, also where the variables are the best ones or their average: only
        what stays the same may enter the set.
        """
        ...


@runtime_checkable
class TrainedMethod(Method[OptionsIn], Protocol[OptionsIn]):
    """A method with an outer loop."""

    def step(self, state: State, context: Context[OptionsIn]) -> Update:
        """Gradients of one outer iteration; touches no optimiser and no variable."""
        ...


@runtime_checkable
class ChoosesStart(Method[OptionsIn], Protocol[OptionsIn]):
    """A method that chooses its own starting pairs: ``distill.start`` is ignored."""

    def begin(self, context: Context[OptionsIn]) -> Start:
        """The starting pairs."""
        ...


@dataclass(frozen=True)
class BestKnown:
    """Where a method is taken if none is named.

    Args:
        setting: of the encoder.
        why: the reason, shown to the user.
        pairs: from this number of distilled pairs on.
        space: what is learned on the image side; empty is any.
    """

    setting: str
    why: str
    pairs: int = 1
    space: str = ""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered method, and all that it declares.

    Args:
        build: makes the method.
        options: the dataclass of its options.
        summary: one line about it.
        outer: what suits it of the outer loop, wherever the user leaves that open.
        trained: whether it takes outer iterations.
        own_start: whether it chooses its own starting pairs.
        needs_experts: whether it draws from recorded experts.
        settings: those it works in.
        several_captions: whether it can learn several texts for each image.
        closed_form: spaces in which it has nothing to train.
        is_start: whether its sets are quick to make and good starts: its name is then a ``distill.start``.
        learns_similarity: whether it learns a similarity, and so takes ``distill.similarity_lr``.
        inner_steps: inner steps of an outer iteration, and distilled pairs in each (0 is all), for estimates of time.
        as_planned: its options without what only a run builds (towers), for checks of a plan.
        best_known: where it is taken if no method is named.
    """

    build: Callable[[], Method[T]]
    options: type[T]
    summary: str
    outer: Outer
    trained: bool
    own_start: bool
    needs_experts: bool
    settings: frozenset[str]
    several_captions: bool
    closed_form: frozenset[str]
    is_start: bool
    learns_similarity: bool
    inner_steps: Callable[[T], tuple[int, int]]
    as_planned: Callable[[T], T]
    best_known: tuple[BestKnown, ...]

    def trains(self, space: str) -> bool:
        """Whether it takes outer iterations in ``space``; if not, its set is exported as it was set up."""
        return self.trained and space not in self.closed_form


METHODS: Registry[Entry[Any]] = Registry(
    "method", "vldistill.distillation.methods", reserved=("real", "noise", "full", "own")
)

FROZEN_TEXT = frozenset(SETTINGS.keys() - {"both"})
"""The settings whose text tower stays as it is."""


M = TypeVar("M", bound=Method[Any])


def register(
    name: str,
    options: type[T],
    outer: Outer | None = None,
    *,
    needs_experts: bool = False,
    settings: frozenset[str] = FROZEN_TEXT,
    several_captions: bool = False,
    closed_form: frozenset[str] = frozenset(),
    is_start: bool = False,
    learns_similarity: bool = False,
    inner_steps: Callable[[T], tuple[int, int]] = lambda _: (1, 0),
    as_planned: Callable[[T], T] = lambda options: options,
    best_known: tuple[BestKnown, ...] = (),
) -> Callable[[type[M]], type[M]]:
    """Register a method class under ``name``; its docstring's first line is its summary.

    Args:
        name: what ``distill.method`` calls it, and the section of its options.
        options: the dataclass of its options.
        outer, ...: see :class:`Entry`.

    Raises:
        ConfigError: a name that is taken or malformed, an unknown setting, or no docstring.
    """

    def add(cls: type[M]) -> type[M]:
        for setting in (*settings, *(known.setting for known in best_known)):
            if setting not in SETTINGS:
                raise ConfigError(f"method {name!r}: {unknown('setting', setting, SETTINGS)}")
        entry = Entry(
            build=cls,
            options=options,
            summary=summary_of(cls, name),
            outer=outer or Outer(),
            trained=issubclass(cls, TrainedMethod),
            own_start=issubclass(cls, ChoosesStart),
            needs_experts=needs_experts,
            settings=settings,
            several_captions=several_captions,
            closed_form=closed_form,
            is_start=is_start,
            learns_similarity=learns_similarity,
            inner_steps=inner_steps,
            as_planned=as_planned,
            best_known=best_known,
        )
        METHODS.add(name, entry)
        return cls

    return add
