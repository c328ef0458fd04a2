from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import DISTILL, ENCODER, EXPERTS, SCENES, make_bench

from vldistill.config import Config, DataConfig, DistillConfig, ImageTowerConfig, TextTowerConfig
from vldistill.distillation.method import METHODS
from vldistill.experts.record import expert_path, record_expert
from vldistill.options.resolve import resolve
from vldistill.plan.estimate import Estimate, human_time
from vldistill.plan.plans import stage_plan
from vldistill.stages.distill_checks import refuse_other_set
from vldistill.storage.files import write_record
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench
from vldistill.workbench.run_folder import Run


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = DataConfig(source=SCENES, cache=str(tmp_path / "cache"))
    return Config(data=data, encoder=ENCODER, experts=EXPERTS, distill=DISTILL)


def test_the_disk_of_experts_is_what_they_take(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    each, missing, count = Estimate(config).experts_bytes(run)
    assert (missing, count) == (2, 2)
    path = expert_path(run / "experts", 0)
    record_expert(make_bench(tmp_path / "cache"), config.experts, 0, path)
    assert each <= path.stat().st_size < each + 50_000  # the file's header comes on top
    assert Estimate(config).experts_bytes(run) == (each, 1, 2)
    text, problems = stage_plan("experts", config, run)
    assert "2, 1 done" in text and "train: 40 images, 200 captions" in text and not problems


def test_a_plan_reads_the_data_and_nothing_else(config: Config, tmp_path: Path) -> None:
    for stage in ("experts", "distill"):
        text, problems = stage_plan(stage, config, tmp_path / "run")
        assert not problems and "expected time: about" in text and "setting heads" in text
    assert "first: " in text and "holds no experts" in text  # said, but planning ahead is no mistake
    assert not list(tmp_path.iterdir())


def test_more_pairs_than_images_are_a_problem_of_the_plan(config: Config, tmp_path: Path) -> None:
    text, problems = stage_plan("distill", replace(config, distill=DistillConfig("bilevel", pairs=5000)), tmp_path)
    assert len(problems) == 1 and "5000 pairs were requested" in problems[0] and "5000 pairs" in text


def test_a_method_that_trains_nothing_has_no_iterations_in_its_plan(config: Config, tmp_path: Path) -> None:
    text, _ = stage_plan("distill", replace(config, distill=DistillConfig(method="prototypes", pairs=4)), tmp_path)
    assert "prototypes: 4 pairs, 0 iterations" in text
    closed = DistillConfig(method="canonical", pairs=4, space="features", iterations=9)
    assert "canonical: 4 pairs, 0 iterations" in stage_plan("distill", replace(config, distill=closed), tmp_path)[0]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"iterations": 7}, "7 iterations"),
        ({"iterations": 7, "minutes": 2.5}, "7 iterations, at most 2.5 minutes"),
        ({"minutes": 2.5}, "as many iterations as 2.5 minutes have"),
        ({}, "300 iterations"),
    ],
)
def test_minutes_without_iterations_are_used_up(
    config: Config, tmp_path: Path, given: dict[str, Any], wanted: str
) -> None:
    text, problems = stage_plan("distill", replace(config, distill=DistillConfig("bilevel", 4, **given)), tmp_path)
    assert f"bilevel: 4 pairs, {wanted}\n" in text and not problems


def test_what_would_stop_the_command_is_a_problem_and_the_rest_is_still_shown(config: Config, tmp_path: Path) -> None:
    broken = replace(
        config,
        data=DataConfig(source="/no/where.json"),
        encoder=replace(ENCODER, image=replace(ENCODER.image, weights="/no/weights.pt")),
    )
    text, problems = stage_plan("experts", broken, tmp_path / "run")
    assert ["/no/where.json" in problems[0], "/no/weights.pt" in problems[1]] == [True, True]
    assert "image tower convnet" in text and "expected time" not in text


def test_no_hub_is_asked_while_the_data_are_missing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Workbench, "text_tower", property(lambda bench: asked.append(bench.encoder_config.text.name)))
    encoder = replace(ENCODER, text=TextTowerConfig(name="owner/model"))
    missing = replace(config, encoder=encoder, data=DataConfig(source="/no/where.json"))
    _, (problem,) = stage_plan("experts", missing, tmp_path / "run")
    assert "/no/where.json" in problem and not asked
    Estimate(replace(config, encoder=encoder))
    assert asked and set(asked) == {"owner/model"}, "else it is"


def test_a_source_of_an_unset_variable_names_the_variable(config: Config, tmp_path: Path) -> None:
    data = DataConfig(source="${NO_SUCH_PLACE:-/no/flickr30k}", cache=str(tmp_path))
    _, problems = stage_plan("experts", replace(config, data=data), tmp_path / "run")
    assert "${NO_SUCH_PLACE:-/no/flickr30k}" in problems[0] and "--data.source PATH" in problems[0]


def test_the_share_of_adapters_and_text_head_is_said(config: Config, tmp_path: Path) -> None:
    """4 blocks, width 64, rank 8: 16 numbers per width of qkv (1 + 3), proj (2), fc1 and fc2 (5 each)."""
    vit = {"img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 4, "num_heads": 1}
    image = ImageTowerConfig(name="vit_tiny_patch16_224", weights="random", size=32, options=vit)
    encoder = replace(ENCODER, setting="lora", image=image)
    text, problems = stage_plan("experts", replace(config, encoder=encoder), tmp_path / "run")
    words = ENCODER.text.width
    trained = 4 * 8 * 16 * 64 + (words + 1) * 64 + 65 * 64 + 2 * 64
    block = 2 * 2 * 64 + 65 * 192 + 65 * 64 + 65 * 256 + 257 * 64
    tower = 4 * block + 2 * 64 + (3 * 256 + 1) * 64 + 64 + 5 * 64  # norm, patches, class token, positions
    assert not problems, problems
    assert f"{trained:,} trained numbers ({trained / tower:.1%} of the image tower's {tower:,})" in text


@pytest.mark.parametrize("setting", ["heads", "full"])
def test_times_grow_with_the_work(config: Config, setting: str) -> None:
    estimate = Estimate(replace(config, encoder=replace(ENCODER, setting=setting)))
    short, long = (estimate.training_seconds(64, Recipe(epochs=n, batch=32)) for n in (1, 10))
    assert short > 0 and long == pytest.approx(10 * short)
    assert estimate.training_seconds(64, Recipe(epochs=10, batch=32), 1) == pytest.approx(long / 2)
    slow = resolve(replace(config, distill=replace(DISTILL, iterations=10**9)))
    limited = replace(slow, distill=replace(slow.distill, minutes=3.0))
    assert estimate.distill_seconds(slow) > 180 == estimate.distill_seconds(limited)
    assert estimate.evaluation_seconds(config, None) > 0
    assert (estimate.encode_seconds > 0) == (setting == "heads")
    if setting == "heads":
        from_another = replace(slow, distill=replace(slow.distill, start="canonical"))
        assert estimate.distill_seconds(from_another) > estimate.distill_seconds(slow)


def test_rough_times() -> None:
    assert [human_time(s) for s in (0.2, 45, 600, 9000, 400_000)] == [
        "about 1 s",
        "about 45 s",
        "about 10 minutes",
        "about 2.5 hours",
        "about 4.6 days",
    ]


@pytest.mark.parametrize(
    ("method", "distill", "options", "message"),
    [
        ("bilevel", {"start": "hering"}, {}, "hering"),
        ("covmatch", {}, {}, "covmatch works in setting both"),
        ("lors", {"captions": 2}, {}, "distill.captions is 2"),
        ("bilevel", {"size": 64}, {}, "distill.size is 64"),
        ("bilevel", {"augment": ("flop",)}, {}, "distill.augment"),
        ("bilevel", {"space": "features", "augment": ("flip",)}, {}, "there are none"),
        ("bilevel", {}, {"minibatch": 50}, "bilevel.minibatch is 50"),
        ("bitraj", {}, {"expert_epochs": 9}, "segments of 9 epochs"),
    ],
)
def test_a_plan_refuses_what_the_command_would(
    method: str, distill: dict[str, Any], options: dict[str, Any], message: str, config: Config, tmp_path: Path
) -> None:
    asked = replace(
        config,
        distill=DistillConfig(method, pairs=4, **distill),
        methods={method: replace(METHODS.find(method).options(), **options)},
    )
    text, problems = stage_plan("distill", asked, tmp_path / "run")
    assert len(problems) == 1 and message in problems[0], (problems, text)
    assert not stage_plan("experts", asked, tmp_path / "run")[1]


def test_a_plan_looks_at_the_set_that_was_begun_and_at_the_experts(config: Config, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    bench = make_bench(tmp_path / "cache")
    for index in range(2):
        record_expert(bench, replace(config.experts, epochs=1), index, expert_path(run.experts, index))
    asked = replace(config, distill=DistillConfig("bitraj", pairs=4, iterations=9))
    _, (problem,) = stage_plan("distill", asked, run.folder)
    assert "expert-000.safetensors has no snapshot of epochs" in problem
    resolved = resolve(asked)
    write_record(run.sets / "bitraj-4-s0" / "config.json", refuse_other_set(run, resolved))
    _, problems = stage_plan("distill", replace(asked, distill=replace(asked.distill, iterations=4)), run.folder)
    assert any("begun with another configuration" in text and "iterations" in text for text in problems)
    _, (problem,) = stage_plan(
        "distill", replace(asked, distill=DistillConfig("bilevel", pairs=4)), tmp_path, run.folder
    )
    assert "bilevel needs no experts" in problem
