"""What every registered method promises on a device that is not the CPU.

The cases are those of ``test_methods.py``; those of single options are ``slow``. The outer loop begins on the CPU,
resumes from its checkpoint on the second device, and ends on the CPU: a run moves both ways, to the same bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ground import Ground
from test_methods import Case, cases, prepare
from tests.device import assert_same, second_device
from tests.strict_device import Wait, Waits

from vldistill.config import SETTINGS
from vldistill.distillation.loop import Loop
from vldistill.distillation.metagrad.inner import ESTIMATORS
from vldistill.distillation.method import METHODS
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.distillation.start import starting_pairs
from vldistill.distillation.written import written
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import Stopped
from vldistill.training.fit import CHECK_STEPS, fit
from vldistill.training.recipe import Recipe

pytestmark = pytest.mark.device
BOTH = Callable[[str], tuple[Ground, Ground]]

LIBRARIES = ("vldistill/encoders/lora.py", "vldistill/encoders/tokens.py", "vldistill/data/augment_batch.py")
"""Where a library waits by itself: peft moves the adapters of a new student one by one, transformers asks in every pass
of a text tower whether anything is padded, and torchvision's RandAugment uploads the matrix of each operation."""

WAITS_IN_STEPS = {"difference"}
"""Estimators that read norms in every inner step, to find how far to go."""


LOOPS: list[dict[str, Any]] = [
    {"clip": 0.01, "clip_of": "all", "ema": 0.5, "negatives": "distinct"},
    {"draws": 2},
    {"pixels": "pyramid"},
    {"pixels": "fourier"},
    {"bases": 3, "base_texts": True},
]
"""Settings of the outer loop, which all methods share."""


def enrolled() -> list[Any]:
    """Every method in every setting, and one of them with every estimator."""
    found = []
    for param in cases():
        setting, case = param.values
        single = param.id == f"{case.name}-{setting}"
        found.append(param if single else pytest.param(*param.values, id=param.id, marks=pytest.mark.slow))
    for estimator in sorted(set(ESTIMATORS) - {BitrajOptions().estimator}):
        options = {"syn_steps": 3, "estimator": estimator}
        found.append(pytest.param("heads", Case("bitraj", options), id=f"bitraj-{estimator}"))
    for loop in LOOPS:
        found.append(pytest.param("heads", Case("bilevel", {"steps": 3}, loop), id=f"bilevel-{'-'.join(loop)}"))
    return found


def distil(ground: Ground, case: Case, folder: Path, iterations: int, last: int, seen: Any = None) -> DistilledSet:
    """Up to iteration ``last`` of ``iterations``; raises Stopped before the end. ``seen`` is called after each."""
    method, context, _ = prepare(ground, case, image_lr=1e-3, text_lr=1e-3, iterations=iterations)

    def stop() -> bool:
        if seen:
            seen()
        return loop.progress.iteration >= last

    shown = written(method, context.config, context.bench.image_tower.size, context.bench.setting)
    loop = Loop(shown, context, folder, lambda found: 0.0, lambda *kept: None, stop)
    return loop.run(starting_pairs(method, context))


@pytest.mark.parametrize(("setting", "case"), enrolled())
def test_a_run_moves_to_another_device_and_back(both_devices: BOTH, setting: str, case: Case, tmp_path: Path) -> None:
    cpu, other = both_devices(setting)
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    trains = METHODS.find(case.name).trains(case.loop.get("space", "pixels"))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wanted = distil(cpu, case, straight, 3, 4)
        if not trains:
            with second_device():
                assert_same(distil(other, case, moved, 3, 4).tensors(), wanted.tensors())
            return
        with pytest.raises(Stopped):
            distil(cpu, case, moved, 3, 1)
        with second_device() as second, pytest.raises(Stopped):
            marks: list[int] = []
            distil(other, case, moved, 3, 3, lambda: marks.append(len(second.waits.found)))
        assert_same(distil(cpu, case, moved, 3, 4).tensors(), wanted.tensors())
    loops = case.options.get("estimator") in WAITS_IN_STEPS or "draws" in case.loop
    if second.exact and not loops:
        assert_no_line_waits_twice(second.waits.found[slice(*marks)])


def assert_no_line_waits_twice(waits: list[Wait]) -> None:
    """In an iteration: a line that does is in a loop over inner steps, or over tensors that could be read together."""
    counted = Counter(str(wait) for wait in waits if not wait.lines[0].startswith(LIBRARIES))
    assert not [f"{count} times: {wait}" for wait, count in counted.items() if count > 1]


TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "weight_decay": 1e-3},
    "distinct": {"negatives": "distinct"},
    "soft": {"loss": "wbce"},
    "noise": {"noise": 0.1},
    "views": {"views": True},
}
"""Changes to a recipe."""


@pytest.mark.parametrize(
    ("setting", "change"),
    [("heads", change) for change in TRAININGS if change != "views"]
    + [
        pytest.param(setting, "views", marks=() if setting == "full" else pytest.mark.slow)
        for setting in sorted(SETTINGS)
        if setting != "heads"
    ],
)
def test_students_and_experts_wait_for_nothing_but_the_check_of_their_loss(
    both_devices: BOTH, setting: str, change: str
) -> None:
    """Epochs of one step, as small sets have: also there the loss is read every CHECK_STEPS steps."""
    rates = {"image": (0.01,), "text": (0.01,)}
    recipe = replace(Recipe(rates, epochs=CHECK_STEPS + 1, batch=4, temperature=0.07), **TRAININGS[change])

    def train(ground: Ground) -> dict[str, torch.Tensor]:
        bench = ground.bench
        data = bench.split("train").data
        if change == "soft":
            data = replace(data, similarity=torch.eye(len(data)).to(bench.device))
        student = bench.student(0)
        marks.append(len(waits.found))
        fit(student, data, recipe, seed=0, device=bench.device, steps_per_epoch=1, compute=bench.compute)
        marks.append(len(waits.found))
        return student.state_dict()

    cpu, other = both_devices(setting)
    waits, marks = Waits(), list[int]()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wanted = train(cpu)
    with second_device() as second:
        waits, marks = second.waits, []
        found = train(other)
        seen = [str(wait) for wait in waits.found[slice(*marks)] if not wait.lines[0].startswith(LIBRARIES)]
        assert_same(found, wanted)
    assert not second.exact or len(seen) <= 2, seen
