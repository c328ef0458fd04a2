"""How selectors choose real pairs."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.config.checks import check_fields, positive, require


@dataclass(frozen=True)
class SelectConfig:
    """How selectors choose real pairs: for ``select``, ``evaluate --set SELECTOR:N`` and ``distill.start SELECTOR``.

    Args:
        method: the selector of ``vldistill select``; see ``vldistill ls selectors``.
        pairs: number of pairs it chooses, all of distinct images.
        seed: of the selectors that draw; the others choose the same pairs with any seed.
        warmup_epochs: passes over all captions of the student whose space, or whose forgetting, is used.
        warmup_image_rate: SGD rate of its image side (constant, without momentum, decay and augmentation). Lower it
            where a trained tower diverges in the warm-up.
        warmup_text_rate: SGD rate of its text side.
        ground_set: pairs of distinct images that ``facility`` draws, to cover them and to choose among them.
        cluster_sample: most pairs that the centres of ``kmeans`` are fitted to.
    """

    method: str = "herding"
    pairs: int = 100
    seed: int = 0
    warmup_epochs: int = 5
    warmup_image_rate: float = 0.1
    warmup_text_rate: float = 0.1
    ground_set: int = 20_000
    cluster_sample: int = 50_000

    def __post_init__(self) -> None:
        check_fields(self, "select")
        names = ("warmup_epochs", "warmup_image_rate", "warmup_text_rate", "ground_set", "cluster_sample")
        positive(self, "select", *names)
        require(self.pairs >= 2, "select.pairs", self.pairs, "at least 2 pairs")
