"""One step of a dual encoder: forward, loss and backward, in micro-batches and over several processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vldistill.encoders.dual import SIDES, DualEncoder, Head
from vldistill.errors import MemoryShortError
from vldistill.runtime.compiled import Compiled
from vldistill.runtime.memory import memory_limit
from vldistill.runtime.micro_batches import (
    FLOAT32,
    ComputeOptions,
    free_memory,
    heads_too_large,
    in_parts,
    is_short_of_memory,
)
from vldistill.runtime.processes import ALONE, Processes
from vldistill.runtime.shapes import rows_that_fit

PASS_SHARE = 0.5  # of what ``runtime.max_memory`` has left: for a pass of a tower, there and back
Loss = Callable[[Tensor], Tensor]
"""The loss of logits (B, B)."""


class Sides(nn.Module):
    """Both sides of an encoder as one module: embeddings of a batch, trained towers in micro-batches.

    Args:
        encoder: its modules are shared, not copied.
        compute: precision, compilation and micro-batches.
        device: where the encoder is.
    """

    def __init__(self, encoder: DualEncoder, compute: ComputeOptions, device: torch.device) -> None:
        super().__init__()
        self.encoder, self.compute, self.device = encoder, compute, device
        self.micro_batch = compute.micro_batch
        self.towers: dict[str, Callable[[Tensor], Tensor]] = {}
        for side in SIDES:
            tower = _tower(encoder, side)
            if tower is not None:
                self.towers[side] = Compiled(tower, compute.tell) if compute.compiled else tower

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised embeddings (B, D) of images and texts."""
        with self.compute.autocast(self.device):
            return self._embed("image", images), self._embed("text", texts)

    def _embed(self, side: str, inputs: Tensor) -> Tensor:
        module = self.encoder.side(side)
        if side not in self.towers:
            out = module(inputs)
        else:
            out = self._features(self.towers[side], inputs)
            out = module.get_submodule("head")(out) if _has_head(module) else out
        return F.normalize(out if self.compute.precision == "float32" else out.float(), dim=-1)

    def _features(self, tower: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """A tower's features of ``inputs``; micro-batches are checkpointed: backward recomputes their activations."""
        if not 0 < self.micro_batch < len(inputs):
            return tower(inputs)
        split = inputs.split(self.micro_batch)
        if isinstance(tower, Compiled):
            for part in split:
                tower.prepare(part)
        parts = [checkpoint(tower, part, use_reentrant=False) for part in split]
        return torch.cat(parts)  # pyright: ignore

    def fit_memory(self, images: Tensor, texts: Tensor) -> None:
        """Take micro-batches that fit in ``runtime.max_memory``, where it is given and no size is."""
        if self.micro_batch or not memory_limit(self.device):
            return
        fitting = [
            rows_that_fit(tower, inputs, PASS_SHARE, back=True)
            for side, inputs in zip(SIDES, (images, texts))
            if (tower := _tower(self.encoder, side)) is not None
        ]
        if fitting and min(fitting) < len(images):
            self.micro_batch = min(fitting)

    def halve(self, batch: int) -> bool:
        """Halve the micro-batches from now on; false if they cannot be halved."""
        size = min(self.micro_batch or batch, batch)
        if not self.towers or size < 2:
            return False
        self.micro_batch = (size + 1) // 2
        return True


def _has_head(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and hasattr(module, "head") and hasattr(module, "tower")


def _tower(encoder: DualEncoder, side: str) -> nn.Module | None:
    """The trained tower of a side, without its head; None if the side is a head alone."""
    module = encoder.side(side)
    if isinstance(module, Head):
        return None
    return module.get_submodule("tower") if _has_head(module) else module


class Stepper:
    """Computes the gradient of a contrastive loss over a batch.

    Args:
        encoder: receives the gradients.
        compute: precision, compilation and micro-batches.
        device: where the encoder is; None is the CPU.
        processes: share every batch: each embeds its part, and all compute the loss of the whole batch.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        compute: ComputeOptions = FLOAT32,
        device: torch.device | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.encoder, self.processes = encoder, processes
        self.device = device or torch.device("cpu")
        self.sides = Sides(encoder, compute, self.device)
        self.plain = compute == FLOAT32 and processes.size == 1
        self.model: nn.Module = self.sides
        if processes.size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self.model = nn.parallel.DistributedDataParallel(self.sides, devices)

    def rows(self, index: Tensor) -> Tensor:
        """This process's rows of a batch; all of them if there are too few to share."""
        if not self._shared(len(index)):
            return index
        return index.tensor_split(self.processes.size)[self.processes.rank]

    def _shared(self, batch: int) -> bool:
        return self.processes.size > 1 and batch >= 2 * self.processes.size

    def backward(self, images: Tensor, texts: Tensor, batch: int, loss: Loss) -> Tensor:
        """Compute the loss of the whole batch and leave its gradients in the encoder.

        When the device has too little memory for a tower's activations, the micro-batches are halved and the pass is
        repeated with the same random numbers.

        Args:
            images: image inputs of this process's rows.
            texts: text inputs of this process's rows.
            batch: number of rows of the whole batch.
            loss: function of the logits (B, B) of the whole batch.

        Raises:
            MemoryShortError: even one input at a time needs too much memory.
        """
        self.sides.fit_memory(images, texts)
        while True:
            random = _random_state(self.device) if self.sides.towers else None
            self.encoder.zero_grad(set_to_none=True)
            try:
                value = self._value(images, texts, batch, loss)
                (value * (self.processes.size if self._shared(batch) else 1)).backward()
                return value.detach()
            except RuntimeError as error:
                if not is_short_of_memory(error) or self.processes.size > 1:
                    raise
            value = None
            if random is None:
                raise heads_too_large(self.device, batch)
            if not self.sides.halve(len(images)):
                raise MemoryShortError(
                    f"{self.device} has too little memory for a training step, even with one input at a time in the "
                    f"tower. Use a smaller encoder.image.size, or another tower or device."
                )
            self.encoder.zero_grad(set_to_none=True)
            free_memory(self.device)
            _set_random_state(self.device, random)

    def _value(self, images: Tensor, texts: Tensor, batch: int, loss: Loss) -> Tensor:
        if self.plain and not self.sides.micro_batch:
            return loss(self.encoder(images, texts))
        embedded = self.model(images, texts)
        if self._shared(batch):
            embedded = tuple(_gathered(part, batch, self.processes) for part in embedded)
        return loss(self.encoder.logits(*embedded))


def _gathered(own: Tensor, batch: int, processes: Processes) -> Tensor:
    """The embeddings of all ranks (batch, D); gradients flow only to this rank's rows."""
    sizes = [len(part) for part in torch.arange(batch).tensor_split(processes.size)]
    parts = processes.gather_rows(own, sizes)
    parts[processes.rank] = own
    return torch.cat(parts)


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


def embed_in_parts(encoder: DualEncoder, side: str, inputs: Tensor, compute: ComputeOptions = FLOAT32) -> Tensor:
    """Embeddings (B, D) for testing, float32; in smaller parts if memory is short. Raises MemoryShortError."""

    def embed(part: Tensor) -> Tensor:
        if compute.precision == "float32":
            return encoder.embed(side, part)
        with compute.autocast(part.device):
            out = encoder.side(side)(part)
        return F.normalize(out.float(), dim=-1)

    fitting = rows_that_fit(encoder.side(side), inputs, PASS_SHARE, back=False)
    return in_parts(embed, inputs, min(compute.micro_batch or fitting, fitting))
