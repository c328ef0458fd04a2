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
        warmup_batch: pairs per step of the warm-up.
        warmup_image_rate: SGD rate of its image side (constant, without momentum, decay and augmentation).
        warmup_text_rate: SGD rate of its text side likewise.
        warmup_seed: of its weights, order and galleries; one warm-up serves all seeds and selectors.
        gallery: pairs among which a pair has to be found to count as learned (``forgetting``).
        ground_set: pairs of distinct images that ``facility`` draws, to cover them and to choose among them.
        cluster_sample: most pairs that the centres of ``kmeans`` are fitted to.
    """

    method: str = "herding"
    pairs: int = 100
    seed: int = 0
    warmup_epochs: int = 5
    warmup_batch: int = 128
    warmup_image_rate: float = 0.1
    warmup_text_rate: float = 0.1
    warmup_seed: int = 0
    gallery: int = 128
    ground_set: int = 20_000
    cluster_sample: int = 50_000

    def __post_init__(self) -> None:
        check_fields(self, "select")
        names = ("warmup_epochs", "warmup_image_rate", "warmup_text_rate", "ground_set", "cluster_sample")
        positive(self, "select", *names)
        for name in ("pairs", "warmup_batch", "gallery"):
            require(getattr(self, name) >= 2, f"select.{name}", getattr(self, name), "at least 2 pairs")
