from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import DISTILL, Stub, make_loop, start_of

from vldistill.config import DistillConfig
from vldistill.distillation.averaging import averaged_update, check_draws
from vldistill.distillation.metagrad.backward_sweep import NonFiniteError
from vldistill.distillation.method import METHODS, Context
from vldistill.distillation.methods.bitraj import BitrajOptions
from vldistill.errors import ConfigError
from vldistill.experts.trajectory import Trajectory
from vldistill.options.resolve import resolve_distill
from vldistill.runtime.processes import ALONE, Processes
from vldistill.workbench.bench import Workbench


def context(bench: Workbench, experts: list[Trajectory], draws: int) -> Context[Any]:
    return Context(
        bench, resolve_distill(replace(DISTILL, draws=draws), bench.setting), BitrajOptions(syn_steps=2), experts
    )


def test_the_first_draw_is_what_a_single_one_would_be_and_the_others_differ(bench: Workbench) -> None:
    here = context(bench, [], 2).at(3)
    assert here.at(3, 0).seed_of("x") == here.seed_of("x")
    seeds = {here.at(3, draw).seed_of("x") for draw in range(10)}
    assert len(seeds) == 10 and here.at(3, 2).at(3).draw == 0
    first, second = (torch.rand(3, generator=here.at(3, draw).generator("y")) for draw in (1, 2))
    assert not torch.equal(first, second)


def test_an_update_is_the_mean_over_its_draws(bench: Workbench, experts: list[Trajectory]) -> None:
    method: Any = METHODS.find("bitraj").build()
    one, three = context(bench, experts, 1).at(5), context(bench, experts, 3).at(5)
    state = method.setup(start_of(bench), one)
    single = [method.step(state, one.at(5, draw)) for draw in range(3)]
    found = averaged_update(method, state, three, ALONE)
    for name, gradient in found.gradients.items():
        expected = torch.stack([update.gradients[name].double() for update in single]).mean(0)
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-7)
    assert found.value == pytest.approx(sum(update.value for update in single) / 3)
    assert found.logs.keys() == single[0].logs.keys()
    alone = averaged_update(method, state, one, ALONE)
    assert all(torch.equal(alone.gradients[name], single[0].gradients[name]) for name in alone.gradients)


def test_one_draw_that_is_not_finite_undoes_the_step(bench: Workbench, tmp_path: Path) -> None:
    class Once(Stub):
        """Fails in the second draw of iteration 2."""

        def step(self, state: Any, context: Context) -> Any:
            if (context.iteration, context.draw) == (2, 1):
                raise NonFiniteError("the outer loss is nan")
            return super().step(state, context)

    config = replace(DISTILL, draws=2, iterations=4)
    loop = make_loop(bench, [], tmp_path, config, method=Once())
    loop.run(start_of(bench, config))
    assert loop.progress.undone == 1 and loop.progress.scale == 0.5 and loop.progress.iteration == 4


def test_draws_are_shared_evenly_or_refused() -> None:
    check_draws(4, Processes(0, 2))
    check_draws(1, ALONE)
    with pytest.raises(ConfigError, match=r"distill\.draws is 6, but torchrun started 4 .*--distill\.draws 8"):
        check_draws(6, Processes(0, 4))
    with pytest.raises(ConfigError, match=r"distill\.draws is 0; expected 1 or more"):
        DistillConfig(method="bitraj", draws=0)
