from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from vldistill.config import (
    Config,
    DistillConfig,
    EncoderConfig,
    EvaluateConfig,
    ExpertsConfig,
    ImageTowerConfig,
    RuntimeConfig,
    TextTowerConfig,
    expand,
)
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.errors import ConfigError
from vldistill.options.resolve import resolve

IMPOSSIBLE: list[tuple[type, dict[str, Any], str]] = [
    (RuntimeConfig, {"threads": -1}, "runtime.threads is -1"),
    (ImageTowerConfig, {"size": 8}, "encoder.image.size is 8; expected 0 or at least 16"),
    (ImageTowerConfig, {"mean": (0.5,)}, "encoder.image.mean"),
    (ImageTowerConfig, {"std": (0.5, 0.5)}, "encoder.image.std"),
    (ImageTowerConfig, {"std": (0.5, 0.5, 0.0)}, "encoder.image.std"),
    (TextTowerConfig, {"width": 0}, "encoder.text.width is 0"),
    (TextTowerConfig, {"max_tokens": -1}, "encoder.text.max_tokens"),
    (EncoderConfig, {"setting": "head"}, "unknown setting 'head'. Did you mean heads"),
    (EncoderConfig, {"dim": 0}, "encoder.dim"),
    (EncoderConfig, {"temperature": 0.0}, "encoder.temperature"),
    (ExpertsConfig, {"count": 0}, "experts.count"),
    (ExpertsConfig, {"epochs": 0}, "experts.epochs"),
    (ExpertsConfig, {"batch": 1}, "experts.batch is 1; expected at least 2 pairs"),
    (ExpertsConfig, {"image_rate": 0.0}, "experts.image_rate"),
    (ExpertsConfig, {"text_rate": -0.1}, r"experts.text_rate is -0.1; expected 0 or more"),
    (ExpertsConfig, {"image_rate": math.nan}, "experts.image_rate is nan"),
    (ExpertsConfig, {"momentum": 1.0}, "experts.momentum"),
    (ExpertsConfig, {"weight_decay": -1.0}, "experts.weight_decay"),
    (ExpertsConfig, {"steps_per_epoch": -1}, "experts.steps_per_epoch"),
    (ExpertsConfig, {"epochs": 3, "snapshots": (0, 4)}, r"experts.snapshots is \[4\]; expected epochs from 0 to 3"),
    (DistillConfig, {"pairs": 1}, "distill.pairs is 1; expected at least 2"),
    (DistillConfig, {"iterations": -1}, "distill.iterations"),
    (DistillConfig, {"ema": 1.0}, "distill.ema"),
    (DistillConfig, {"momentum": -0.1}, "distill.momentum"),
    (DistillConfig, {"image_lr": -0.1}, "distill.image_lr is -0.1; expected 0 or more"),
    (DistillConfig, {"text_lr": math.nan}, "distill.text_lr is nan"),
    (DistillConfig, {"student_rate_text": 0.0}, "distill.student_rate_text"),
    (DistillConfig, {"clip": -1.0}, "distill.clip"),
    (DistillConfig, {"validate_every": -1}, "distill.validate_every"),
    (DistillConfig, {"checkpoint_every": 0}, "distill.checkpoint_every"),
    (DistillConfig, {"iterations": 10, "keep": (0, 11)}, r"distill.keep is \[11\]; expected iterations from 0 to 10"),
    (EvaluateConfig, {"protocol": "best"}, "unknown protocol 'best'"),
    (EvaluateConfig, {"recipes": ()}, "own, generic, or both"),
    (EvaluateConfig, {"recipes": ("own", "ours")}, "own, generic, or both"),
    (EvaluateConfig, {"seeds": 0}, "evaluate.seeds"),
    (EvaluateConfig, {"max_validations": 0}, "evaluate.max_validations"),
    (EvaluateConfig, {"head_rates": ()}, "evaluate.head_rates"),
    (EvaluateConfig, {"full_epochs": (10, 0)}, "evaluate.full_epochs"),
    (BitrajOptions, {"syn_steps": 0}, "bitraj.syn_steps is 0"),
    (BitrajOptions, {"student_batch": 1}, "bitraj.student_batch"),
    (BitrajOptions, {"estimator": "adjunct"}, "unknown estimator 'adjunct'. Did you mean adjoint"),
    (BitrajOptions, {"reduce": "sum"}, "unknown reduce 'sum'"),
]


@pytest.mark.parametrize(("config", "values", "said"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_impossible_values_are_refused_at_once(config: type, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**values)


@pytest.mark.parametrize(
    "config, values",
    [
        (ExpertsConfig, {"image_rate": math.inf}),
        (DistillConfig, {"image_lr": math.inf}),
        (DistillConfig, {"student_rate_image": math.inf}),
        (EncoderConfig, {"temperature": math.inf}),
        (EvaluateConfig, {"head_rates": (0.1, math.nan)}),
        (EvaluateConfig, {"tower_rates": (math.inf,)}),
    ],
    ids=str,
)
def test_numbers_have_to_be_finite(config: type, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="finite"):
        config(**values)


def test_the_defaults_are_possible_and_frozen() -> None:
    config = Config()
    assert config.distill.method == "" and config.evaluate.protocol == "last"
    with pytest.raises(FrozenInstanceError):
        config.distill.pairs = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_variables_in_names_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("${PLACE}/flickr8k") == "/data/flickr8k"
    assert expand("${NOWHERE:-../shared}/x") == "../shared/x"
    assert expand("${EMPTY:-d}") == "d" and expand("a${NOWHERE:-}b") == "ab"
    assert expand("${PLACE:-x}-${PLACE}") == "/data-/data"
    assert expand("~/cache") == "/home/me/cache"
    assert expand("scenes:train=40,val=20") == "scenes:train=40,val=20"
    with pytest.raises(ConfigError, match=r"'\$\{NOWHERE\}/x' needs the environment variable NOWHERE"):
        expand("${NOWHERE}/x")


def test_the_configuration_needs_no_torch() -> None:
    code = (
        "import sys, vldistill, vldistill.config, vldistill.cli; "
        "heavy = {'torch', 'timm', 'transformers', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)


def test_the_public_names_are_there() -> None:
    import vldistill

    assert len(vldistill.__all__) <= 40 and set(vldistill.__all__) <= set(dir(vldistill))
    for name in vldistill.__all__:
        assert getattr(vldistill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Distiller'"):
        _ = vldistill.Distiller


SHIPPED = sorted((Path(__file__).parents[2] / "src" / "vldistill" / "configs").glob("*.yaml"))
assert SHIPPED
SWEEPS = [path for path in SHIPPED if "\nbase:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_shipped_sweeps_can_be_read(path: Path) -> None:
    from vldistill.comparison.sweepfile import read_sweep
    from vldistill.distillation.method import METHODS

    cells = read_sweep(path).cells()
    asked = [cell for cell in cells if cell.kind == "method"]
    came_later = {"dd", "kernel", "kip", "text_solve"} if path.stem.endswith("_v1") else set()
    assert {cell.name for cell in asked} == set(METHODS) - came_later, "a leaderboard leaves no method out"
    assert len({len(cell.configs) for cell in asked}) == 1, "every method has the same number of trials"
    for cell in asked:
        first, *others = (replace(config.distill, student_rate_image=1, student_rate_text=1) for config in cell.configs)
        sections = [config.methods.get(cell.name) for config in cell.configs]
        for other, section in zip(others, sections[1:]):
            assert (other, section) != (first, sections[0]), f"{cell.row}: rates of students are no trial of a set"
        for config in cell.configs:
            if cell.setting == "both":  # input embeddings: 0.06 is their standard deviation in MiniLM
                assert resolve(config).distill.text_lr <= 0.006, cell.row
            if cell.setting in ("full", "both"):
                assert not config.distill.validate_every, f"{cell.row}: a look at val outlasts a trial"
