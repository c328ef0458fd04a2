"""The options of the founding paper's ablations: one side learned, starts by side, how much of the experts is used."""

from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DISTILL, copies, make_experts, make_loop

from vldistill.config import DistillConfig, SelectConfig
from vldistill.distillation.export import set_name
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.distillation.start import make_start
from vldistill.errors import ArtefactError, ConfigError
from vldistill.experts.record import open_experts
from vldistill.experts.trajectory import Trajectory
from vldistill.selection.choose import choose_pairs
from vldistill.workbench.bench import Workbench


@pytest.fixture(scope="module")
def folder(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("experts")
    make_experts(bench, made)
    return made


@pytest.fixture(scope="module")
def experts(bench: Workbench, folder: Path) -> list[Trajectory]:
    return open_experts(bench, folder)


def distil(bench: Workbench, experts: list[Trajectory], folder: Path, config: DistillConfig, **options: Any) -> Any:
    """The loop after a distillation, with the start that it had."""
    options = {"syn_steps": 2, "student_epochs": 2, **options}
    loop = make_loop(bench, experts, folder, config, options=BitrajOptions(**options))
    start = make_start(bench, config.starts[0], config.pairs, config.seed, None, config.starts[1])
    loop.run(start)
    return loop, start


# --- which side is learned ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learn", "moving"), [("both", {"images", "texts"}), ("image", {"images"}), ("text", {"texts"})]
)
def test_what_is_not_learned_stays_to_the_bit(
    learn: Any, moving: set[str], bench: Workbench, experts: list[Trajectory], tmp_path: Path
) -> None:
    loop, start = distil(bench, experts, tmp_path, replace(DISTILL, learn=learn))
    begin = {"images": start.images, "texts": start.texts}
    moved = {name for name, tensor in begin.items() if not torch.equal(loop.state.variables[name], tensor)}
    assert moved == moving
    rates = [float(loop.state.variables[f"log_rate_{side}"]) for side in ("image", "text")]
    assert all(rate != math.log(0.1) for rate in rates)  # student rates are learned in every case


def test_one_side_learned_goes_on_after_a_stop(bench: Workbench, experts: list[Trajectory], tmp_path: Path) -> None:
    from vldistill.errors import Stopped

    config = replace(DISTILL, learn="image")
    straight, _ = distil(bench, experts, tmp_path / "straight", config)
    start = make_start(bench, "real", config.pairs, config.seed)
    options = BitrajOptions(syn_steps=2, student_epochs=2)
    with pytest.raises(Stopped):
        make_loop(bench, experts, tmp_path / "cut", config, options=options, stop_after=3).run(start)
    again = make_loop(bench, experts, tmp_path / "cut", config, options=options)
    again.run(start)
    expected = copies(straight.state.state_dict())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state.state_dict().items())


# --- where each side starts ---------------------------------------------------------------------------------------

SELECTORS = {"real": "random", "kmeans": "kmeans", "herding": "herding"}
KINDS = ("real", "kmeans", "herding", "noise")


def rows_of(bench: Workbench, images: torch.Tensor) -> list[int]:
    """The training image that each starting image is; -1 for none."""
    tower = bench.image_tower
    pixels = torch.from_numpy(np.array(bench.pixels("train").array)).float() / 255
    real = (pixels - torch.tensor(tower.mean).view(3, 1, 1)) / torch.tensor(tower.std).view(3, 1, 1)
    gaps = torch.cdist(images.flatten(1), real.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    return [int(row.argmin()) if float(row.min()) < 1e-2 else -1 for row in gaps]


def allowed(image: str, text: str) -> bool:
    return image == text or bool({"real", "noise"} & {image, text})


@pytest.mark.parametrize(("image", "text"), [p for p in itertools.product(KINDS, KINDS) if allowed(*p)])
def test_each_side_starts_as_asked_and_real_sides_are_pairs(image: Any, text: Any, bench: Workbench) -> None:
    config = DistillConfig(method="bitraj", pairs=5, seed=2, start_image=image, start_text=text)
    assert config.starts == (image, text)
    start = make_start(bench, config.starts[0], 5, 2, None, config.starts[1])
    pairs, found = bench.pairs("train"), rows_of(bench, start.images)
    choice = {kind: choose_pairs(bench, name, 5, 2, SelectConfig())[0].tolist() for kind, name in SELECTORS.items()}
    if image == "noise":
        assert found == [-1] * 5
        assert torch.equal(start.images, make_start(bench, "noise", 5, 2).images)
    else:
        assert found == choice[text if image == "real" and text != "noise" else image]
    if text == "noise":
        assert start.captions == [""] * 5
        assert torch.equal(start.texts, make_start(bench, "noise", 5, 2).texts)
        return
    owners = found if image != "noise" else choice[text]
    for caption, owner in zip(start.captions, owners, strict=True):
        assert caption in [pairs.captions[int(row)] for row in pairs.image_captions[owner]]


def test_one_start_means_both_sides() -> None:
    assert DistillConfig(method="bitraj", start="noise").starts == ("noise", "noise")
    assert DistillConfig(method="bitraj", start="noise", start_text="kmeans").starts == ("noise", "kmeans")


def test_two_choices_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="images from kmeans and texts from herding, which choose different pairs"):
        DistillConfig(method="bitraj", start="kmeans", start_text="herding")


# --- how much is used ---------------------------------------------------------------------------------------------


def test_the_first_experts_alone(bench: Workbench, folder: Path, tmp_path: Path) -> None:
    assert [expert.path.name for expert in open_experts(bench, folder, 1)] == ["expert-000.safetensors"]
    assert len(open_experts(bench, folder)) == 2
    with pytest.raises(ConfigError, match=r"distill\.experts is 3, but .* holds 2 experts.*--experts\.count 3"):
        open_experts(bench, folder, 3)
    with pytest.raises(ArtefactError, match="holds no experts"):
        open_experts(bench, tmp_path, 3)


def test_experts_beyond_a_thousand_are_still_in_order(bench: Any, experts: list[Any], tmp_path: Path) -> None:
    for number in (2, 101, 1000):
        shutil.copy(experts[0].path, tmp_path / f"expert-{number:03d}.safetensors")
    names = [expert.path.stem for expert in open_experts(bench, tmp_path)]
    assert names == ["expert-002", "expert-101", "expert-1000"]


@pytest.mark.parametrize(
    ("loop", "options"),
    [
        ({}, {"syn_steps": 3}),
        ({}, {"expert_epochs": 2}),
        ({}, {"max_start_epoch": 1}),
        ({"image_lr": 0.3}, {}),
        ({"text_lr": 0.3}, {}),
        ({"start": "kmeans"}, {}),
        ({"seed": 1}, {}),
    ],
    ids=str,
)
def test_every_other_ablation_is_an_option_that_matters(
    loop: dict[str, Any], options: dict[str, Any], bench: Workbench, experts: list[Trajectory], tmp_path: Path
) -> None:
    plain, _ = distil(bench, experts, tmp_path / "plain", DISTILL)
    other, _ = distil(bench, experts, tmp_path / "other", replace(DISTILL, **loop), **options)
    assert not torch.equal(plain.state.variables["images"], other.state.variables["images"])


def test_kept_iterations_are_what_the_set_was_then(bench: Workbench, experts: list[Trajectory], tmp_path: Path) -> None:
    kept: dict[int, torch.Tensor] = {}
    plain = replace(DISTILL, decay="none")  # which would tell how long the run is
    config = replace(plain, keep=(0, 2, 8))
    loop = make_loop(
        bench, experts, tmp_path, config, save=lambda made, iteration: kept.update({iteration: made.images})
    )
    loop.run(make_start(bench, "real", config.pairs, config.seed))
    shorter, start = distil(bench, experts, tmp_path / "short", replace(plain, iterations=2))
    assert list(kept) == [0, 2, 8]
    assert torch.equal(kept[0], start.images) and torch.equal(kept[2], shorter.state.variables["images"])


def test_variants_have_names_of_their_own() -> None:
    assert set_name(DistillConfig(method="bitraj", pairs=7)) == "bitraj-7-s0"
    assert set_name(DistillConfig(method="bitraj", pairs=7, label="noise-start")) == "bitraj-7-s0-noise-start"
    for label in ("a/b", "..\\x", "ä b", "x" * 81):
        with pytest.raises(ConfigError, match=r"distill\.label"):
            DistillConfig(method="bitraj", label=label)
    with pytest.raises(ConfigError, match=r"distill\.experts is -1"):
        DistillConfig(method="bitraj", experts=-1)
