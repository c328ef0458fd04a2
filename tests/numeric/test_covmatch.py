"""covmatch against its formulas in float64: the loss entry by entry, the online step by torch's own SGD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from double import ENCODER, DoubleBench

from tiny_bert import write_bert
from vldistill.config import DataConfig, DistillConfig, TextTowerConfig
from vldistill.distillation.loop import Loop
from vldistill.distillation.method import METHODS, Context, State
from vldistill.distillation.methods.covmatch import CovmatchOptions, CrossCovarianceMatching, cross_covariance, fresh
from vldistill.distillation.start import make_start
from vldistill.encoders.dual import SIDES
from vldistill.errors import ConfigError
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.log import Reporter
from vldistill.runtime.randomness import generator
from vldistill.stages.distill_checks import check_setting
from vldistill.training.losses import infonce
from vldistill.training.side_inputs import PixelInputs
from vldistill.workbench.bench import Workbench

PAIRS = 5


class DoublePixels(PixelInputs):
    """Real images in float64."""

    def rows(self, index: torch.Tensor, augment_seed: int | None = None) -> torch.Tensor:
        return super().rows(index, augment_seed).double()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = write_bert(tmp_path_factory.mktemp("bert"))
    encoder = replace(ENCODER, setting="both", text=TextTowerConfig(name=str(folder), pooling="mean", max_tokens=40))
    data = DataConfig(source="scenes:train=40,val=20,test=20", cache=str(tmp_path_factory.mktemp("cache")))
    made = DoubleBench(data, encoder, torch.device("cpu"), Reporter(quiet=True))
    split = made.split("train")
    texts: Any = split.data.texts
    texts.table = texts.table.double()
    images = DoublePixels(split.pixels.array, made.image_tower, made.device)
    made._splits["train"] = replace(split, data=replace(split.data, images=images))
    return made


def prepared(bench: Workbench, options: CovmatchOptions, **config: Any) -> tuple[Any, Context[Any], State]:
    settings = DistillConfig(method="covmatch", pairs=PAIRS, iterations=8, validate_every=0, **config)
    method, context = (
        CrossCovarianceMatching(),
        Context(bench, resolve_distill(settings, bench.setting), options, iteration=3),
    )
    check_setting("covmatch", bench.setting)
    state = method.setup(make_start(bench, "real", PAIRS, 0), context)
    state.variables = {name: value.double() for name, value in state.variables.items()}
    return method, context, state


def test_the_cross_covariance_is_its_formula() -> None:
    x, y = (torch.randn(4, d, generator=generator(d), dtype=torch.float64) for d in (3, 2))
    found = cross_covariance(x, y)
    for a in range(3):
        for b in range(2):
            mean_x, mean_y = sum(x[:, a].tolist()) / 4, sum(y[:, b].tolist()) / 4
            entry = sum((float(x[i, a]) - mean_x) * (float(y[i, b]) - mean_y) for i in range(4)) / 4
            assert float(found[a, b]) == pytest.approx(entry, rel=1e-12)
    assert float(cross_covariance(x + 5, y - 3).sub(found).abs().max()) < 1e-12


def modules(bench: Workbench, state: State) -> Any:
    """A real student with the online parameters of the state."""
    student = bench.student(99)
    with torch.no_grad():
        for side, named in student.trained().items():
            for name, p in named.items():
                p.copy_(state.carried[f"{side}/{name}"])
    return student


def naive_loss(student: Any, real: Any, images: torch.Tensor, texts: torch.Tensor, options: Any) -> torch.Tensor:
    """The paper's loss with plain modules."""
    features, outputs = [], []
    for x, y in (real, (images, texts)):
        towers = student.image.tower(x), student.text.tower(y)
        features.append(towers)
        outputs.append((student.image.head(towers[0]), student.text.head(towers[1])))
    covariances = []
    for x, y in features:
        rows = [torch.outer(a - x.mean(0), b - y.mean(0)) for a, b in zip(x, y)]
        covariances.append(torch.stack(rows).mean(0))
    loss = ((options.rho * covariances[0] - covariances[1]) ** 2).sum()
    for true, made in zip(*outputs):
        loss = loss + options.matching * ((true.mean(0) - made.mean(0)) ** 2).sum()
    return loss


def test_the_update_is_the_gradient_of_the_papers_loss(bench: Workbench) -> None:
    options = CovmatchOptions(minibatch=4, real_batch=8, matching=0.6, tower_rate=0.02, head_rate=0.3)
    method, context, state = prepared(bench, options)
    update = method.step(state, context)
    student = modules(bench, state)
    data = bench.split("train").data
    index = torch.randperm(len(data), generator=context.generator("real"))[:8]
    real = data.images.rows(data.caption_image[index]), data.texts.rows(index)
    rows = torch.randperm(PAIRS, generator=context.generator("rows"))[:4]
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.variables.items()}
    tokens = torch.cat([leaves["texts"], state.carried["text_mask"].unsqueeze(-1)], -1)
    loss = naive_loss(student, real, leaves["images"][rows], tokens[rows], options)
    assert update.value == pytest.approx(float(loss.detach()), rel=1e-9)
    slopes = torch.autograd.grad(loss, list(leaves.values()))
    for name, slope in zip(leaves, slopes):
        assert float(slope.norm()) > 0
        torch.testing.assert_close(update.gradients[name], slope, rtol=1e-7, atol=1e-12, msg=name)
    padding = state.carried["text_mask"] == 0
    assert padding.any() and not update.gradients["texts"][padding].any()

    groups = [
        {"params": [p for s in SIDES for n, p in student.trained()[s].items() if n.startswith(part)], "lr": rate}
        for part, rate in (("tower", 0.02), ("head", 0.3))
    ]
    optimiser = torch.optim.SGD(groups)
    infonce(student(*real)).backward()
    optimiser.step()
    for side, named in student.trained().items():
        for name, p in named.items():
            torch.testing.assert_close(update.carried[f"{side}/{name}"], p.detach(), rtol=1e-7, atol=1e-12, msg=name)
    assert any(bool((update.carried[n] != state.carried[n]).any()) for n in update.carried if "text/tower" in n)


def test_the_sets_own_student_is_the_published_one(bench: Workbench) -> None:
    method, context, state = prepared(bench, CovmatchOptions(tower_rate=0.01))
    recipe = method.export(state, context).recipe
    assert recipe.rates == {"image": (0.01,), "text": (0.01,)} and recipe.head_factor == pytest.approx(10)
    assert (recipe.epochs, recipe.batch, recipe.schedule, recipe.loss) == (100, 128, "half", "infonce")
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 5e-4)


def test_its_own_rate_of_texts_is_small_beside_input_embeddings() -> None:
    own, spread = METHODS.find("covmatch").outer, 0.056  # standard deviation of MiniLM's table, measured
    assert own.optimiser == "adam"  # whose first step moves every number by the rate
    assert own.text_lr <= spread / 20


def test_online_towers_go_on_and_start_anew(bench: Workbench, tmp_path: Path) -> None:
    _, context, _ = prepared(
        bench, CovmatchOptions(reset=3, real_batch=8), optimiser="sgd", image_lr=1e-3, text_lr=1e-3
    )
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(CrossCovarianceMatching):
        def setup(self, start: Any, context: Context) -> State:
            state = super().setup(start, context)
            state.variables = {name: value.double() for name, value in state.variables.items()}
            return state

        def step(self, state: State, context: Context) -> Any:
            seen.append({name: value.clone() for name, value in state.carried.items()})
            update = super().step(state, context)
            seen.append(update.carried)
            return update

    loop = Loop(Watched(), context, tmp_path, lambda found: 0.0, lambda *kept: None, lambda: False)
    loop.run(make_start(bench, "real", PAIRS, 0))
    before, after = seen[0::2], seen[1::2]
    for t in range(7):
        assert all(torch.equal(after[t][name], before[t + 1][name]) for name in after[t])
    name = "text/head.project.weight"
    for t in (0, 3, 6):  # a step from new heads and pretrained towers
        anew = fresh(context.at(t))["text"]["head.project.weight"]
        assert float((after[t][name] - anew).norm()) < 0.5 * float((after[t][name] - before[t][name]).norm() + (t == 0))
    assert torch.equal(before[1]["text_mask"], before[7]["text_mask"])


def test_only_setting_both_is_taken(bench: Workbench) -> None:
    other = DoubleBench(bench.data_config, ENCODER, torch.device("cpu"), Reporter(quiet=True))
    with pytest.raises(ConfigError, match="covmatch works in setting both, not heads"):
        prepared(other, CovmatchOptions())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rho": 0.0}, "rho is 0.0"),
        ({"reset": 0}, "reset is 0"),
        ({"real_batch": 1}, "real_batch is 1"),
        ({"matching": -0.1}, "matching is -0.1"),
        ({"minibatch": 1}, "minibatch is 1"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CovmatchOptions(**values)
