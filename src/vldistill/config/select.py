"""How real pairs are chosen: lists, filters, deduplication, a selector, quotas."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.config.checks import check_fields, positive, require
from vldistill.config.former import later
from vldistill.errors import ConfigError, unknown

PIPELINE = ("preset", "filters", "deduplicate", "columns", "only", "include", "exclude", "quota_by", "quotas")
"""Options of what comes before and around the selector; it is skipped where none is given."""
FILES = ("columns", "only", "include", "exclude")
"""Those of them that name a file."""
IDS = ("csv", "parquet", "npy", "wds", "img2dataset")
SPLITS = ("val", "test")
MATCH = "match:"  # begins a method that names its set: match:runs/a/sets/b


@dataclass(frozen=True)
class SelectConfig:
    """How real pairs are chosen: for ``select``, ``evaluate --set SELECTOR:N`` and ``distill.start SELECTOR``.

    Args:
        method: the selector of ``vldistill select``; see ``vldistill ls selectors``. ``match:SET`` is ``match`` with
            the folder of a distilled set.
        pairs: number of pairs it chooses, all of distinct images.
        seed: of the selectors that draw; the others choose the same pairs with any seed.
        warmup_epochs: passes over all captions of the student whose space, or whose forgetting, is used.
        warmup_image_rate: SGD rate of its image side (constant, without momentum, decay and augmentation). Lower it
            where a trained tower diverges in the warm-up.
        warmup_text_rate: SGD rate of its text side.
        ground_set: pairs of distinct images that ``facility`` draws, to cover them and to choose among them.
        cluster_sample: most pairs that the centres of ``kmeans`` are fitted to.
        preset: filters by a name, before those of ``filters``: ``datacomp_basic``.
        filters: conditions that pairs have to meet, in this order: ``words>=3``, ``aspect=..3``, ``score=top30%``,
            ``language=en``; see ``vldistill ls filters``, or a column of ``columns``.
        deduplicate: detectors of duplicates after the filters, with a threshold if it is another than the usual one:
            ``exact``, ``near=4``, ``embedding=0.95``, ``semantic``, ``caption``; see ``vldistill ls duplicates``.
        across: other splits whose photos are duplicates too: a training photo that is also in one of them is left out.
        columns: a csv, tsv, jsonl or parquet file with a column ``image`` and others, for filters, quotas and ids.
        only: a file with the names of the images to choose among.
        include: a file with the names of images that are always chosen, whatever filters say.
        exclude: a file with the names of images that are never chosen.
        quota_by: a column of ``columns``, or ``class``, by whose values pairs are shared out; as many of each value
            where ``quotas`` is empty.
        quotas: pairs by value: ``city=40`` or ``city=25%``; values that are not named share the rest.
        budgets: smaller numbers of pairs to write sets of too; each is the beginning of the next larger one.
        ids: lists of what was chosen to write: csv, parquet, npy (DataComp's sorted uids), wds (keys of WebDataset
            samples), img2dataset.
        weigh: write ``weights.csv`` too: a weight of every training caption, for ``data.weights``.
        match: the folder of a distilled set, for ``match``.
        learn_steps: outer steps of ``learned``, each the training of a student on weighted pairs, after its choice in
            closed form; 0 keeps that choice, which did better on Flickr8k.
        learn_pool: times as many candidates as pairs whose weights ``learned`` learns.
        learn_cap: largest weight of a pair in ``learned``, in those of the mean pair: soft, approached and not reached.
    """

    method: str = "herding"
    pairs: int = 100
    seed: int = 0
    warmup_epochs: int = 5
    warmup_image_rate: float = 0.1
    warmup_text_rate: float = 0.1
    ground_set: int = 20_000
    cluster_sample: int = 50_000
    preset: str = later("", neutral="")
    filters: tuple[str, ...] = later((), neutral=())
    deduplicate: tuple[str, ...] = later((), neutral=())
    across: tuple[str, ...] = later(SPLITS, neutral=SPLITS)
    columns: str = later("", neutral="")
    only: str = later("", neutral="")
    include: str = later("", neutral="")
    exclude: str = later("", neutral="")
    quota_by: str = later("", neutral="")
    quotas: tuple[str, ...] = later((), neutral=())
    budgets: tuple[int, ...] = later((), neutral=())
    ids: tuple[str, ...] = later((), neutral=())
    weigh: bool = later(False, neutral=False)
    match: str = later("", neutral="")
    learn_steps: int = later(0, neutral=0)
    learn_pool: float = later(4.0, neutral=4.0)
    learn_cap: float = later(3.0, neutral=3.0)

    def __post_init__(self) -> None:
        check_fields(self, "select")
        names = ("warmup_epochs", "warmup_image_rate", "warmup_text_rate", "ground_set", "cluster_sample")
        positive(self, "select", *names)
        require(self.pairs >= 2, "select.pairs", self.pairs, "at least 2 pairs")
        if self.method.startswith(MATCH):
            object.__setattr__(self, "match", self.method.removeprefix(MATCH))
            object.__setattr__(self, "method", "match")
        self._check_new()

    def _check_new(self) -> None:
        require(self.learn_steps >= 0, "select.learn_steps", self.learn_steps, "0 or more")
        require(self.learn_pool >= 1, "select.learn_pool", self.learn_pool, "1 or more")
        require(self.learn_cap > 1, "select.learn_cap", self.learn_cap, "more than 1, the mean weight")
        for budget in self.budgets:
            require(2 <= budget < self.pairs, "select.budgets", budget, f"2 pairs to {self.pairs - 1}")
        require(len({*self.budgets}) == len(self.budgets), "select.budgets", self.budgets, "each number once")
        for option, known in (("across", SPLITS), ("ids", IDS)):
            if wrong := next((one for one in getattr(self, option) if one not in known), None):
                raise ConfigError(unknown(f"select.{option}", wrong, known))
