"""Learned images that are smaller than the tower takes: fewer stored floats, enlarged the same way everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vldistill.cli import main
from vldistill.config import DistillConfig
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError, ConfigError

TOWER = [
    *("--data.source", "scenes:train=40,val=20,test=20", "--encoder.text.name", "hashing"),
    *("--encoder.image.name", "convnet", "--encoder.image.weights", "random", "--encoder.image.size", "16"),
    *("--encoder.image.options", "{width: 8}", "--encoder.dim", "16"),
]
SHORT = [
    *("--pairs", "6", "--iterations", "2", "--distill.validate_every", "1"),
    *("--evaluate.seeds", "2", "--evaluate.trials", "1", "--evaluate.max_steps", "2"),
]


@pytest.mark.parametrize("setting", ["heads", "full"])
def test_a_set_of_small_images_is_learned_saved_and_judged(setting: str, tmp_path: Path) -> None:
    words = ["distill", "--run", str(tmp_path), *TOWER, *SHORT, "--encoder.setting", setting, "--distill.size", "8"]
    assert main([*words, "--method", "bilevel", "--bilevel.steps", "2", "--bilevel.real_batch", "8"]) == 0
    folder = tmp_path / "sets/bilevel-6-s0"
    found = DistilledSet.load(folder)
    assert found.images.shape == (6, 3, 8, 8) and found.pixels().shape == (6, 3, 8, 8)
    rates = sum(len(rate) for rate in found.recipe.rates.values())
    assert found.stored_floats == 6 * 3 * 8 * 8 + found.texts.numel() + rates
    assert "stored at 8 px" in (folder / "README.md").read_text()
    tower = found.towers["image"]
    seen = found.images_for(tower["size"], tower["mean"], tower["std"])
    # enlarged pixels and enlarged normalised values are the same: the weights of bicubic interpolation add up to 1
    torch.testing.assert_close(seen, F.interpolate(found.images, size=(16, 16), mode="bicubic", antialias=True))
    assert main(["evaluate", "--run", str(tmp_path), "--set", str(folder)]) == 0


def test_images_that_the_tower_could_not_show_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--run", str(tmp_path), *TOWER, *SHORT, "--distill.size", "32"]) == 2
    assert "distill.size is 32, but the image tower takes 16 pixels" in capfd.readouterr().err
    with pytest.raises(ConfigError, match=r"distill\.size is 8; expected 0 where features are learned"):
        DistillConfig(size=8, space="features")
    with pytest.raises(ConfigError, match=r"distill\.size is 3; expected 0 .* at least 4"):
        DistillConfig(size=3)


@pytest.fixture(scope="module")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of small images, copied for every test."""
    run = tmp_path_factory.mktemp("run")
    words = ["distill", "--run", str(run), *TOWER, *SHORT, "--distill.size", "8", "--method", "prototypes"]
    assert main(words) == 0
    return run / "sets/prototypes-6-s0"


@pytest.mark.parametrize("side", [0, 17, "8", True, 7])
def test_a_side_that_is_not_that_of_the_images_is_refused(side: object, small_images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_images, tmp_path / "set"))
    DistilledSet.load(folder)
    path = folder / "set.json"
    record = json.loads(path.read_text())
    record["towers"]["image"]["stored_size"] = side
    path.write_text(json.dumps(record))
    with pytest.raises(ArtefactError):
        DistilledSet.load(folder)
