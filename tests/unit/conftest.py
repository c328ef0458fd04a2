"""What tests of towers, features, training and experts share: small towers, made on the spot, and a workbench."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from tiny import make_bench, make_experts

from vldistill.config import DataConfig, EncoderConfig, ImageTowerConfig, TextTowerConfig
from vldistill.experts.trajectory import Trajectory
from vldistill.runtime.log import Reporter
from vldistill.workbench.bench import Workbench

SCENES = "scenes:train=40,val=20,test=20"
CONVNET = ImageTowerConfig(name="convnet", weights="random", size=16, options={"width": 8})
HASHING = TextTowerConfig(name="hashing", width=32)

Bench = Callable[..., Workbench]


class Listener(Reporter):
    """Keeps what the user would have been told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.warned: list[str] = []

    def info(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)


@pytest.fixture
def listener() -> Listener:
    """A reporter that keeps its messages in ``said`` and ``warned``."""
    return Listener()


@pytest.fixture
def workbench(tmp_path: Path, listener: Listener) -> Bench:
    """``workbench(setting, image=..., text=..., **encoder)``: forty scenes, a tiny convnet and hashed words."""

    def make(
        setting: str = "heads",
        *,
        image: ImageTowerConfig = CONVNET,
        text: TextTowerConfig = HASHING,
        source: str = SCENES,
        dim: int = 16,
        views: int = 0,
        features: Literal["float32", "float16"] = "float32",
        clean_captions: bool = False,
        **encoder: Any,
    ) -> Workbench:
        data = DataConfig(
            source=source, cache=str(tmp_path / "cache"), views=views, features=features, clean_captions=clean_captions
        )
        config = EncoderConfig(setting=setting, image=image, text=text, dim=dim, **encoder)
        return Workbench(data, config, torch.device("cpu"), listener)

    return make


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """Forty drawn scenes and heads, one for a module of tests."""
    return make_bench(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def experts(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> list[Trajectory]:
    """Two experts on ``bench``."""
    return make_experts(bench, tmp_path_factory.mktemp("experts"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub: loading from it fails at once, as it does after a long wait without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def untouched_generator() -> Iterator[None]:
    """Torch's global generator has to be afterwards as it was before."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


def random_weights(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fill parameters and buffers with numbers that a fresh network would not have; statistics stay positive."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=draw), alpha=0.05)
    return model.eval()


@pytest.fixture(scope="session")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """``timm_file(name)``: a timm network with its classifier, and the safetensors file of its weights."""
    import timm

    made: dict[str, tuple[Any, Path]] = {}

    def make(name: str) -> tuple[Any, Path]:
        if name not in made:
            path = tmp_path_factory.mktemp("weights") / f"{name}.safetensors"
            model = random_weights(timm.create_model(name))
            save_file(model.state_dict(), path)
            made[name] = model, path
        return made[name]

    return make
