"""Methods from the command line, as a user would compare them: one run, one configuration, set after set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vldistill.cli import main
from vldistill.distilled import DistilledSet

QUICK = ["--evaluate.seeds=1", "--evaluate.generic_epochs=1", "--evaluate.head_rates=[0.1]", "--quiet", "--json"]
CASES = {
    "prototypes": [],
    "mdm": ["--start=kmeans", "--mdm.real_batch=8"],
    "repblend": [
        "--repblend.syn_steps=2",
        "--optimiser=sgd",
        "--distill.momentum=0.5",
        "--distill.image_lr=1",
        "--distill.text_lr=1",
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
    assert "Run `vldistill experts` first" in capsys.readouterr().err
    assert main(["experts", "--run", run, "--quiet"]) == 0
    for name, options in CASES.items():
        words = [f"--method={name}", "--pairs=5", "--iterations=2", "--distill.validate_every=1", *options]
        if name == "prototypes":
            words += ["--seed=1", "--distill.space=features"]
        capsys.readouterr()
        assert main(["distill", "--run", run, *words, "--evaluate.head_rates=[0.1]", "--quiet"]) == 0, name
        folder = capsys.readouterr().out.strip()
        assert main(["evaluate", "--run", run, "--set", folder, *QUICK]) == 0, name
        result = json.loads(capsys.readouterr().out)
        assert result["pairs"] == 5 and result["own"] and result["generic"], name
        phases = result["own"]["recipe"].get("phases")
        assert phases == ([2, 3] if name == "ptm" else None)
