"""The methods, one file each. A method registers itself; nothing else has to be edited to add one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Protocol

import torch

from vldistill.config import SETTINGS, Config, DistillConfig, Outer, SelectConfig
from vldistill.distillation.start import Start, make_start, with_more_captions
from vldistill.distilled import DistilledSet
from vldistill.errors import ConfigError, unknown
from vldistill.experts.trajectory import Trajectory
from vldistill.runtime.randomness import generator, seed_of
from vldistill.workbench import Workbench


@dataclass(frozen=True)
class Context:
    """What a method may use in one outer iteration.

    Args:
        bench: towers, features and splits.
        config: the outer loop's settings.
        options: the method's own options.
        experts: recorded experts, where the method needs them.
        iteration: counted from 0.
        draw: of several in one iteration (``distill.draws``), counted from 0.
        spent: part of ``distill.minutes`` that is over, 0 to 1; 0 where there is no such limit.
    """

    bench: Workbench
    config: DistillConfig
    options: Any
    experts: list[Trajectory] = field(default_factory=list)
    iteration: int = 0
    draw: int = 0
    spent: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", settled(self.config, self.bench.setting))

    @property
    def outer(self) -> Outer:
        """What of the outer loop differs by method."""
        return self.config.outer

    @property
    def progress(self) -> float:
        """Part of the distillation that is done, 0 to 1: of the iterations or of the minutes, whichever ends first."""
        return max(self.iteration / max(self.outer.iterations, 1), self.spent)

    def at(self, iteration: int, draw: int = 0) -> Context:
        """The same context in another iteration, or in another draw of it."""
        return replace(self, iteration=iteration, draw=draw)

    @property
    def _place(self) -> tuple[object, ...]:
        drawn = ("draw", self.draw) if self.draw else ()  # the first is what a single one would be
        return (self.config.seed, self.iteration, *drawn)

    def generator(self, *names: object) -> torch.Generator:
        """Random numbers that depend on the seed, the iteration, the draw and ``names`` alone."""
        return generator(*self._place, *names)

    def seed_of(self, *names: object) -> int:
        """A seed likewise."""
        return seed_of(*self._place, *names)


@dataclass
class State:
    """What a method learns and carries on.

    Args:
        variables: learned tensors by name; ``images``, ``texts``, and the logarithms ``log_rate_*``.
        carried: other tensors that belong to the state.
    """

    variables: dict[str, torch.Tensor]
    carried: dict[str, torch.Tensor] = field(default_factory=dict)

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


class Method(Protocol):
    """A distillation method. One without ``step`` trains nothing and is exported as it was set up.

    A method works in every setting with a frozen text tower, or in those that it names in an attribute ``settings``
    (see :func:`check_setting`). One that chooses its own starting pairs has ``begin(context) -> Start``; one that can
    learn several texts for each image says ``several_captions = True``; one whose sets are quick to make and good
    starts says ``first = True``, and its name is a ``distill.start``; one that has nothing to train in a space names it
    in a set ``closed_form``.
    """

    needs: frozenset[str]
    """Subset of ``experts``, ``features``, ``real_batches``."""

    def check(self, context: Context) -> None:
        """Refuse impossible options before long work starts."""
        ...

    def setup(self, start: Start, context: Context) -> State:
        """Make the state from the starting pairs."""
        ...

    def step(self, state: State, context: Context) -> Update:
        """Gradients of one outer iteration; touches no optimiser and no variable."""
        ...

    def export(self, state: State, context: Context) -> DistilledSet:
        """The set as it stands; texts and images are copies.

        Carried tensors are those of the last step, also where the variables are the best ones or their average: only
        what stays the same may enter the set.
        """
        ...


def trains(method: Any, config: DistillConfig) -> bool:
    """Whether ``method`` takes outer iterations; if not, its set is exported as it was set up."""
    return hasattr(method, "step") and config.space not in getattr(method, "closed_form", ())


def starting_pairs(method: Any, context: Context, select: SelectConfig | None = None) -> Start:
    """The pairs that ``method`` starts from: its own choice, or ``distill.start``, with images of ``distill.size``."""
    config = context.config
    if hasattr(method, "begin"):
        return method.begin(context).resized(config.size)
    image, text = config.starts
    asked = (image, config.pairs, config.seed, select, text, config.space, config.size)
    start = make_start(context.bench, *asked).resized(config.size)
    return with_more_captions(start, context.bench, config.captions, config.seed)


def first_method(config: DistillConfig) -> str:
    """The method whose set is the start and is made first; empty where the start is none's. Raises ConfigError."""
    image, text = config.starts
    for kind in {image, text} & methods().keys():
        if config.method == kind:
            raise ConfigError(f"distill.start is {kind}, the method itself. Use real, or another set's folder.")
        if hasattr(find_method(config.method).build(), "begin"):
            raise ConfigError(f"distill.start is {kind}, but {config.method} chooses its own pairs. Use real.")
        if image != text:
            raise ConfigError(f"distill starts images from {image} and texts from {text}: {kind} makes both sides.")
        if not getattr(find_method(kind).build(), "first", False):
            raise ConfigError(f"distill.start is {kind}, which is no start. Give the folder of a set that it made.")
        if config.captions > 1:
            raise ConfigError(f"distill.start {kind} makes one text for each image, not {config.captions}. Use real.")
        return kind
    return ""


def as_first(config: DistillConfig, setting: str) -> DistillConfig:
    """The configuration of the set that ``config`` starts from: its method's own outer loop, from real pairs.

    Where minutes end the distillation, the start takes at most a quarter of them.
    """
    open_again = {option.name: None for option in fields(Outer)}
    own = replace(config, method=first_method(config), start="real", start_image="", start_text="", **open_again)
    own = replace(own, minutes=config.minutes * SHARE_OF_START, validate_every=0, keep=(), label="", learn="both")
    return settled(replace(own, clip=0.0, draws=1), setting)


def check_size(size: int, bench: Workbench) -> None:
    """Refuse learned images that are larger than the tower takes. Raises ConfigError."""
    if size > bench.image_tower.size:
        raise ConfigError(
            f"distill.size is {size}, but the image tower takes {bench.image_tower.size} pixels: more would be stored "
            f"than is seen. Use 0 or a smaller side, or a larger encoder.image.size."
        )


def check_setting(method: Any, name: str, setting: str) -> None:
    """Refuse a setting that ``method`` has no meaning in. Raises ConfigError."""
    allowed = getattr(method, "settings", SETTINGS.keys() - {"both"})
    if setting not in allowed:
        raise ConfigError(
            f"method {name} works in setting {' or '.join(sorted(allowed))}, not {setting}. Set encoder.setting, with "
            f"experts of that setting if it needs any, or choose another method (vldistill ls methods)."
        )


def check_captions(method: Any, name: str, count: int) -> None:
    """Refuse several texts for each image where ``method`` has no place for them. Raises ConfigError."""
    if count > 1 and not getattr(method, "several_captions", False):
        able = [known for known, entry in methods().items() if getattr(entry.build, "several_captions", False)]
        raise ConfigError(
            f"distill.captions is {count}, but {name} learns one text for each image. Use 1, or {' or '.join(able)}."
        )


@dataclass(frozen=True)
class Entry:
    """A registered method: its constructor, the dataclass of its options, one line about it, its outer loop."""

    build: Callable[[], Method]
    options: type
    summary: str
    outer: Outer = field(default_factory=Outer)


SHARE_OF_START = 0.25  # of distill.minutes

_METHODS: dict[str, Entry] = {}


def register(name: str, options: type, outer: Outer | None = None) -> Callable[[type], type]:
    """Register a method class under ``name``; its docstring's first line is its summary.

    ``outer`` is what suits it of the outer loop, wherever the user leaves that open.
    """

    def add(cls: type) -> type:
        if name in _METHODS:
            raise ConfigError(f"method {name!r} is registered twice: rename one of the two.")
        if not name.isidentifier() or not name.islower():
            raise ConfigError(f"method name {name!r}: expected a lower-case identifier.")
        _METHODS[name] = Entry(cls, options, (cls.__doc__ or name).strip().splitlines()[0], outer or Outer())
        return cls

    return add


@cache
def methods() -> Mapping[str, Entry]:
    """Every method by name: each module of this package is imported once."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_METHODS.items()))


def find_method(name: str) -> Entry:
    """The entry of ``name``. Raises ConfigError with the nearest names."""
    known = methods()
    if name not in known:
        raise ConfigError(unknown("method", name, known))
    return known[name]


@dataclass(frozen=True)
class Known:
    """A method to take where none is named: from how many distilled pairs on, in which space if not in any, and why."""

    method: str
    why: str
    pairs: int = 1
    space: str = ""


BEST_KNOWN = {
    "heads": (
        Known("bilevel", "its sets of 100 pictures are level with the best with frozen towers; no experts"),
        Known("bitraj", "100 pairs of its features taught the most; it needs experts", pairs=100, space="features"),
        Known("bitraj", "500 pictures of it taught as much as all of Flickr8k; it needs experts", pairs=500),
    ),
    "full": (Known("bitraj", "with a trained tower no method did clearly better, by either recipe; it needs experts"),),
    "lora": (Known("bitraj", "it is the founding paper's for adapters; it needs experts"),),
    "both": (Known("covmatch", "no other method learns for a trained text tower"),),
}
"""By setting, and ascending by pairs: what to take where no method is named."""


def best_known(setting: str, config: DistillConfig) -> Known:
    """The method to take in ``setting`` for as many pairs, and in the space, of ``config`` where none is named."""
    fit = [k for k in BEST_KNOWN[setting] if k.pairs <= config.pairs and k.space in ("", config.space)]
    return fit[-1]


def settled(config: DistillConfig, setting: str) -> DistillConfig:
    """``config`` with nothing left open: the best known method where it names none, that method's own outer loop.

    Raises:
        ConfigError: an unknown method; another optimiser than the method's without rates.
    """
    if not config.method:
        config = replace(config, method=best_known(setting, config).method)
    entry = find_method(config.method)
    own, rates = entry.outer, ["image_lr", "text_lr"]
    rates += ["similarity_lr"] if "similarity" in entry.options.__dataclass_fields__ else []
    left = [f"distill.{name}" for name in rates if getattr(config, name) is None]
    if config.optimiser not in (None, own.optimiser) and left:
        raise ConfigError(
            f"distill.optimiser is {config.optimiser}, but {config.method}'s own rates are {own.optimiser}'s. "
            f"Give {' and '.join(left)} too; docs/methods has the published ones."
        )
    return config.with_own(own)


def settle(config: Config) -> tuple[Config, str]:
    """The whole configuration with section ``distill`` :func:`settled`, and what to tell the user about it."""
    setting = config.encoder.setting
    pairs = config.distill.pairs
    known = best_known(setting, config.distill)
    kind = f"{pairs} pairs" + (" of features" if config.distill.space == "features" else "")
    said = f"no method named: {known.method} is taken for setting {setting} and {kind}, because {known.why}"
    return replace(config, distill=settled(config.distill, setting)), "" if config.distill.method else said
