"""What every method is given: a tiny workbench in each setting, and two experts on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from ground import Ground
from tests.device import second_device

from tiny_bert import write_bert
from vldistill.config import DataConfig, EncoderConfig, ExpertsConfig, ImageTowerConfig, LoraConfig, TextTowerConfig
from vldistill.experts.record import record_experts
from vldistill.runtime.log import Reporter
from vldistill.workbench.bench import Workbench


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def grounds(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ground]:
    """``grounds(setting)``: made once, in whatever order the tests ask."""

    @lru_cache
    def make(setting: str) -> Ground:
        text = TextTowerConfig(name="hashing", width=32)
        if setting == "both":  # a text tower that can be trained
            folder = write_bert(tmp_path_factory.mktemp("bert"))
            text = TextTowerConfig(name=str(folder), pooling="mean", max_tokens=12)
        encoder = EncoderConfig(
            setting=setting,
            image=ImageTowerConfig(name="convnet", weights="random", size=16, options={"width": 8}),
            text=text,
            dim=16,
            lora=LoraConfig(patterns=("layers.*",), rank=2),
        )
        data = DataConfig(source="scenes:train=40,val=20,test=20", cache=str(cache))
        bench = Workbench(data, encoder, torch.device("cpu"), Reporter(quiet=True))
        if setting == "both":  # its methods need no experts
            return Ground(bench, [])
        config = ExpertsConfig(count=2, epochs=3, batch=64, image_rate=0.05, augment=False)
        return Ground(bench, record_experts(bench, config, tmp_path_factory.mktemp("experts")))

    return make


@pytest.fixture(scope="session")
def both_devices(grounds: Callable[[str], Ground]) -> Callable[[str], tuple[Ground, Ground]]:
    """``both_devices(setting)``: the same ground on the CPU and on the second device.

    On the CPU the image tower has the memory format that it has on a GPU: it decides the last bit of sums.
    """

    @lru_cache
    def make(setting: str) -> tuple[Ground, Ground]:
        ground = grounds(setting)

        def on(device: torch.device) -> Ground:
            own = ground.bench
            bench = Workbench(own.data_config, own.encoder_config, device, own.reporter, augment_on="device")
            return Ground(bench, ground.experts)

        with second_device() as second:
            other = on(second.device)
        plain = on(torch.device("cpu"))
        for tower in (plain.bench.image_tower, plain.bench.encoding_tower):
            tower.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return plain, other

    return make


@pytest.fixture
def ground(request: pytest.FixtureRequest, grounds: Callable[[str], Ground]) -> Ground:
    return grounds(request.param)
