"""``distill.negatives distinct``: inner steps and outer losses mask equal captions, against batches written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import DISTILL, make_bench, start_of

from vldistill.distillation.inner_steps import inner_loss, inner_steps
from vldistill.distillation.method import Context
from vldistill.distillation.methods.bilevel import Bilevel, BilevelOptions
from vldistill.options.resolve import resolve_distill
from vldistill.training.losses import equal_pairs, infonce, numbered_texts
from vldistill.workbench.bench import Workbench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return make_bench(tmp_path_factory.mktemp("cache"))


def context_of(bench: Workbench, negatives: str) -> Context[BilevelOptions]:
    config = replace(DISTILL, method="bilevel", pairs=6, negatives=negatives)
    return Context(bench, resolve_distill(config, bench.setting), BilevelOptions(steps=2, real_batch=16))


def test_an_inner_step_leaves_equal_texts_out(bench: Workbench) -> None:
    """Pairs 1 and 4 have one text: neither is a negative of the other."""
    context, student = context_of(bench, "distinct"), bench.student(0)
    start = start_of(bench)
    texts = start.texts[:6].clone()
    texts[4] = texts[1]
    images = bench.encode_in_batches(start.images[:6])
    step, *_ = inner_steps(replace(context, text_numbers=numbered_texts(texts)), 1, 0)
    found = inner_loss(student, student.trained(), {"images": images, "texts": texts}, step)
    logits = student(images, texts)
    keep = [[j for j in range(6) if j == i or {i, j} != {1, 4}] for i in range(6)]
    way = [logits[i, i] - torch.logsumexp(logits[i, keep[i]], 0) for i in range(6)]
    back = [logits[i, i] - torch.logsumexp(logits[keep[i], i], 0) for i in range(6)]
    torch.testing.assert_close(found, -(sum(way) + sum(back)) / 12)
    assert not torch.isclose(found, infonce(logits))
    plain, *_ = inner_steps(context_of(bench, "all"), 1, 0)
    torch.testing.assert_close(
        inner_loss(student, student.trained(), {"images": images, "texts": texts}, plain), infonce(logits)
    )


def test_the_outer_loss_leaves_equal_captions_out(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.split("train")
    same = replace(real.data, captions=["one"] * len(real.data))
    monkeypatch.setitem(bench._splits, "train", replace(real, data=same))
    student = bench.student(1)
    found = Bilevel()._outer_loss(student, context_of(bench, "distinct"))(student.trained())
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)  # without negatives there is nothing to tell apart
    plain = Bilevel()._outer_loss(student, context_of(bench, "all"))(student.trained())
    assert float(plain.detach()) > 0.1


def test_students_of_a_set_take_its_negatives(bench: Workbench) -> None:
    method, context = Bilevel(), context_of(bench, "distinct")
    made = method.export(method.setup(start_of(bench), context), context)
    assert made.recipe.negatives == "distinct"
    assert equal_pairs(torch.arange(6), numbered_texts(made.texts)[:, 0]) is None
