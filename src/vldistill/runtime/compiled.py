"""``torch.compile`` that may fail: what cannot be compiled here is computed as it is, and said once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vldistill.runtime.micro_batches import is_short_of_memory

FIRST = 200  # characters of a compiler's message that are told


class Compiled:
    """A module through ``torch.compile``, and the module itself from the first failure on.

    A compiler fails when it is run: at a new shape, on the way back too. So every kind of input is tried once, there
    and back, before its first result is used; random numbers are drawn as if it had not been.

    Args:
        module: from a tensor to a tensor.
        tell: given the one line about a failure.
    """

    def __init__(self, module: nn.Module, tell: Callable[[str], None]) -> None:
        self._module, self._tell = module, tell
        self._known = set[tuple[object, ...]]()
        self._compiled: Callable[[Tensor], Tensor] | None = None
        try:
            self._compiled = torch.compile(module)  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:  # no compiler for this Python or system
            self._give_up(error)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The module's outputs."""
        self.prepare(inputs)
        return self._module(inputs) if self._compiled is None else self._compiled(inputs)

    def prepare(self, inputs: Tensor) -> None:
        """Compile for inputs of this kind, if that was not done; before a pass whose graph is watched by others."""
        if self._compiled is not None and (kind := self._kind(inputs)) not in self._known:
            self._try(self._compiled, inputs)
            self._known.add(kind)

    def _kind(self, inputs: Tensor) -> tuple[object, ...]:
        """What a compiler makes new code for."""
        lowered = torch.is_autocast_enabled(inputs.device.type)
        return inputs.shape, inputs.dtype, self._module.training, torch.is_grad_enabled(), lowered

    def _try(self, compiled: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        """One pass there and, where gradients are asked for, back. Raises what a lack of memory raises."""
        devices = [] if inputs.device.type == "cpu" else [inputs.device]
        wanted = [weight for weight in self._module.parameters() if weight.requires_grad]
        try:
            with torch.random.fork_rng(devices, device_type=inputs.device.type if devices else "cuda"):
                out = compiled(inputs)
                if out.requires_grad and wanted:
                    torch.autograd.grad(out.float().sum(), wanted, allow_unused=True)
        except Exception as error:
            if is_short_of_memory(error):
                raise
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._compiled = None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0][:FIRST]}" if lines else type(error).__name__
        self._tell(f"torch.compile failed and is left out ({reason})")
