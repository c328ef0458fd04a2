"""Parameter copies on disk change nothing, are cleaned up, and activation memory is flat in T."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from towers import TOWERS, Problem, make_problem, outputs

from vldistill.distillation.metagrad import tape as tape_module
from vldistill.distillation.metagrad.tape import Tape, TapeStorage, tape_bytes
from vldistill.errors import ConfigError


@pytest.mark.parametrize("estimator", ["adjoint", "tesla", "difference"])
@pytest.mark.parametrize("copies", [0, 2.5], ids=["all on disk", "partly"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_tape_on_disk_gives_the_same_bits(estimator: str, copies: float, dtype: torch.dtype, tmp_path: Path) -> None:
    problem = make_problem(TOWERS["smooth"], dtype=dtype)
    options = {} if estimator == "tesla" else {"momentum": 0.9, "weight_decay": 0.02}
    storage = TapeStorage(int(copies * tape_bytes(problem.start, 0)), tmp_path)
    expected = outputs(problem.gradient(estimator, **options))
    for name, tensor in outputs(problem.gradient(estimator, storage=storage, **options)).items():
        assert torch.equal(tensor, expected[name]), name
    assert not list(tmp_path.iterdir())


def test_the_file_is_gone_after_an_error(tmp_path: Path) -> None:
    problem = make_problem(TOWERS["smooth"])
    calls = []

    def inner(params: dict, s: dict, step) -> Tensor:
        calls.append(step.t)
        if len(calls) == 7:  # the forward run, and then the backward sweep's second graph
            raise KeyboardInterrupt
        return Problem.inner_loss(problem, params, s, step)

    object.__setattr__(problem, "inner_loss", inner)
    with pytest.raises(KeyboardInterrupt):
        problem.gradient(storage=TapeStorage(0, tmp_path))
    assert calls == [0, 1, 2, 3, 4, 3, 2]
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_unlinked_while_mapped_goes_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, refused = Path.unlink, []

    def refuse_once(path: Path, missing_ok: bool = False) -> None:
        if not refused:
            refused.append(path)
            raise PermissionError(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse_once)
    with Tape(TapeStorage(0, tmp_path), entry_bytes=8, entries=1) as tape:
        tape.push([torch.ones(2)])
        assert len(list(tmp_path.iterdir())) == 1
        assert torch.equal(tape.pop()[0], torch.ones(2))
    assert not list(tmp_path.iterdir())


def test_mixed_dtypes_and_odd_shapes_survive_the_file(tmp_path: Path) -> None:
    entries = [
        [torch.full((3,), t, dtype=torch.bfloat16), torch.tensor(0.5 + t), torch.full((0, 2), 1.0), torch.rand(5, 2).T]
        for t in range(3)
    ]
    with Tape(TapeStorage(0, tmp_path), entry_bytes=50, entries=3) as tape:
        for entry in entries:
            tape.push(entry)
        for entry in reversed(entries):
            for found, expected in zip(tape.pop(), entry, strict=True):
                assert found.dtype == expected.dtype
                assert torch.equal(found, expected)


def test_no_room_and_no_folder_are_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(TOWERS["smooth"])
    with pytest.raises(ConfigError, match=r"missing.* does not exist"):
        problem.gradient(storage=TapeStorage(0, tmp_path / "missing"))
    monkeypatch.setattr(tape_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(ConfigError, match=r"bytes of parameter copies do not fit.*10 bytes free"):
        problem.gradient(storage=TapeStorage(0, tmp_path))
    with pytest.raises(ConfigError, match="memory_bytes=-1"):
        TapeStorage(-1)


def test_tape_bytes_counts_every_copy() -> None:
    start = {"image": {"a": torch.zeros(3, 2)}, "text": {"b": torch.zeros(4, dtype=torch.float64)}}
    one = 3 * 2 * 4 + 4 * 8
    assert tape_bytes(start, 8) == 9 * one
    assert tape_bytes(start, 8, momentum=0.9) == 17 * one


class _Saved:
    """A tensor that autograd keeps for a backward pass, seen from outside."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def most_saved_bytes(problem: Problem, estimator: str) -> int:
    """The most bytes that autograd held at once during one call."""
    now = most = 0

    def drop(size: int) -> None:
        nonlocal now
        now -= size

    def pack(tensor: Tensor) -> _Saved:
        nonlocal now, most
        saved = _Saved(tensor)
        size = tensor.numel() * tensor.element_size()
        now += size
        most = max(most, now)
        weakref.finalize(saved, drop, size)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        problem.gradient(estimator)
    return most


FLAT = [(tower, estimator) for tower in TOWERS for estimator in ("adjoint", "tesla", "difference")]
FLAT.remove(("depthwise", "difference"))  # refused there


@pytest.mark.parametrize(("tower", "estimator"), FLAT)
def test_activation_memory_is_flat_in_the_number_of_steps(tower: str, estimator: str) -> None:
    problem = make_problem(TOWERS[tower])
    assert most_saved_bytes(problem.take(12), estimator) == most_saved_bytes(problem.take(4), estimator)


def test_activation_memory_of_unrolled_is_not() -> None:
    """So the count above counts what it should."""
    problem = make_problem(TOWERS["smooth"])
    four, twelve = (most_saved_bytes(problem.take(steps), "unrolled") for steps in (4, 12))
    assert 2.5 < twelve / four < 3.5
    assert most_saved_bytes(problem.take(4), "adjoint") < 0.4 * four
