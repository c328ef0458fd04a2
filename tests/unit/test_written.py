"""Images that are learned as a pyramid, as spectra, or as mixtures of bases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import DISTILL, Stub, make_bench, make_loop, same, start_of

from vldistill.config import DistillConfig
from vldistill.distillation.method import Context
from vldistill.distillation.methods.bilevel import Bilevel, BilevelOptions
from vldistill.distillation.methods.prototypes import MatchedPrototypes
from vldistill.distillation.written import Bases, Form, Fourier, Pyramid, Written, colour_of, written
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError, Stopped
from vldistill.options.resolve import resolve_distill
from vldistill.workbench.bench import Workbench

FORMS: dict[str, dict[str, Any]] = {
    "pyramid": {"pixels": "pyramid"},
    "fourier": {"pixels": "fourier"},
    "bases": {"bases": 4},
    "bases-texts": {"bases": 4, "base_texts": True, "base_scale": 1},
    "features": {"bases": 4, "space": "features"},
}
CONFIG = replace(DISTILL, method="bilevel", pairs=6, iterations=4, ema=0.5)
OPTIONS = BilevelOptions(steps=3, real_batch=16)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return make_bench(tmp_path_factory.mktemp("written"))


def images(count: int = 6, side: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", [Pyramid(), Fourier(), Bases(6, 16, 1)], ids=["pyramid", "fourier", "all bases"])
def test_what_is_written_is_read_again(form: Form) -> None:
    begun = images()
    variables, carried = form.write({"images": begun})
    torch.testing.assert_close(form.read(variables, carried)["images"], begun, atol=2e-5, rtol=1e-4)


def test_few_bases_are_the_best_approximation() -> None:
    begun = images()
    variables, carried = Bases(2, 16, 1).write({"images": begun})
    left, strength, right = torch.linalg.svd(begun.flatten(1).double(), full_matrices=False)
    best = (left[:, :2] * strength[:2]) @ right[:2]
    torch.testing.assert_close(variables["images_addresses"].square().mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    found = Bases(2, 16, 1).read(variables, carried)["images"]
    torch.testing.assert_close(found.flatten(1).double(), best, atol=1e-4, rtol=1e-3)


def test_texts_share_the_addresses() -> None:
    texts = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    form = Bases(6, 16, 1, texts=True)
    variables, carried = form.write({"images": images(), "texts": texts})
    assert variables.keys() == {"images_addresses", "images_bases", "texts_bases"}
    torch.testing.assert_close(form.read(variables, carried)["texts"], texts, atol=1e-4, rtol=1e-3)


def test_colours_are_decorrelated() -> None:
    grey = images() * 0.05 + images(6, 16).mean(dim=1, keepdim=True)
    plain = torch.einsum("ck,nkhw->nchw", torch.linalg.inv(colour_of(grey)), grey).transpose(0, 1).flatten(1)
    covariance = torch.cov(plain)
    assert float(covariance.diag().std() / covariance.diag().mean()) < 0.05
    assert float((covariance - covariance.diag().diag()).abs().max() / covariance.diag().mean()) < 0.05


@pytest.mark.parametrize("name", FORMS)
def test_the_gradient_is_that_of_the_chain_rule(name: str, bench: Workbench) -> None:
    config = replace(CONFIG, **FORMS[name])
    context = Context(bench, resolve_distill(config, "heads"), OPTIONS)
    shown = written(Stub(), context.config, 16, "heads")  # type: ignore[arg-type]
    assert isinstance(shown, Written)
    state = shown.setup(start_of(bench, config), context)
    late = replace(context, iteration=3)  # every level of a pyramid moves
    update = shown.step(state, late)
    plain = Stub().step(shown.plain(state), late).gradients
    own = {n: v.double().requires_grad_() for n, v in state.variables.items() if n.startswith(("images_", "texts_"))}
    carried = {n: v.double() for n, v in state.carried.items()}
    given = shown.form.read(own, carried)
    torch.stack([(given[n] * plain[n].double()).sum() for n in given]).sum().backward()
    assert own
    for variable, value in own.items():
        assert value.grad is not None
        torch.testing.assert_close(update.gradients[variable].double(), value.grad, atol=1e-5, rtol=1e-3)


def test_fine_levels_rest_first(bench: Workbench) -> None:
    config = replace(CONFIG, pixels="pyramid", iterations=100)
    context = Context(bench, resolve_distill(config, "heads"), OPTIONS)
    shown = written(Stub(), context.config, 16, "heads")  # type: ignore[arg-type]
    assert isinstance(shown, Written)
    state = shown.setup(start_of(bench, config), context)
    assert {f"images_level{level}" for level in (0, 1)} <= state.variables.keys()
    moving: Callable[[int], set[str]] = lambda now: {  # noqa: E731
        name for name in shown.step(state, replace(context, iteration=now)).gradients if name.startswith("images_")
    }
    assert moving(0) == {"images_level0"} and moving(40) == {"images_level0", "images_level1"}


@pytest.mark.parametrize("name", FORMS)
def test_a_set_is_learned_resumed_and_kept(name: str, bench: Workbench, tmp_path: Path) -> None:
    config = replace(CONFIG, **FORMS[name])

    def loop(folder: str, stop_after: int = 0) -> DistilledSet:
        method = written(Bilevel(), resolve_distill(config, "heads"), 16, "heads")
        made = make_loop(bench, [], tmp_path / folder, config, method=method, stop_after=stop_after)
        made.context = replace(made.context, options=OPTIONS)
        return made.run(start_of(bench, config))

    whole = loop("whole")
    with pytest.raises(Stopped):
        loop("parts", stop_after=2)
    parts = loop("parts")
    assert same(whole.tensors(), parts.tensors())
    start = start_of(bench, config)
    assert not torch.equal(whole.images, start.images)
    whole.save(tmp_path / "set")
    assert ("mixtures of 4 bases" in (tmp_path / "set" / "README.md").read_text()) == bool(whole.bases)
    loaded = DistilledSet.load(tmp_path / "set")
    assert same(loaded.tensors(), whole.tensors()) and loaded.stored_floats == whole.stored_floats
    torch.testing.assert_close(loaded.images, whole.images, atol=0, rtol=0)
    torch.testing.assert_close(loaded.texts, whole.texts, atol=0, rtol=0)
    rates = sum(len(rate) for rate in whole.recipe.rates.values())
    width = whole.images.flatten(1).shape[1]
    expected = {
        "bases": 6 * 4 + 4 * 3 * 8 * 8 + whole.texts.numel(),
        "bases-texts": 6 * 4 + 4 * width + 4 * whole.texts.shape[1],
        "features": 6 * 4 + 4 * width + whole.texts.numel(),
    }.get(name, whole.images.numel() + whole.texts.numel())
    assert whole.stored_floats == expected + rates


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bases": 6}, "fewer than distill.pairs"),
        ({"bases": 2, "base_scale": 8}, "smaller than 4 px"),
    ],
)
def test_bases_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    config = resolve_distill(replace(CONFIG, **options), "heads")
    with pytest.raises(ConfigError, match=words):
        written(Bilevel(), config, 16, "heads")


def test_a_method_that_trains_nothing_is_refused() -> None:
    config = resolve_distill(replace(CONFIG, method="prototypes", bases=2), "heads")
    with pytest.raises(ConfigError, match="prototypes trains no images"):
        written(MatchedPrototypes(), config, 16, "heads")


@pytest.mark.parametrize(
    "options",
    [
        {"bases": -1},
        {"base_texts": True},
        {"pixels": "fourier", "bases": 2},
        {"pixels": "pyramid", "space": "features"},
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DistillConfig(**options)
