from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Bench
from vldistill.config import RuntimeConfig
from vldistill.encoders.dual import DualEncoder, Head, with_head
from vldistill.errors import ConfigError, MemoryShortError
from vldistill.runtime.devices import augments_on, choose_compute
from vldistill.runtime.micro_batches import FLOAT32, ComputeOptions, is_short_of_memory
from vldistill.runtime.processes import ALONE, merged_logs
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.losses import infonce
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import PixelInputs, TensorInputs
from vldistill.training.stepper import Stepper, embed_in_parts

CPU = torch.device("cpu")
Gradients = dict[str, Tensor]


class Tower(nn.Module):
    """A small network with a nonlinearity; refuses more inputs than ``room`` at a time."""

    def __init__(self, room: int = 10**9, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 5)
        self.room, self.error, self.sizes = room, error, list[int]()

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        if len(inputs) > self.room:
            raise self.error("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")
        return self.second(torch.nn.functional.gelu(self.first(inputs)))


def encoder(kind: str, **tower: Any) -> DualEncoder:
    """An encoder as in setting ``full`` (a tower alone beside a head) or ``both`` (towers with heads), with dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "full":
            return DualEncoder(Tower(**tower), Head(4, 5, 0.2), 5.0).double()
        image, text = with_head(Tower(**tower), Head(5, 7, 0.2)), with_head(Tower(**tower), Head(5, 7, 0.2))
        return DualEncoder(image, text, 5.0).double()


def batch(kind: str, count: int = 11) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    width = 4 if kind == "full" else 6
    return tuple(torch.randn(count, w, generator=draw, dtype=torch.float64) for w in (6, width))  # pyright: ignore


def gradients(model: DualEncoder, stepper: Stepper, kind: str) -> tuple[Tensor, Gradients]:
    images, texts = batch(kind)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # of the dropout
        loss = stepper.backward(images, texts, len(images), infonce)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reference(kind: str) -> tuple[Tensor, Gradients]:
    """By the encoder itself."""
    model = encoder(kind).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        loss = infonce(model(*batch(kind)))
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(left: tuple[Tensor, Gradients], right: tuple[Tensor, Gradients]) -> None:
    assert left[1].keys() == right[1].keys()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["full", "both"])
def test_by_default_a_pass_is_the_encoders_own_to_the_bit(kind: str) -> None:
    model = encoder(kind)
    loss, found = gradients(model, Stepper(model), kind)
    expected, theirs = reference(kind)
    assert torch.equal(loss, expected) and all(torch.equal(found[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("size", [1, 4, 10, 11, 50])
@pytest.mark.parametrize("kind", ["full", "both"])
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(kind: str, size: int) -> None:
    model = encoder(kind)
    close(gradients(model, Stepper(model, ComputeOptions(micro_batch=size)), kind), reference(kind))
    tower = model.image if kind == "full" else model.image.get_submodule("tower")
    assert isinstance(tower, Tower) and max(tower.sizes) <= size


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("kind", ["full", "both"])
def test_short_memory_halves_the_parts_until_they_fit(kind: str, error: type[RuntimeError]) -> None:
    model = encoder(kind, room=3, error=error)
    stepper = Stepper(model)
    close(gradients(model, stepper, kind), reference(kind))
    assert stepper.sides.micro_batch == 3  # 11, 6, 3
    close(gradients(model, stepper, kind), reference(kind))  # and stays so


def test_what_never_fits_is_told_with_the_remedy_and_other_errors_pass() -> None:
    model = encoder("full", room=0)
    with pytest.raises(MemoryShortError, match=r"too little memory for a training step.*Use a smaller encoder\.image"):
        gradients(model, Stepper(model), "full")
    assert all(p.grad is None for p in model.parameters())
    heads = DualEncoder(Head(6, 5), Head(4, 5), 5.0).double()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        gradients(heads, Stepper(heads), "both")
    assert not is_short_of_memory(ValueError("out of memory")) and is_short_of_memory(RuntimeError("MPS out of memory"))


def test_a_processor_that_has_no_room_says_so_in_words_that_are_known() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_short_of_memory(told.value), told.value


def test_training_with_short_memory_ends_where_plenty_would_have(workbench: Bench) -> None:
    def trained(room: int) -> dict[str, Tensor]:
        model = encoder("full", room=room).float()
        draw = torch.Generator().manual_seed(2)
        images, texts = torch.randn(40, 6, generator=draw), torch.randn(40, 4, generator=draw)
        data = TrainingData(TensorInputs(images), TensorInputs(texts), torch.arange(40))
        fit(model, data, Recipe(epochs=3, batch=16), seed=0, device=CPU)
        return {name: p.detach() for name, p in model.named_parameters()}

    torch.testing.assert_close(trained(5), trained(100), rtol=1e-4, atol=1e-5)


def test_embeddings_for_testing_come_in_parts_when_memory_is_short() -> None:
    model = encoder("full", room=4).eval()
    images, _ = batch("full")
    whole = embed_in_parts(encoder("full").eval(), "image", images)
    torch.testing.assert_close(embed_in_parts(model, "image", images), whole)
    with pytest.raises(MemoryShortError, match=r"too little memory for one input of shape \(6,\)"):
        embed_in_parts(encoder("full", room=0).eval(), "image", images)


def test_bfloat16_changes_digits_and_keeps_weights_logits_and_losses_in_float32() -> None:
    images, texts = (part.float() for part in batch("full"))
    model, same = encoder("full").float().eval(), encoder("full").float().eval()
    seen: list[torch.dtype] = []

    def loss(logits: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return infonce(logits)

    coarse = Stepper(model, ComputeOptions("bfloat16")).backward(images, texts, 11, loss)
    fine = Stepper(same, FLOAT32).backward(images, texts, 11, loss)
    assert seen == [torch.float32] * 2 and coarse.dtype == torch.float32
    assert 0 < abs(float(coarse - fine)) < 0.05 * float(fine)
    assert all(p.dtype == torch.float32 and p.grad is not None for p in model.parameters())
    a, b = (torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (model, same))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999
    unit = embed_in_parts(model, "image", images, ComputeOptions("bfloat16")).norm(dim=1)
    torch.testing.assert_close(unit, torch.ones(11), rtol=0, atol=1e-6)


def test_the_cpu_stays_in_float32_and_augments_by_pillow_unless_asked() -> None:
    assert choose_compute(RuntimeConfig(), CPU) == FLOAT32 and augments_on(RuntimeConfig(), CPU) == "cpu"
    assert augments_on(RuntimeConfig(), torch.device("cuda")) == "device"
    asked = RuntimeConfig(precision="bfloat16", compile=True, micro_batch=3)
    assert choose_compute(asked, CPU) == ComputeOptions("bfloat16", True, 3)
    with pytest.raises(ConfigError, match=r"runtime\.micro_batch is -1"):
        RuntimeConfig(micro_batch=-1)


@pytest.mark.slow
def test_a_compiled_tower_gives_the_same_gradients() -> None:
    model = encoder("full")
    close(gradients(model, Stepper(model, ComputeOptions(compiled=True)), "full"), reference("full"))


def test_images_are_channels_last_through_the_whole_tower(workbench: Bench) -> None:
    tower = workbench("full").image_tower
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    rows = PixelInputs(images, tower, CPU).rows(torch.arange(4))
    assert rows.is_contiguous(memory_format=torch.channels_last) and not rows.is_contiguous()
    seen: list[bool] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append(out.is_contiguous(memory_format=torch.channels_last))

    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    tower(rows)
    assert seen and all(seen)


def test_batches_are_augmented_on_the_device_where_that_is_asked_for(workbench: Bench) -> None:
    tower = workbench("full").image_tower
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    here, there = PixelInputs(images, tower, CPU), PixelInputs(images, tower, CPU, "device")
    index = torch.arange(6)
    assert torch.equal(here.rows(index), there.rows(index))
    assert torch.equal(there.rows(index, 5), there.rows(index, 5))
    assert not torch.equal(there.rows(index, 5), here.rows(index, 5))


def test_means_over_draws_and_logs() -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 5, generator=draw) for _ in range(4)]
    assert ALONE.mean(tensors[:1]) is tensors[0]
    torch.testing.assert_close(ALONE.mean(tensors), torch.stack(tensors).mean(0))
    assert merged_logs([{"a": 1.0, "b": 4.0}, {"a": 3.0}]) == {"a": 2.0, "b": 4.0}
    assert ALONE.gather({"x": 1}) == [{"x": 1}] and ALONE.any(True) and not ALONE.any(False)
