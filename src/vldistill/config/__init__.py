"""What a user can set, one frozen dataclass per stage. Nothing here imports torch.

Paths and names may hold ``${VARIABLE}`` or ``${VARIABLE:-default}``; they are expanded when used,
so a saved configuration stays valid on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from typing import Any

from vldistill.config.checks import check_fields, expand
from vldistill.config.data import DataConfig
from vldistill.config.distill import DistillConfig, Outer, ResolvedDistillConfig
from vldistill.config.encoder import SETTINGS, EncoderConfig, ImageTowerConfig, LoraConfig, TextTowerConfig
from vldistill.config.evaluate import PROTOCOLS, EvaluateConfig
from vldistill.config.experts import ExpertsConfig
from vldistill.config.runtime import RuntimeConfig
from vldistill.config.select import SelectConfig
from vldistill.errors import ConfigError

__all__ = [
    "PROTOCOLS",
    "SETTINGS",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "ExpertsConfig",
    "ImageTowerConfig",
    "LoraConfig",
    "Outer",
    "ResolvedDistillConfig",
    "RuntimeConfig",
    "SelectConfig",
    "TextTowerConfig",
    "expand",
]


@dataclass(frozen=True)
class Config:
    """All options of a run; ``methods`` holds each method's own options by name."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    methods: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "configuration")
        for name, options in self.methods.items():
            if is_dataclass(options):
                check_fields(options, name)
        if self.experts.noise and self.encoder.setting != "heads":
            raise ConfigError(
                f"experts.noise is {self.experts.noise}, which is added to the features of frozen towers; setting "
                f"{self.encoder.setting} trains on images. Use 0, or setting heads."
            )
