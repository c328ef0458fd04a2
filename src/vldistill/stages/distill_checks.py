"""What `distill` refuses before long work starts."""

from __future__ import annotations

from vldistill.distillation.method import METHODS
from vldistill.errors import ConfigError


def check_setting(name: str, setting: str) -> None:
    """Refuse a setting that the method ``name`` has no meaning in. Raises ConfigError."""
    allowed = METHODS.find(name).settings
    if setting not in allowed:
        raise ConfigError(
            f"method {name} works in setting {' or '.join(sorted(allowed))}, not {setting}. Set encoder.setting, with "
            f"experts of that setting if it needs any, or choose another method (vldistill ls methods)."
        )


def check_captions(name: str, count: int) -> None:
    """Refuse several texts for each image where the method ``name`` has no place for them. Raises ConfigError."""
    if count > 1 and not METHODS.find(name).several_captions:
        able = [known for known, entry in METHODS.items() if entry.several_captions]
        raise ConfigError(
            f"distill.captions is {count}, but {name} learns one text for each image. Use 1, or {' or '.join(able)}."
        )
