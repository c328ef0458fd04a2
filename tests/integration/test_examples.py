"""The examples run, and train what the library trains."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vldistill.distilled.distilled_set import STANDARDISATION, DistilledSet
from vldistill.encoders.dual import DualEncoder, Head
from vldistill.evaluation.subjects import subject
from vldistill.options.words import parse
from vldistill.runtime.log import Reporter
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_on_a_set.py"
SCENES = "scenes:train=40,val=20,test=20"
CPU = torch.device("cpu")
BILEVEL = ("--method", "bilevel", "--iterations", 2, "--bilevel.steps", 3)


@pytest.fixture(scope="module")
def example() -> Any:
    found = importlib.util.spec_from_file_location("train_on_a_set", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def features_of(recipe: Recipe, several: int = 1) -> DistilledSet:
    """Six pairs of random features, with a similarity, or with several texts for each image."""
    draw = torch.Generator().manual_seed(0)
    images, texts, similarity = (torch.randn(6, width, generator=draw) for width in (8, 5, 6))
    if several > 1:
        texts, similarity = torch.randn(6, several, 5, generator=draw), None
    image = {"name": "x", "width": 8, "fingerprint": "x", "size": 4, "mean": [0.5] * 3, "std": [0.5] * 3}
    towers = {"image": image, "text": {"name": "x", "width": 5, "fingerprint": "x"}}
    return DistilledSet(images, texts, recipe, towers, "heads", space="features", similarity=similarity)


@pytest.mark.parametrize("options", [(), ("--distill.captions", 2), ("--distill.space", "features")], ids=str)
def test_training_on_a_set_gives_a_student_that_ranks_and_is_kept(
    options: tuple[Any, ...], example: Any, vldistill: Any, config: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run, out, seen = tmp_path / "run", tmp_path / "student.safetensors", []
    assert vldistill("distill", "--config", config, "--run", run, *BILEVEL, *options, "--quiet").code == 0
    folder, train = run / "sets" / "bilevel-6-s0", example.train
    monkeypatch.setattr(example, "train", lambda *given: (train(*given), seen.extend(given)))
    example.main(str(folder), SCENES, str(out), "a red ring")
    said = capsys.readouterr().out
    assert "'mean_recall': " in said and "a red ring [" in said
    student, images, texts, pairs = seen
    asked, _ = parse("evaluate", ["--run", str(run)])
    bench = Workbench(asked.data, asked.encoder, CPU, Reporter(quiet=True))
    data = subject(bench, pairs).draw(0)
    rows = torch.arange(len(data))
    assert torch.equal(texts, data.texts.rows(rows))
    torch.testing.assert_close(images, data.images.rows(data.caption_image), rtol=1e-4, atol=1e-4)
    weights = load_file(out)
    again = DualEncoder(Head(32, 16), Head(32, 16), 1 / 0.07)
    again.load_state_dict({name: weights[name] for name in weights.keys() - set(STANDARDISATION)})
    assert torch.equal(again.eval().embed("image", images), student.embed("image", images))


@pytest.mark.parametrize(
    ("recipe", "several"),
    [
        (
            Recipe(
                {"image": (0.3, 0.1, 0.2), "text": (0.1,)}, epochs=3, schedule="constant", temperature=0.2, dropout=0.0
            ),
            1,
        ),
        (Recipe(epochs=5, batch=6, schedule="cosine", dropout=0.0), 1),
        (Recipe(epochs=4, batch=4, schedule="half", phases=(2, 4), loss="soft_infonce", dropout=0.0), 1),
        (Recipe(epochs=4, schedule="half", loss="wbce", dropout=0.0), 1),
        (Recipe(epochs=5, batch=6, schedule="cosine", dropout=0.0), 3),
    ],
    ids=lambda value: value.schedule + value.loss if isinstance(value, Recipe) else str(value),
)
def test_the_loop_of_the_example_is_that_of_the_library(recipe: Recipe, several: int, example: Any) -> None:
    pairs = features_of(recipe, several)
    images, texts = pairs.images.repeat(several, 1), pairs.texts.reshape(6, several, 5).transpose(0, 1).flatten(0, 1)
    mine = DualEncoder(Head(8, 4), Head(5, 4), 1 / 0.07)
    theirs = copy.deepcopy(mine)
    before = mine.embed("image", images).detach()
    example.train(mine, images, texts, pairs)
    data = TrainingData(
        TensorInputs(images), TensorInputs(texts), torch.arange(6).repeat(several), pairs.similarity, several
    )
    fit(theirs, data, recipe, seed=0, device=CPU)
    assert math.dist(before.flatten().tolist(), mine.embed("image", images).flatten().tolist()) > 0.1
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)


def test_a_set_that_does_not_say_its_towers_is_refused(example: Any, tmp_path: Path) -> None:
    features_of(Recipe()).save(tmp_path / "set")
    with pytest.raises(SystemExit, match="expected a set of setting heads that `vldistill distill` made"):
        example.main(str(tmp_path / "set"), SCENES, str(tmp_path / "student.safetensors"))
