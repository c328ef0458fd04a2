"""The tests' strict device catches what it is there for: every kind of mistake, planted, and nothing that is right."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.device import WANTED, noted_syncs
from tests.strict_device import NAME, StrictDevice, Waits, calling_lines, strict_device
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.skipif(WANTED != "strict", reason="VLDISTILL_TEST_DEVICE is not the strict device")


@pytest.fixture
def strict() -> Iterator[StrictDevice]:
    with strict_device() as device:
        yield device


def here(*shape: int, **options: object) -> torch.Tensor:
    return torch.linspace(-1, 1, int(np.prod(shape)), device="cuda", **options).view(shape)  # pyright: ignore


MIXED: dict[str, Callable[[], object]] = {
    "arithmetic": lambda: here(3) + torch.ones(3),
    "a product": lambda: here(3, 3) @ torch.ones(3, 3),
    "a CPU tensor without dimensions in a product": lambda: torch.dot(here(1), torch.tensor([1.0])),
    "cat": lambda: torch.cat([here(3), torch.ones(3)]),
    "stack": lambda: torch.stack([here(3).sum(), torch.tensor(1.0)]),
    "a CPU mask to where": lambda: torch.where(torch.ones(3, dtype=torch.bool), here(3), 0.0),
    "a CPU mask to masked_fill": lambda: here(3).masked_fill(torch.ones(3, dtype=torch.bool), 0.0),
    "CPU rows of index_select": lambda: here(3).index_select(0, torch.tensor([0])),
    "CPU rows of index_add": lambda: here(3).index_add(0, torch.tensor([0]), here(1)),
    "CPU rows of gather": lambda: here(3).gather(0, torch.tensor([0])),
    "rows of the device into a CPU tensor": lambda: torch.ones(3)[torch.tensor([0], device=NAME)],
    "a scalar of the device beside a CPU tensor": lambda: torch.ones(3) * here(1).sum(),
    "a CPU tensor as the result": lambda: torch.zeros(()).add_(here(1).sum()),
    "CPU weights": lambda: F.linear(here(2, 3), torch.ones(4, 3)),
    "a CPU target": lambda: F.cross_entropy(here(2, 3), torch.tensor([0, 1])),
    "a CPU bias in a convolution": lambda: F.conv2d(here(1, 1, 4, 4), here(1, 1, 3, 3), torch.ones(1)),
    "a CPU gradient": lambda: here(3).requires_grad_().sin().backward(torch.ones(3)),
    "an optimiser's CPU momentum": lambda: torch.zeros(3).mul_(0.9).add_(here(3)),
    "functional calls with CPU parameters": lambda: torch.func.functional_call(
        nn.Linear(3, 2).to(NAME), {"weight": torch.ones(2, 3)}, (here(1, 3),)
    ),
}
"""What CUDA refuses."""


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(strict: StrictDevice, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"device"):
        MIXED[name]()


def test_a_cpu_generator_is_refused(strict: StrictDevice) -> None:
    with pytest.raises(RuntimeError, match="for generator but found 'cpu'"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="for generator but found 'cpu'"):
        here(3).normal_(generator=torch.Generator())


def test_numpy_and_pickles_are_refused(strict: StrictDevice) -> None:
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        here(3).numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        np.asarray(here(3))
    with pytest.raises(NotImplementedError, match="cannot be pickled"):
        copy.copy(here(3))


def test_a_copy_to_the_cpu_that_nobody_waits_for_is_refused(strict: StrictDevice) -> None:
    with pytest.raises(RuntimeError, match="not there until one waits"):
        here(3).to("cpu", non_blocking=True)


def test_a_shape_changes_in_place(strict: StrictDevice) -> None:
    changed = here(2, 3).unsqueeze_(0).transpose_(0, 1)
    assert changed.shape == (2, 1, 3) and (changed + 1).squeeze_(1).tolist() == (here(2, 3) + 1).tolist()


def test_a_tensor_that_leaves_the_context_is_refused() -> None:
    with strict_device():
        left = here(3)
    with pytest.raises(RuntimeError, match="outside of its context"):
        _ = left + 1


RIGHT: dict[str, Callable[[], torch.Tensor]] = {
    "a number": lambda: 2 * here(3) + 1,
    "a CPU tensor without dimensions": lambda: here(3) * torch.tensor(2.0) + torch.tensor(1.0),
    "it first": lambda: torch.tensor(1.0) - here(3),
    "in place": lambda: here(3).mul_(torch.tensor(2.0)),
    "as the other value": lambda: torch.where(here(3) > 0, here(3), torch.tensor(0.0)),
    "as the value of a mask": lambda: here(3).masked_fill(here(3) > 0, torch.tensor(0.0)),
    "a number by index": lambda: _with_item(here(3), 0.5),
    "powers and bounds": lambda: here(3).pow(torch.tensor(2.0)).clamp(max=torch.tensor(0.5)),
    "lerp": lambda: here(3).lerp(here(3), torch.tensor(0.5)),
    "new tensors beside others": lambda: (
        here(3).new_zeros(3) + torch.ones_like(here(3)) + here(3).new_tensor(1.0).dim()
    ),
    "moments of an optimiser": lambda: here(3).mul_(0.9).add_(here(3), alpha=0.1).addcdiv_(here(3), here(3).exp()),
}
"""What CUDA allows, without a wait."""


def _with_item(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor[1:] = value
    return tensor


@pytest.mark.parametrize("name", RIGHT)
def test_what_cuda_allows_passes_without_a_wait(strict: StrictDevice, name: str) -> None:
    found = RIGHT[name]()
    assert found.device == NAME and found.is_cuda and not strict.waits.found


def test_cpu_indices_pass_and_are_an_upload(strict: StrictDevice) -> None:
    rows = torch.tensor([2, 0])
    assert here(3)[rows].tolist() == [1.0, -1.0]
    changed = here(3)
    changed[rows] = torch.tensor(5.0)
    assert [wait.kind for wait in strict.waits.found] == ["upload", "read", "upload"]
    assert changed.tolist() == [5.0, 0.0, 5.0]


WAITS: dict[str, tuple[str, Callable[[], object]]] = {
    "item": ("read", lambda: here(1).item()),
    "float": ("read", lambda: float(here(1).sum())),
    "int": ("read", lambda: int(here(1).sum())),
    "bool": ("read", lambda: bool((here(3) > 0).any())),
    "if": ("read", lambda: 1 if here(3).sum() > 0 else 0),
    "tolist": ("read", lambda: here(3).tolist()),
    "cpu": ("read", lambda: here(3).cpu()),
    "to": ("read", lambda: here(3).to("cpu")),
    "copy_ to the CPU": ("read", lambda: torch.empty(3).copy_(here(3))),
    "equal": ("read", lambda: torch.equal(here(3), here(3))),
    "allclose": ("read", lambda: torch.allclose(here(3), here(3))),
    "a slice by a tensor": ("read", lambda: here(3)[: here(3).long().sum()]),
    "synchronize": ("read", lambda: torch.cuda.synchronize()),
    "nonzero": ("shape", lambda: here(3).nonzero()),
    "a mask": ("shape", lambda: here(3)[here(3) > 0]),
    "setting by a mask": ("shape", lambda: here(3).index_put_((here(3) > 0.5,), here(1))),
    "masked_select": ("shape", lambda: here(3).masked_select(here(3) > 0)),
    "unique": ("shape", lambda: here(3).unique()),
    "bincount": ("shape", lambda: torch.bincount(here(3).long().abs())),
    "to the device": ("upload", lambda: torch.ones(3).to(NAME)),
    "cuda": ("upload", lambda: torch.ones(3).cuda()),
    "a tensor of a list": ("upload", lambda: torch.tensor([1.0, 2.0], device=NAME)),
    "copy_ from the CPU": ("upload", lambda: here(3).copy_(torch.ones(3))),
    "pinned, but blocking": ("upload", lambda: torch.ones(3).pin_memory().to(NAME)),
    "not blocking, but not pinned": ("upload", lambda: torch.ones(3).to(NAME, non_blocking=True)),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_seen_with_its_line(strict: StrictDevice, name: str) -> None:
    kind, planted = WAITS[name]
    planted()
    assert {wait.kind for wait in strict.waits.found} == {kind}
    line = planted.__code__.co_firstlineno
    assert strict.waits.found[0].lines[0] == f"test_strict_device.py:{line}"


def test_a_pinned_copy_is_no_wait(strict: StrictDevice) -> None:
    moved = torch.ones(3).pin_memory().to(NAME, non_blocking=True)
    assert moved.device == NAME and torch.ones(3).pin_memory().is_pinned() and not strict.waits.found


def test_waits_within_a_context(strict: StrictDevice) -> None:
    here(1).item()
    with strict.waits.of() as found:
        here(1).item()
        here(1).tolist()
    assert len(found) == 2 and len(strict.waits.found) == 3


def test_the_line_is_that_of_the_package_where_it_is_called() -> None:
    from vldistill.distillation.guard import not_finite

    with strict_device() as strict:
        assert not not_finite({"{}": {"a": here(3)}})
    assert strict.waits.found and strict.waits.found[0].lines[0].startswith("vldistill/runtime/devices.py:")
    assert strict.waits.found[0].lines[1].startswith("vldistill/distillation/guard.py:")
    assert calling_lines()[0].startswith("test_strict_device.py:")


def test_the_check_of_a_real_gpu_becomes_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with noted_syncs(waits := Waits()):
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
    assert modes == ["warn", 0] and waits.found[0].lines[0].startswith("test_strict_device.py:")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten(), nn.Linear(8, 3))


def trained(device: torch.device) -> tuple[nn.Module, list[torch.Tensor]]:
    """A few steps with momentum, a second derivative, attention and a recomputed pass."""
    model = small_model().to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.linspace(-1, 1, 32).view(2, 1, 4, 4).to(device).requires_grad_()
    for _ in range(2):
        optimiser.zero_grad()
        output = checkpoint(model, inputs, use_reentrant=False)
        (slope,) = torch.autograd.grad(output.square().mean(), inputs, create_graph=True)  # pyright: ignore
        (output.square().mean() + slope.square().sum()).backward()  # pyright: ignore
        optimiser.step()
    query = inputs.view(1, 2, 4, 4)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        attended = F.scaled_dot_product_attention(query, query, query)
    assert inputs.grad is not None
    return model, [inputs.grad, attended]


def test_training_gives_the_bits_of_the_cpu(strict: StrictDevice) -> None:
    model, found = trained(NAME)
    plain, wanted = trained(torch.device("cpu"))
    assert all(parameter.is_cuda and isinstance(parameter, nn.Parameter) for parameter in model.parameters())
    for one, other in zip([*model.state_dict().values(), *found], [*plain.state_dict().values(), *wanted]):
        assert one.device == NAME and torch.equal(one.cpu(), other)
    plain.load_state_dict(model.state_dict())
    again = copy.deepcopy(model)
    again.load_state_dict(small_model().state_dict())
    weights = dict(again.named_parameters())
    assert all(type(weights[name]) is type(p) and isinstance(p, nn.Parameter) for name, p in model.named_parameters())
    assert not torch.equal(weights["0.weight"].cpu(), model.state_dict()["0.weight"].cpu())
    same = next(model.parameters())
    assert next(model.to(NAME).parameters()) is same and same.to("cuda") is same


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # of torch itself, in forward mode
def test_functions_of_functions_give_the_bits_of_the_cpu(strict: StrictDevice) -> None:
    def value(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * torch.arange(3, device=x.device)).square().sum()

    slope = torch.func.grad(value)
    rows = torch.linspace(-1, 1, 6).view(2, 3)

    def all_of(rows: torch.Tensor) -> list[torch.Tensor]:
        whole = torch.func.hessian(value)(rows[0])
        return [torch.func.vmap(slope)(rows), whole, *torch.func.jvp(slope, (rows[0],), (rows[1],))]

    for found, wanted in zip(all_of(rows.to(NAME)), all_of(rows)):
        assert torch.equal(found.cpu(), wanted)


def test_the_device_has_random_numbers_of_its_own(strict: StrictDevice) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    state = torch.cuda.get_rng_state()
    first = torch.randn(4, device=NAME)
    assert torch.equal(torch.get_rng_state(), before)
    torch.cuda.set_rng_state(state)
    dropped = F.dropout(torch.ones(8, device=NAME), 0.5)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.randn(4, device=NAME).cpu(), first.cpu())
    torch.cuda.set_rng_state(state)
    assert torch.equal(F.dropout(torch.ones(8, device=NAME), 0.5).cpu(), dropped.cpu())
    torch.manual_seed(5)
    assert torch.equal(first.cpu(), torch.randn(4))


def test_nothing_of_it_stayed() -> None:
    with strict_device():
        pass
    assert "to" not in vars(torch.Tensor) and not torch.cuda.is_initialized()
    assert not torch._C._only_lift_cpu_tensors()
