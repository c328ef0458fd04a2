"""What a graph keeps is counted, and let go with it; the memory that is left ends where a container's does."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from vldistill.runtime.memory import GraphBytes, available_memory, cgroup_memory


@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_graph_keeps_is_counted_once_and_without_parameters(frozen: bool) -> None:
    layer = nn.Linear(5, 3).requires_grad_(not frozen)
    inputs = torch.randn(7, 5, requires_grad=True)
    kept = GraphBytes()
    with kept:
        _ = layer(inputs).square() + layer(inputs).exp()
    of_weights = 0 if frozen else 4 * 7 * 5  # their gradient needs the inputs: once, though two passes keep them
    assert kept.count == of_weights + 4 * 7 * (3 + 3), "float32: what is squared, what exp gave"


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.Softmax(-1)], ids=lambda kind: type(kind).__name__)
def test_a_graph_that_is_not_used_is_freed(activation: nn.Module) -> None:
    """These keep their own output: a hook that gave it back as it is would close a circle that nobody collects."""
    inputs = torch.randn(4, 8, requires_grad=True)
    with GraphBytes():
        out = activation(inputs * 2)
    alive = weakref.ref(out)
    del out
    gc.collect()
    assert alive() is None


def test_counting_changes_no_gradient() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Softmax(-1))
    inputs = torch.randn(2, 3, 6, 6, requires_grad=True)
    weights = torch.randn(2, 64)
    plain = torch.autograd.grad((network(inputs) * weights).sum(), inputs)[0]
    with GraphBytes():
        out = (network(inputs) * weights).sum()
    assert torch.equal(torch.autograd.grad(out, inputs)[0], plain)


def test_the_tightest_control_group_decides(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    job = root / "jobs" / "7"
    job.mkdir(parents=True)
    assert cgroup_memory(root, own) == math.inf, "not Linux"
    own.write_text("0::/jobs/7\n")
    assert cgroup_memory(root, own) == math.inf, "nothing counts memory"
    for folder, limit, taken in ((job, "max", 10), (job.parent, "1000", 900)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{taken}\n")
        (folder / "memory.stat").write_text("anon 300\ninactive_file 400\n")
    assert cgroup_memory(root, own) == 500, "400 of the 900 are pages of files"
    (job / "memory.max").write_text("60")
    assert cgroup_memory(root, own) == 450
    (job / "memory.current").write_text("9000")
    assert cgroup_memory(root, own) == 0, "never below"


def test_some_memory_is_left_here() -> None:
    assert 0 < available_memory(torch.device("cpu")) <= psutil.virtual_memory().total
