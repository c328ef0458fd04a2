"""Methods from the command line, as a user would compare them: one run, one configuration, set after set."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from vldistill.cli import main
from vldistill.distillation.method import METHODS, Context, State, Update
from vldistill.distillation.methods.canonical import CanonicalPairs
from vldistill.distilled.distilled_set import DistilledSet

QUICK = [
    "--evaluate.seeds=1",
    "--evaluate.trials=1",
    "--evaluate.max_steps=2",
    "--evaluate.generic_epochs=1",
    "--evaluate.head_rates=[0.1]",
    "--quiet",
    "--json",
]
CASES = {
    "prototypes": [],
    "canonical": ["--canonical.rank=3"],
    "mdm": ["--start=kmeans", "--mdm.real_batch=8"],
    "repblend": [
        "--repblend.syn_steps=2",
        "--optimiser=sgd",
        "--distill.momentum=0.5",
        "--distill.image_lr=1",
        "--distill.text_lr=1",
        "--distill.similarity_lr=1",
    ],
    "ptm": ["--ptm.subsets=2,3", "--ptm.straighten=3,3", "--ptm.syn_steps=2", "--distill.ema=0.9"],
    "lors": ["--lors.similarity=full", "--lors.loss=soft_infonce", "--lors.syn_steps=2"],
}


def test_every_rival_distils_and_is_judged_in_one_run(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    words = ["--config", str(config), "--method=prototypes", "--pairs=5", "--quiet"]
    assert main(["distill", "--run", run, *words]) == 0
    first = DistilledSet.load(capsys.readouterr().out.strip())
    assert [caption["start"] for caption in first.captions] and first.info["method"] == "prototypes"
    assert (tmp_path / "run" / "sets" / first.name / "preview.png").is_file()
    assert main(["distill", "--run", run, "--method=lors", "--pairs=5", "--quiet"]) == 2
    assert "holds no experts. Run `vldistill experts --run " in capsys.readouterr().err
    assert main(["experts", "--run", run, "--quiet"]) == 0
    for name, options in CASES.items():
        words = [f"--method={name}", "--pairs=5", "--iterations=2", "--distill.validate_every=1", *options]
        if name == "prototypes":
            words += ["--seed=1", "--distill.space=features", "--distill.start=kmeans"]
        capsys.readouterr()
        assert main(["distill", "--run", run, *words, "--evaluate.head_rates=[0.1]", "--quiet"]) == 0, name
        said = capsys.readouterr()
        assert ("own starting pairs: distill.start kmeans is ignored" in said.err) == (name == "prototypes")
        folder = said.out.strip()
        assert main(["evaluate", "--run", run, "--set", folder, *QUICK]) == 0, name
        result = json.loads(capsys.readouterr().out)
        assert result["pairs"] == 5 and result["own"] and result["generic"], name
        phases = result["own"]["recipe"].get("phases")
        assert phases == ([2, 3] if name == "ptm" else None)


def test_a_set_that_is_made_first_is_stopped_goes_on_and_is_the_start(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--config", str(config), "--pairs=5", "--distill.validate_every=0", "--quiet"]
    begun = [*words, "--method=bilevel", "--iterations=2", "--canonical.ridge=2"]
    step = CanonicalPairs.step

    def stopped(method: CanonicalPairs, state: State, context: Context) -> Update:
        if context.iteration == 7:
            signal.raise_signal(signal.SIGTERM)
        return step(method, state, context)

    whole, halves, two = (str(tmp_path / name) for name in ("whole", "halves", "two"))
    assert main(["distill", "--run", whole, *begun, "--start=canonical"]) == 0
    one = DistilledSet.load(capsys.readouterr().out.strip())
    with monkeypatch.context() as patch:
        patch.setattr(CanonicalPairs, "step", stopped)
        assert main(["distill", "--run", halves, *begun, "--start=canonical"]) == 3
    assert "stopped after iteration 8 of 100" in capsys.readouterr().err
    assert main(["distill", "--run", halves, *begun, "--start=canonical"]) == 0
    other = DistilledSet.load(capsys.readouterr().out.strip())
    own = [f"--distill.{name}={value}" for name, value in asdict(METHODS.find("canonical").outer).items()]
    assert main(["distill", "--run", two, *words, "--method=canonical", "--canonical.ridge=2", *own]) == 0
    first = capsys.readouterr().out.strip()
    assert main(["distill", "--run", two, *begun, f"--start={first}"]) == 0
    last = DistilledSet.load(capsys.readouterr().out.strip())
    for found in (other, last):
        assert torch.equal(found.images, one.images) and torch.equal(found.texts, one.texts)
    assert all(caption["start"] for caption in one.captions), "the real captions that all began with"
    assert main(["distill", "--run", whole, *begun, "--start=canonical", "--canonical.ridge=4"]) == 2
    assert "canonical.ridge: 2.0 there, 4.0 requested" in capsys.readouterr().err
