from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vldistill.comparison.sweepfile import read_sweep
from vldistill.config import Config, DataConfig, DistillConfig, EncoderConfig, ImageTowerConfig, RuntimeConfig
from vldistill.config.plain import Plain
from vldistill.config.plain_yaml import MOST_BYTES, read_yaml
from vldistill.distillation.method import METHODS
from vldistill.errors import ArtefactError, ConfigError, VldistillError
from vldistill.options.merge import resolved
from vldistill.options.words import parse
from vldistill.workbench.run_folder import Run


def tower(options: str) -> str:
    return f"encoder: {{image: {{name: convnet, options: {options}}}}}"


def powers(kind: str) -> str:
    """Nine levels, each ten times the one before."""
    start, step = ("{x: 1}", "{{<<: [{0}]}}") if kind == "merge" else ("[1]", "[{0}]")
    lines = [f"a0: &a0 {start}"]
    return "\n".join([*lines, *(f"a{i}: &a{i} " + step.format(",".join([f"*a{i - 1}"] * 10)) for i in range(1, 10))])


BAD = {
    "a class": tower("{width: {class_path: antigravity.X}}"),
    "a class at the top": tower("{class_path: antigravity.X}"),
    "a class for a section": "data: {class_path: antigravity.X, init_args: {}}",
    "python tag": "data: !!python/object/apply:os.system ['true']",
    "deep flow": "[" * 100_000,
    "deep block": "\n".join(" " * i + "a:" for i in range(200)),
    "aliases": powers("list"),
    "merges": powers("merge"),
    "itself": "encoder: &a {image: *a}",
    "long number": "distill: {pairs: " + "9" * 5000 + "}",
    "key of a mapping": "? {a: b}\n: 1",
    "NUL": "a\0b",
    "list": "- 1",
    "number for a section": "distill: 5",
    "text for a number": "distill: {pairs: many}",
    "list for a number": "distill: {pairs: [1]}",
    "binary": "data: {source: !!binary aGVsbG8=}",
    "set": "data: {source: !!set {a, b}}",
    "unknown": "distill: {pears: 3}",
    "not a number": "distill: {image_lr: .nan}",
    "two documents": "a: 1\n---\nb: 2",
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_configurations_are_refused_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    path = tmp_path / "x.yaml"
    path.write_text(BAD[name])
    start = time.process_time()
    with pytest.raises(ConfigError):
        parse("distill", ["--config", str(path), "--run", str(tmp_path / "run")])
    with pytest.raises(VldistillError):
        read_sweep(path)
    assert "antigravity" not in sys.modules  # importing it opens a browser
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--distill.minutes", "1" + "0" * 400], r"distill\.minutes is 1000000000…, a number of 401 digits; expected"),
        (["--distill.minutes=-" + "9" * 5000], r"distill\.minutes is 9999999999…, a number of 5000 digits"),
        (["--pairs", str(2**64 + 1)], r"distill\.pairs is 1844674407…, a number of 20 digits; expected at most 18446"),
        (["--evaluate.head_rates", "0.1," + "7" * 400], r"evaluate\.head_rates is 7777777777…, a number of 400 digits"),
    ],
)
def test_numbers_without_end_are_refused_on_the_command_line_too(words: list[str], message: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"^{message}"):
        parse("distill", ["--run", str(tmp_path / "run"), *words])


def test_long_digits_are_fine_where_they_are_no_number_or_a_small_one(tmp_path: Path):
    words = ["--distill.label", "1" * 30, "--distill.image_lr", "0." + "1" * 30, "--pairs", "0" * 30 + "7"]
    config, _ = parse("distill", ["--run", str(tmp_path / ("2" * 30)), "--data.source", "scenes", *words])
    assert (config.distill.label, config.distill.pairs) == ("1" * 30, 7)
    assert config.distill.image_lr == pytest.approx(1 / 9)


def test_a_class_is_not_imported_from_a_run_a_sweep_or_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.config_path.write_text(BAD["a class"])
    with pytest.raises(VldistillError, match="class_path"):
        parse("distill", ["--run", str(run.folder)])
    second = tmp_path / "second.yaml"
    second.write_text("{class_path: antigravity.X}")
    path = tmp_path / "x.yaml"
    path.write_text(f"encoder: {second}")
    with pytest.raises(ConfigError, match="class_path"):
        parse("distill", ["--config", str(path), "--run", str(tmp_path / "new")])
    with pytest.raises(ConfigError, match="class_path"):
        resolved({"encoder": {"image": {"options": {"a": {"class_path": "antigravity.X"}}}}}, "here")
    words = ["--data.source", "scenes", "--encoder.image.options.a", "class_path"]
    sections, _ = parse("distill", ["--run", str(tmp_path / "new"), *words])
    assert sections.encoder.image.options == {"a": "class_path"} and "antigravity" not in sys.modules


def test_what_is_fine_stays_fine(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("\ufeffshared: &s {image_lr: 1e-3}\ndistill: {<<: *s, keep: [1, 2]}\ndata: {source: 2001-01-01}\n")
    read = read_yaml(path, "x")
    assert read["distill"]["keep"] == [1, 2] and read["data"]["source"] == "2001-01-01"
    path.write_text("distill: {image_lr: 1e-3}\ndata: {source: 2001-01-01}\n")
    config, _ = parse("distill", ["--config", str(path), "--run", str(tmp_path)])
    assert (config.distill.image_lr, config.data.source) == (1e-3, "2001-01-01")


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"a: \xff", "byte 3 is not UTF-8"), (b"a" * (MOST_BYTES + 1), "300,001 bytes"), (b"a: [", "cannot be read")],
)
def test_files_that_cannot_be_read_are_named(raw: bytes, message: str, tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    with pytest.raises(ArtefactError, match=f"sweep .*x.yaml cannot be read.*{message}|{message}"):
        read_yaml(path, "sweep", ArtefactError)
    with pytest.raises(ConfigError, match=r"folder cannot be read: it is not a file"):
        (tmp_path / "folder").mkdir()
        read_yaml(tmp_path / "folder", "sweep")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (DataConfig, {"features": "float12"}, r"data\.features is 'float12'; expected one of 'float32', 'float16'"),
        (DataConfig, {"strict": "yes"}, r"data\.strict is 'yes'; expected true or false"),
        (DataConfig, {"views": "2"}, r"data\.views is '2'; expected a whole number"),
        (DataConfig, {"max_pixels": 1.5}, r"data\.max_pixels is 1\.5; expected a whole number"),
        (DistillConfig, {"optimiser": "adamw"}, r"distill\.optimiser is 'adamw'; expected one of 'adam', 'sgd'"),
        (DistillConfig, {"augment": ("flip", 3)}, r"distill\.augment is .*; expected a list of: a text"),
        (EncoderConfig, {"image": "convnet"}, r"encoder\.image is 'convnet'; expected ImageTowerConfig"),
        (ImageTowerConfig, {"options": [1]}, r"encoder\.image\.options is \[1\]; expected options by name"),
        (RuntimeConfig, {"threads": True}, r"runtime\.threads is True; expected a whole number"),
        (Config, {"data": "scenes"}, r"configuration\.data is 'scenes'; expected DataConfig"),
    ],
)
def test_sections_built_in_python_are_checked_too(section: Any, values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        section(**values)


def test_method_options_built_in_python_are_checked_too():
    options = METHODS["bilevel"].options()
    assert Config(methods={"bilevel": options})
    field = next(name for name, value in vars(options).items() if isinstance(value, int | float))
    object.__setattr__(options, field, "three")
    with pytest.raises(ConfigError, match=rf"bilevel\.{field} is 'three'; expected"):
        Config(methods={"bilevel": options})


def test_a_grid_without_end_is_refused(tmp_path: Path):
    values = ", ".join(map(str, range(100)))
    keys = ("image_lr", "text_lr", "rate_lr", "similarity_lr")
    grid = ", ".join(f"distill.{key}: [{values}]" for key in keys)
    path = tmp_path / "x.yaml"
    path.write_text(f"pairs: [5]\nmethods: {{bilevel: {{grid: {{{grid}}}}}}}\n")
    with pytest.raises(ConfigError, match=r"100,000,000 options in its grid"):
        read_sweep(path).cells()


@pytest.mark.parametrize("options", [{"distill": {"minutes": 10**400}}, {"encoder": {"image": {"mean": [-(10**400)]}}}])
def test_numbers_without_end_are_refused(options: dict[str, Plain]) -> None:
    with pytest.raises(ConfigError, match=r"a number has 13\d\d bits"):
        resolved(options, "here")
