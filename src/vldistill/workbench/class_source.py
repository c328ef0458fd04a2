"""What is said and refused of a source that has classes, or should have."""

from __future__ import annotations

from dataclasses import replace

from vldistill.config import DataConfig
from vldistill.data.collection import Collection, clean_caption
from vldistill.data.pairs import Pairs
from vldistill.errors import ConfigError
from vldistill.runtime.log import Reporter


def check_and_say(found: Collection, config: DataConfig, reporter: Reporter) -> None:
    """Report how a class set is trained and chosen by. Raises ConfigError for prompts of a source without classes."""
    if found.classes is not None:
        reporter.info(
            f"{config.source} has {len(found.classes)} classes: pairs of one class are no negatives of each other "
            f"(negatives: distinct), and val chooses by zero-shot top-1"
        )
    elif config.prompts:
        raise ConfigError(
            f"data.prompts is {list(config.prompts)}, but {config.source} has captions and no classes. Leave it out, "
            f"or give a class set, such as classes:PATH."
        )


def prompted(found: Collection, config: DataConfig) -> Collection:
    """The collection with its captions, of classes by prompts, as configured. Raises DataError for equal prompts."""
    found = replace(found.prompted(config.prompts), clean=config.clean_captions)
    if found.classes is not None and found.clean:
        found.classes.check_cleaned(clean_caption)
    return found


def check_trained(pairs: Pairs) -> None:
    """Refuse a training split without an image of some class. Raises DataError."""
    if pairs.split == "train" and pairs.classes is not None:
        pairs.classes.check_trained()
