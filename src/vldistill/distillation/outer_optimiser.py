"""The outer optimiser: one torch optimiser per learned tensor, so that its state is kept by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from vldistill.config import ResolvedDistillConfig
from vldistill.distillation.method import State
from vldistill.runtime.devices import fetched

FIXED = {"both": "", "image": "text_lr", "text": "image_lr"}  # by distill.learn, the rate of what stays as it is
RATE_BOUNDS = (1e-6, 1e6)  # of learned student rates: beyond, one wild gradient would end at 0 or infinity


class OuterOptimiser:
    """Applies gradients by variable name.

    Args:
        state: of the method; its learned tensors are updated in place.
        config: rates, optimiser, clipping and decay.
    """

    def __init__(self, state: State, config: ResolvedDistillConfig) -> None:
        self.variables, self.config = state.variables, config
        self.kinds = {name: state.rate_of(name) for name in state.variables}
        self.rates = {name: _rate(name, kind, config) for name, kind in self.kinds.items()}
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        for name, variable in self.variables.items():
            if config.optimiser == "sgd":
                self.optimisers[name] = torch.optim.SGD([variable], lr=self.rates[name], momentum=config.momentum)
            else:
                self.optimisers[name] = torch.optim.Adam([variable], lr=self.rates[name])

    def apply(self, gradients: Mapping[str, torch.Tensor], progress: float, scale: float) -> None:
        """One update of every learned variable with a gradient.

        Args:
            progress: part of the iterations that is done, 0 to 1; the rates decay with it.
            scale: multiplies all rates.
        """
        factor = scale * decay_factor(self.config.decay, progress)
        fixed = FIXED[self.config.learn]
        for name, gradient in self._clipped({n: g for n, g in gradients.items() if self.kinds[n] != fixed}).items():
            variable = self.variables[name]
            optimiser = self.optimisers[name]
            optimiser.param_groups[0]["lr"] = self.rates[name] * factor
            variable.grad = gradient.to(variable)
            optimiser.step()
            variable.grad = None
            if self.kinds[name] == "rate_lr":
                variable.clamp_(math.log(RATE_BOUNDS[0]), math.log(RATE_BOUNDS[1]))

    def _clipped(self, gradients: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The gradients, each or all of them together no longer than ``distill.clip``."""
        most = self.config.clip
        if not most or not gradients:
            return gradients
        norms = {name: gradient.norm() for name, gradient in gradients.items()}
        if self.config.clip_of == "all":
            joint = torch.stack(fetched([norm.float() for norm in norms.values()])).norm()
            norms = dict.fromkeys(norms, joint)
        return {name: gradient * (most / norms[name].clamp(min=most)) for name, gradient in gradients.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Moments and step counts as ``name/key``."""
        out: dict[str, torch.Tensor] = {}
        for name, optimiser in self.optimisers.items():
            for key, value in optimiser.state[self.variables[name]].items():
                if value is not None:
                    out[f"{name}/{key}"] = torch.as_tensor(value)
        return out

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The opposite of :meth:`state_dict`; variables without an entry start afresh."""
        for name, optimiser in self.optimisers.items():
            variable = self.variables[name]
            own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
            optimiser.state.pop(variable, None)
            if own:
                optimiser.state[variable] = {
                    # torch keeps step counts on the CPU and moments beside the variable
                    key: value.to("cpu" if key == "step" else variable.device, copy=True)
                    for key, value in own.items()
                }


def decay_factor(decay: str, progress: float) -> float:
    """The part of the outer rates that is left when ``progress`` (0 to 1) of the iterations are done."""
    if decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0 - progress if decay == "linear" else 1.0


def _rate(name: str, rate: str, config: ResolvedDistillConfig) -> float:
    """The outer rate of a variable; ``rate`` names it."""
    if rate == "rate_lr" and config.optimiser == "sgd":
        # Published: eta <- eta - lr d/d eta. On the logarithm, the first such step has this length.
        start = config.student_rate_image if "image" in name else config.student_rate_text
        return config.rate_lr / start**2
    return getattr(config, rate)
