"""From the arguments of a verb to a run folder and a configuration, by the parser that the command line has."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

from vldistill.api.progress import reporter
from vldistill.config import Config, expand
from vldistill.config.plain import Plain
from vldistill.config.plain_yaml import read_yaml
from vldistill.data.load import load_pairs
from vldistill.errors import ConfigError
from vldistill.options.parser import ALIASES, packaged_config, section_classes
from vldistill.options.vectors import holds_vectors
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.storage.files import digest
from vldistill.tracking.tracker import services
from vldistill.workbench.run_folder import Run, to_plain, write_config

Path_ = str | Path
Log = str | Sequence[str] | None
"""Trackers: ``tensorboard``, ``wandb``, ``mlflow``, several as a list or with commas."""

ConfigSource = str | Path | Config | Mapping[str, object]
"""A YAML file, also one that comes with the package, a configuration, or options by section."""


@dataclass(frozen=True)
class Asked:
    """What a verb is to work with.

    Args:
        run: its run folder.
        config: its configuration.
        reporter: where lines and progress go.
        words: the options that were given, as the command line has them.
    """

    run: Run
    config: Config
    reporter: Reporter
    words: list[str]


def ask(
    stage: str,
    data: Path_ | None,
    config: ConfigSource | None,
    run: Path_ | None,
    options: Mapping[str, object],
    quiet: bool = False,
    log: Log = None,
) -> Asked:
    """The run folder and the configuration of a verb.

    Values come from the defaults, then the run's own ``config.yaml`` or ``config``, then ``data`` and ``options``. Data
    alone get the towers of a configuration that comes with the package.

    Without a run, its folder lies in the cache, named by the configuration and the data: the same call resumes it.

    Raises:
        ConfigError: an unknown option or tracker, a value that cannot be, or neither data, nor a configuration, nor a
            run.
        MissingExtraError: a tracker whose package is not installed.
    """
    trackers = services(log)
    if data is None and config is None and run is None:
        raise ConfigError("no data are named. Give data (a folder, a file, or scenes), config=FILE, or run=FOLDER.")
    lines = reporter(quiet)
    known = run is not None and (Path(run) / "config.yaml").exists()
    if config is None and data is not None and not known and not holds_vectors(str(data)):
        config = _usual_towers(str(data), lines)
    words = list(_words(stage, options))
    if data is not None:
        words.append(f"--data.source={_source(data, run)}")
    found = _parsed(stage, config, run, words)
    if run is not None:
        return Asked(Run(Path(run), trackers, lines), found, lines, words)
    found = replace(found, data=replace(found.data, source=_source(found.data.source, None)))
    place = default_run(found)
    lines.info(f"run folder {place} (no run= was given)")
    return Asked(Run(place, trackers, lines), found, lines, words)


def _usual_towers(data: str, lines: Reporter) -> dict[str, Plain]:
    """The section ``encoder`` that fits data where none is named: published towers; small ones for scenes, digits."""
    name = "scenes.yaml" if data.partition(":")[0] in ("scenes", "digits") else "photos.yaml"
    lines.info(f"towers of {name} (no config= was given)")
    read = read_yaml(Path(packaged_config(name)), "config")
    return {"encoder": read["encoder"]}


def settings(config: ConfigSource | None, options: Mapping[str, object]) -> Config:
    """A configuration alone, for verbs without a run folder."""
    base = {} if config is None else config
    return _parsed("evaluate", base, None, list(_words("evaluate", options)))


def default_run(config: Config) -> Path:
    """The run folder in the cache of a configuration and the data as they are now."""
    data = expand(config.data.source)
    plain = {name: part for name, part in to_plain(config).items() if name not in ("evaluate", "runtime")}
    plain["data"] = {name: value for name, value in plain["data"].items() if name not in ("cache", "strict", "source")}
    key = digest(plain, load_pairs(data, "train").fingerprint)
    return Path(expand(config.data.cache)) / "runs" / key


def _source(data: Path_, run: Path_ | None) -> str:
    """The data source; a path is made absolute where the run folder is not the user's, who may call from elsewhere."""
    text = str(data)
    path = Path(text).expanduser()
    return str(path.resolve()) if run is None and "\0" not in text and path.exists() else text


def _parsed(stage: str, config: ConfigSource | None, run: Path_ | None, words: list[str]) -> Config:
    """What the parser of the command line makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        given = [] if config is None else [f"--config={_file(config, Path(folder))}"]
        place = Path(folder) / "none" if run is None else run  # where nothing is remembered
        try:
            return parse(stage, [f"--run={place}", *given, *words])[0]
        except ConfigError as error:
            raise ConfigError(re.sub(r"--(?!help)(?=[a-z])", "", str(error))) from None  # as names are in Python


def _file(config: ConfigSource, folder: Path) -> Path_:
    """``config`` as a file."""
    if isinstance(config, str | Path):
        return config
    path = folder / "given.yaml"
    if isinstance(config, Config):
        return write_config(path, config)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(dict(config)))), encoding="utf-8")
    return path


def _words(stage: str, options: Mapping[str, object]) -> Iterator[str]:
    """Options as words: by dotted name, by a name of the stage's own section, or whole sections as dictionaries."""
    sections = section_classes()
    own = {field.name for field in fields(sections[stage])} if stage in sections else set()
    for name, value in options.items():
        if name in sections and isinstance(value, Mapping):
            yield from _words(stage, {f"{name}.{key}": inner for key, inner in value.items()})
        elif name in own and name not in ALIASES.get(stage, {}):
            yield f"--{stage}.{name}={_word(value)}"
        else:
            yield f"--{name}={_word(value)}"


def _word(value: object) -> str:
    """A value as it would be typed."""
    if isinstance(value, str | Path):
        return str(value)
    try:
        return json.dumps(list(value) if isinstance(value, tuple) else value)
    except TypeError:
        raise ConfigError(
            f"an option is {value!r}; expected a number, a text, true, false, or a list of them."
        ) from None
