"""The command line on forty drawn scenes: one run with experts, made once, and the command as a function."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vldistill.cli import main

CONFIG = """\
data: {source: "scenes:train=40,val=20,test=20"}
encoder:
  image: {name: convnet, weights: random, size: 16, options: {width: 8}}
  text: {name: hashing, width: 32}
  dim: 16
experts: {count: 2, epochs: 3, batch: 32}
distill: {method: bitraj, pairs: 6, iterations: 6, validate_every: 3}
bitraj: {syn_steps: 2}
evaluate: {seeds: 2, trials: 2, max_steps: 8, generic_epochs: 2, head_rates: [0.1]}
"""


@dataclass
class Outcome:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command installs a handler for SIGTERM; put the old one back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def vldistill(capsys: pytest.CaptureFixture[str]) -> Command:
    """``vldistill("evaluate", "--run", run, ...)`` in this process."""

    def command(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return command


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of decoded images and features for all runs."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("VLDISTILL_CACHE")
    os.environ["VLDISTILL_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["VLDISTILL_CACHE"]
    else:
        os.environ["VLDISTILL_CACHE"] = before


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file."""
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def made(config: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with experts; copied for every test."""
    folder = tmp_path_factory.mktemp("runs") / "made"
    assert main(["experts", "--config", str(config), "--run", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run with experts, of this test alone."""
    return Path(shutil.copytree(made, tmp_path / "run"))
