"""The run folder: configuration, data fingerprints, environment, and artefacts.

``config.yaml`` is written by the first stage and read by the later ones; ``data.json`` holds what the splits had then,
and ``account.json`` what was seen, used and left out;
``env.json`` is the environment; ``metrics.jsonl`` has one line per event of a stage; ``experts/``, ``sets/`` and
``results/`` hold the artefacts.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vldistill.config import Config, DataConfig, EncoderConfig, ExpertsConfig
from vldistill.config.former import before_it_came, current, without_empty
from vldistill.config.plain import Plain, Record
from vldistill.errors import ArtefactError, ConfigError
from vldistill.runtime.log import Reporter
from vldistill.storage.files import append_line, read_json, write_json, write_record, write_text
from vldistill.storage.locks import held
from vldistill.tracking.follow import Trackers, followed, give_event
from vldistill.tracking.tracker import Service, Subject

if TYPE_CHECKING:
    from vldistill.data.pairs import Pairs

# sections that decide what the artefacts of a run mean
FIXED = {"data": DataConfig, "encoder": EncoderConfig, "experts": ExpertsConfig}
MADE, MADE_NOW = "made_splits", "at least 100 images or a fifth"  # in data.json; not in those of former versions
FREE = ("data.strict", "data.cache", "experts.count")  # may differ from stage to stage


class Run:
    """A run folder.

    Args:
        folder: created by :meth:`begin`.
        services: trackers that receive what is written to ``metrics.jsonl``, here and of sets.
        reporter: receives what they say.

    Attributes:
        experts, sets, results: folders of trajectories, distilled sets and evaluations.
        config_path: the remembered configuration.
        data_path: what the splits held when the run was begun.
    """

    def __init__(self, folder: Path, services: Sequence[Service] = (), reporter: Reporter | None = None) -> None:
        self.folder, self.services, self.reporter = folder, services, reporter or Reporter()
        self.experts, self.sets, self.results = folder / "experts", folder / "sets", folder / "results"
        self.config_path, self.data_path = folder / "config.yaml", folder / "data.json"
        self.account_path = folder / "account.json"
        self._followed: Trackers | None = None
        self._data: dict[str, Record] = {}
        self._accounts: dict[str, list[Record]] = {}

    @property
    def former_splits(self) -> bool:
        """Whether the run was begun by a version that made smaller splits: it keeps those that it has."""
        return self.config_path.exists() and MADE not in self._noted()

    def check(self, config: Config) -> None:
        """Refuse ``config`` when it contradicts the one this run was made with; writes nothing.

        Raises:
            ConfigError: another configuration.
            ArtefactError: the remembered configuration cannot be read.
        """
        if self.config_path.exists():
            self._refuse_other(self.remembered(), to_plain(config))

    def begin(self, config: Config) -> None:
        """Remember ``config``; :meth:`check` it against what is remembered already.

        Raises:
            ConfigError: another configuration, or a folder that cannot be written.
            ArtefactError: the remembered configuration cannot be read.
        """
        self.check(config)
        text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
        try:
            with held(self.folder / ".begin.lock", str(self.folder), wait_seconds=10):  # others wait: nothing slow here
                self.check(config)  # again: another process may have begun the run meanwhile
                if not self.config_path.exists():
                    write_record(self.data_path, {MADE: MADE_NOW, **self._noted()})
                    write_text(self.config_path, text)
                self._keep_data()
            write_json(self.folder / "env.json", environment())
        except OSError as error:
            raise ConfigError(
                f"run folder {self.folder} cannot be used ({error.strerror or error}). Choose another --run folder."
            ) from None

    def check_data(self, pairs: Pairs) -> bool:
        """Refuse a split that is not what the run was begun with: its artefacts would not belong together.

        What has not been seen before is remembered, as soon as the run is begun.

        Returns:
            Whether a former stage has seen the split, and said what of it was left out.

        Raises:
            ConfigError: images or captions were added, taken away or changed.
        """
        seen = {"images": pairs.count_images, "captions": pairs.count_captions, "fingerprint": pairs.fingerprint}
        before = self.data().get(pairs.split, seen)
        if before != seen:
            raise ConfigError(
                f"the {pairs.split} split of {pairs.source} is not what {self.folder} was begun with: "
                f"{_counted(before)} then, {_counted(seen)} now"
                + (", other ones" if _counted(before) == _counted(seen) else "")
                + f". Put the data back, use another --run folder, or delete {self.data_path} to continue with what is "
                f"there now."
            )
        self._data[pairs.split] = seen
        self._accounts[pairs.split] = [account.to_dict() for account in pairs.accounts]
        known = pairs.split in self.data()
        if self.config_path.exists() and not known:
            with held(self.folder / ".begin.lock", str(self.folder), wait_seconds=60):
                self._keep_data()
        return known

    def data(self) -> dict[str, Record]:
        """What the splits held, by split: ``images``, ``captions`` and ``fingerprint``; those seen so far."""
        return {split: seen for split, seen in self._noted().items() if isinstance(seen, dict)}

    def _noted(self) -> Record:
        """The content of ``data.json``: the splits, and how those were made that the source lacks."""
        return read_json(self.data_path, "note on the data") if self.data_path.exists() else {}

    def _keep_data(self) -> None:
        known = self._noted()
        if not known.keys() >= self._data.keys():
            write_record(self.data_path, {**self._data, **known})
        accounts = read_json(self.account_path, "account of the data") if self.account_path.exists() else {}
        if not accounts.keys() >= self._accounts.keys():
            write_record(self.account_path, {**accounts, **self._accounts})

    def remembered(self) -> dict[str, Plain]:
        """The configuration that this run was made with. Raises ArtefactError when it cannot be read."""
        try:
            old = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, ValueError) as error:
            old = f"{type(error).__name__}: {error}".splitlines()[0]
        if not isinstance(old, dict):
            raise ArtefactError(
                f"{self.config_path} is not a configuration ({old}). Correct it, or use another --run folder."
            )
        return current(old, str(self.config_path))

    def _refuse_other(self, old: Record, new: Record) -> None:
        every = {name: {**asdict(section()), **before_it_came(section)} for name, section in FIXED.items()}
        defaults = {name: without_empty(section, every[name]) for name, section in FIXED.items()}
        old = with_defaults(old, json.loads(json.dumps(defaults)))  # of options newer than the run
        fixed = {name: old.get(name) for name in FIXED}, {name: new.get(name) for name in FIXED}
        differing = [
            f"  {name}: {before!r} in the run, {after!r} requested"
            for name, before, after in differences(*fixed)
            if name not in FREE
        ]
        if differing:
            raise ConfigError(
                f"{self.folder} was made with another configuration:\n"
                + "\n".join(differing)
                + f"\nUse another --run folder, or leave these settings out to use the run's own "
                f"({self.config_path}). If the same data only moved, edit data.source there."
            )

    def log(self, **event: Plain) -> None:
        """Append one event to ``metrics.jsonl``, with the time and the command, and give it to the trackers."""
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command(), **event})
        append_line(self.folder / "metrics.jsonl", line)
        if self._followed is not None:
            self._followed.event(event)
        else:
            give_event(self.services, self.folder, event, self.reporter)

    @contextmanager
    def follow(self, folder: Path, settings: Record, resumed: bool) -> Iterator[Trackers]:
        """The trackers of a set that is made in ``folder``, which also receive what is logged meanwhile.

        Raises:
            ConfigError: a tracker that cannot be opened.
        """
        subject = Subject(self.folder, folder.name, "distill", "", settings=settings)
        with followed(self.services, subject, folder / "metrics.jsonl", self.reporter, resumed) as self._followed:
            try:
                yield self._followed
            finally:
                self._followed = None


def _counted(seen: Record) -> str:
    return f"{seen.get('images')} images and {seen.get('captions')} captions"


def to_plain(config: Config) -> dict[str, dict[str, Plain]]:
    """The configuration as plain values, methods' options as sections of their own."""
    plain = asdict(config)
    methods = plain.pop("methods")
    for name in ("data", "evaluate", "select"):
        plain[name] = without_empty(type(getattr(config, name)), plain[name])
    return json.loads(json.dumps({**plain, **methods}))


def with_defaults(given: Record, defaults: Record) -> dict[str, Plain]:
    """``given`` with what it lacks, on any level, taken from ``defaults``."""
    filled = dict(defaults) | dict(given)
    for name, value in given.items():
        if isinstance(value, Mapping) and isinstance(default := defaults.get(name), Mapping):
            filled[name] = with_defaults(value, default)
    return filled


def differences(old: Plain, new: Plain, name: str = "") -> Iterator[tuple[str, Plain, Plain]]:
    """Every leaf that differs: its dotted name, the old value and the new one."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=str):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield name, old, new


def environment() -> dict[str, Any]:
    """What this process runs on: versions, platform, threads, commit of the checkout if it is one, command."""
    names = ("vldistill", "torch", "torchvision", "timm", "transformers", "numpy", "safetensors")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "command": command(),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads() if (torch := sys.modules.get("torch")) else None,
        "versions": versions,
    }


def command() -> str:
    """The command line of this process, ready to paste, without the folder of the program."""
    program = Path(sys.argv[0]).name
    return shlex.join(["vldistill" if program == "cli.py" else program, *sys.argv[1:]])


def commit() -> str | None:
    """The commit of the source checkout, with ``+changes`` when files differ; None when installed as a package."""
    source = Path(__file__).resolve().parents[1]
    if not (source.parents[1] / ".git").exists():  # else git would describe a repository that holds the environment
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return found.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def refuse_other(folder: Path, asked: Record, defaults: Record | None = None) -> None:
    """Refuse a set's folder that was begun with another configuration; what it lacks had its default then."""
    note = folder / "config.json"
    old = read_json(note, "set configuration") if note.exists() else asked
    old = current(old, str(note)) if isinstance(old, Mapping) else old
    found = list(differences(with_defaults(old, defaults or {}) if isinstance(old, Mapping) else old, asked))
    if found:
        shown = "\n".join(f"  {name}: {old!r} there, {new!r} requested" for name, old, new in found)
        raise ConfigError(
            f"{folder} was begun with another configuration:\n{shown}\n"
            f"Use another --seed, --label or --run, give the settings it was begun with, or delete the folder."
        )


def write_config(path: Path, config: Config) -> Path:
    """``config`` as a file that ``--config`` takes."""
    write_text(path, yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))
    return path
