"""Train a student on a set: by the recipe that the set carries, by the generic one, or by one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vldistill.api.asking import ConfigSource, settings
from vldistill.api.progress import reporter
from vldistill.api.student import Student
from vldistill.api.student_files import needed_sides
from vldistill.config import Config
from vldistill.config.plain import Plain
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.precomputed import with_facts
from vldistill.errors import ConfigError, unknown
from vldistill.evaluation.generic import search_generic
from vldistill.evaluation.students import train_student
from vldistill.evaluation.subjects import check_target, set_data, subject
from vldistill.runtime.log import Reporter
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench

RECIPES = ("own", "generic")


def train(
    pairs: DistilledSet,
    recipe: str | Recipe = "own",
    seed: int = 0,
    data: str | Path | None = None,
    config: ConfigSource | None = None,
    quiet: bool = False,
    options: Mapping[str, object] | None = None,
) -> Student:
    """A student trained on ``pairs``; see :meth:`vldistill.DistilledSet.train`."""
    if not isinstance(recipe, Recipe) and recipe not in RECIPES:
        raise ConfigError(unknown("recipe", recipe, RECIPES) + " Or give a vldistill.Recipe.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed is {seed!r}; expected a whole number of 0 or more.")
    asked, lines = config_of(pairs, data, config, options or {}), reporter(quiet)
    bench = _bench(pairs, asked, lines, real=recipe == "generic" or data is not None)
    check_target(bench, pairs, asked.evaluate)
    chosen = recipe if isinstance(recipe, Recipe) else pairs.recipe
    if recipe == "generic":
        chosen, _, _ = search_generic(bench, subject(bench, pairs), asked.evaluate)
    found, _ = set_data(bench, pairs)
    encoder = train_student(bench, found, chosen, seed)
    made_from: dict[str, Plain] = {"set": pairs.name, "data": pairs.info.get("data"), "seed": seed}
    return Student(encoder, bench, asked, chosen, made_from)


def config_of(
    pairs: DistilledSet, data: str | Path | None, config: ConfigSource | None, options: Mapping[str, object]
) -> Config:
    """The configuration to use a set with: its run's, the one that it records, or ``config``; ``options`` over it.

    Raises:
        ConfigError: the set records none, because another code made it, and none is given.
    """
    run = run_of(pairs)
    if config is None:
        config = run / "config.yaml" if run else recorded(pairs)
    changed = dict(options) if data is None else {**options, "data.source": str(data)}
    found = settings(config, changed)
    encoder = with_facts(found.encoder, pairs.towers["image"], pairs.towers["text"])
    return found if encoder == found.encoder else replace(found, encoder=encoder)


def run_of(pairs: DistilledSet) -> Path | None:
    """The run that a set lies in, if it does."""
    folder = getattr(pairs, "folder", None)
    sets = folder.resolve().parent if folder else None
    return sets.parent if sets and sets.name == "sets" and (sets.parent / "config.yaml").is_file() else None


def recorded(pairs: DistilledSet) -> dict[str, Plain]:
    """The sections ``encoder`` and ``data`` that a set was made with. Raises ConfigError where it does not say."""
    made = pairs.info.get("config")
    encoder = made.get("encoder") if isinstance(made, Mapping) else None
    if not isinstance(encoder, Mapping):
        raise ConfigError(
            f"{pairs.name} does not say how its towers are built. Give config=, a file or a dictionary with the "
            f"section encoder for {pairs.towers['image']['name']!r} and {pairs.towers['text']['name']!r}."
        )
    source = pairs.info.get("source")
    return {"encoder": dict(encoder), **({"data": {"source": source}} if isinstance(source, str) else {})}


def _bench(pairs: DistilledSet, config: Config, lines: Reporter, real: bool) -> Workbench:
    """The workbench to train on: with the set's own standardisation, where that is enough, the data stay closed."""
    if real:
        return open_bench(config, lines)
    bench = open_bench(config, lines, standardisation=pairs.standardisation)
    sides = needed_sides(bench.setting)
    same = {
        "image": bench.image_fingerprint == pairs.towers["image"]["fingerprint"],
        "text": bench.text_fingerprint == pairs.towers["text"]["fingerprint"],
    }
    lacking = [side for side in sides if not (same[side] and f"{side}_mean" in pairs.standardisation)]
    if not lacking:
        return bench
    if "source" not in pairs.info and config.data.source == type(config.data)().source:
        raise ConfigError(
            f"{pairs.name} has no mean and scale of {' and '.join(lacking)} features for these towers. Give data=, the "
            f"real data that it was made of, to measure them."
        )
    return open_bench(replace(config), lines)
