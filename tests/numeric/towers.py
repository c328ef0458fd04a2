"""Small inner and outer problems on which the gradient estimators are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vldistill.distillation.metagrad.backward_sweep import Hypergradient, hypergradient
from vldistill.distillation.metagrad.inner import InnerStep
from vldistill.distillation.metagrad.matching import matching_loss

PAIRS, BATCH, STEPS = 6, 4, 5
PIXELS, TEXT_DIM, DIM = 8, 5, 7
LOGIT_SCALE = 5.0


class SmoothConv(nn.Module):
    """A convolution, a strided grouped one, and smooth activations."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
        self.head = nn.Linear(8, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.two(F.silu(self.one(x)))).mean((2, 3)))


class Depthwise(nn.Module):
    """A MobileNet-like block: frozen BatchNorm with trained scale and shift, and kinked activations."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.norm_two = nn.BatchNorm2d(8)
        self.activation = activation()
        self.head = nn.Linear(8, DIM)
        for norm in (self.norm_one, self.norm_two):
            norm.running_mean = torch.randn(8) * 0.2
            norm.running_var = torch.rand(8) + 0.2
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm_one(self.one(x)))
        x = self.activation(self.norm_two(self.two(x)))
        return self.head(x.mean((2, 3)))


class Transformer(nn.Module):
    """Patches, one block of fused attention and an MLP, mean pooling."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.place = nn.Parameter(torch.randn(4, width) * 0.5)
        self.norm_one, self.norm_two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.head = nn.Linear(width, DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        y = self.norm_one(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm_two(x))
        return self.head(x.mean(1))


class TextHead(nn.Module):
    """Linear, GELU, Linear, residual, LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(TEXT_DIM, DIM), nn.Linear(DIM, DIM), nn.LayerNorm(DIM)

    def forward(self, y: Tensor) -> Tensor:
        y = self.one(y)
        return self.norm(y + self.two(F.gelu(y)))


TOWERS: dict[str, Callable[[], nn.Module]] = {
    "smooth": SmoothConv,
    "depthwise": Depthwise,
    "transformer": Transformer,
}


@dataclass(frozen=True)
class Problem:
    """Everything `hypergradient` takes."""

    tower: nn.Module
    head: nn.Module
    start: dict[str, dict[str, Tensor]]
    target: dict[str, dict[str, Tensor]]
    distilled: dict[str, Tensor]
    rates: dict[str, Tensor]
    steps: list[InnerStep]

    def inner_loss(self, params: dict, s: dict[str, Tensor], step: InnerStep) -> Tensor:
        """Soft-label contrastive loss: each side's gradient depends on the other side's parameters."""
        x = functional_call(self.tower, params["image"], (s["images"][step.index],))
        y = functional_call(self.head, params["text"], (s["texts"][step.index],))
        logits = LOGIT_SCALE * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
        similarity = s["similarity"][step.index][:, step.index]
        return -(similarity * (logits.log_softmax(0) + logits.log_softmax(1))).sum() / (2 * len(logits))

    def outer_loss(self, params: dict) -> Tensor:
        """The matching loss to the target."""
        return matching_loss(params, self.start, self.target).value

    def gradient(self, estimator: str = "adjoint", **options) -> Hypergradient:
        """`hypergradient` of this problem."""
        return hypergradient(
            self.inner_loss,
            self.outer_loss,
            self.start,
            self.distilled,
            self.rates,
            self.steps,
            estimator=estimator,
            **options,
        )

    def take(self, steps: int) -> Problem:
        """The same problem with another number of steps (scalar rates only)."""
        return replace(self, steps=make_steps(steps))


def make_steps(count: int) -> list[InnerStep]:
    """Minibatches of 4 of 6 pairs: any two overlap."""
    steps = []
    for t in range(count):
        order = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(t))
        steps.append(InnerStep(t, order[:BATCH], seed=t))
    return steps


def make_problem(
    make_tower: Callable[[], nn.Module],
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    per_step: bool = False,
    count: int = STEPS,
) -> Problem:
    """A problem with two groups of different rates; ``per_step``: (T,) rates for the image side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower, head = make_tower().eval().to(dtype), TextHead().eval().to(dtype)
        start = {
            group: {name: p.detach() for name, p in module.named_parameters()}
            for group, module in (("image", tower), ("text", head))
        }
        target = {
            group: {name: p + 0.1 * torch.randn_like(p) for name, p in tensors.items()}
            for group, tensors in start.items()
        }
        distilled = {
            "images": torch.randn(PAIRS, 3, PIXELS, PIXELS, dtype=dtype),
            "texts": torch.randn(PAIRS, TEXT_DIM, dtype=dtype),
            "similarity": torch.eye(PAIRS, dtype=dtype) + 0.1 * torch.rand(PAIRS, PAIRS, dtype=dtype),
        }
        image_rate = 0.1 + 0.2 * torch.rand(count, dtype=dtype) if per_step else torch.tensor(0.2, dtype=dtype)
        rates = {"image": image_rate, "text": torch.tensor(0.07, dtype=dtype)}
    return Problem(tower, head, start, target, distilled, rates, make_steps(count))


def outputs(result: Hypergradient) -> dict[str, Tensor]:
    """Every number of a result by name."""
    found = {"value": result.value}
    found |= {f"distilled.{name}": tensor for name, tensor in result.distilled.items()}
    found |= {f"rates.{name}": tensor for name, tensor in result.rates.items()}
    found |= {f"{k}.{name}": p for k, group in result.params.items() for name, p in group.items()}
    return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; 0 when both are zero."""
    gap, size = (found - expected).norm().item(), expected.norm().item()
    return 0.0 if gap == 0 else gap / size if size else float("inf")
