"""Distil image-caption data sets into a few hundred synthetic pairs, and measure honestly what they train.

    import vldistill as vd
    pairs = vd.distill("photos/", pairs=100)
    print(vd.evaluate(pairs, seeds=3))
    student = pairs.train()
    student.search("a dog on the beach", "photos/", top=5)

Names are imported when first used, so that ``import vldistill`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vldistill.version import __version__

_HOMES = {
    "Classification": "vldistill.api.found",
    "Comparison": "vldistill.api.comparison",
    "Config": "vldistill.config",
    "DistilledSet": "vldistill.api.sets",
    "DualEncoder": "vldistill.encoders.dual",
    "Evaluation": "vldistill.api.evaluations",
    "Pairs": "vldistill.data.pairs",
    "Recipe": "vldistill.training.recipe",
    "SearchResult": "vldistill.api.found",
    "Student": "vldistill.api.student",
    "Trajectory": "vldistill.experts.trajectory",
    "VldistillError": "vldistill.errors",
    "Workbench": "vldistill.workbench.bench",
    "bce": "vldistill.training.losses",
    "compare": "vldistill.api.comparison",
    "distill": "vldistill.api.verbs",
    "evaluate": "vldistill.api.verbs",
    "evaluate_set": "vldistill.evaluation.protocol",
    "hypergradient": "vldistill.distillation.metagrad.backward_sweep",
    "image_tower": "vldistill.api.towers",
    "infonce": "vldistill.training.losses",
    "inspect": "vldistill.api.verbs",
    "load_pairs": "vldistill.data.load",
    "matching_loss": "vldistill.distillation.metagrad.matching",
    "record_experts": "vldistill.api.verbs",
    "report": "vldistill.api.verbs",
    "retrieval_metrics": "vldistill.evaluation.retrieval",
    "select": "vldistill.api.verbs",
    "siglip": "vldistill.training.losses",
    "soft_infonce": "vldistill.training.losses",
    "text_tower": "vldistill.api.towers",
    "wbce": "vldistill.training.losses",
}

__all__ = ["__version__", *sorted(_HOMES)]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from vldistill.api.comparison import Comparison as Comparison
    from vldistill.api.comparison import compare as compare
    from vldistill.api.evaluations import Evaluation as Evaluation
    from vldistill.api.found import Classification as Classification
    from vldistill.api.found import SearchResult as SearchResult
    from vldistill.api.sets import DistilledSet as DistilledSet
    from vldistill.api.student import Student as Student
    from vldistill.api.towers import image_tower as image_tower
    from vldistill.api.towers import text_tower as text_tower
    from vldistill.api.verbs import distill as distill
    from vldistill.api.verbs import evaluate as evaluate
    from vldistill.api.verbs import inspect as inspect
    from vldistill.api.verbs import record_experts as record_experts
    from vldistill.api.verbs import report as report
    from vldistill.api.verbs import select as select
    from vldistill.config import Config as Config
    from vldistill.data.load import load_pairs as load_pairs
    from vldistill.data.pairs import Pairs as Pairs
    from vldistill.distillation.metagrad.backward_sweep import hypergradient as hypergradient
    from vldistill.distillation.metagrad.matching import matching_loss as matching_loss
    from vldistill.encoders.dual import DualEncoder as DualEncoder
    from vldistill.errors import VldistillError as VldistillError
    from vldistill.evaluation.protocol import evaluate_set as evaluate_set
    from vldistill.evaluation.retrieval import retrieval_metrics as retrieval_metrics
    from vldistill.experts.trajectory import Trajectory as Trajectory
    from vldistill.training.losses import bce as bce
    from vldistill.training.losses import infonce as infonce
    from vldistill.training.losses import siglip as siglip
    from vldistill.training.losses import soft_infonce as soft_infonce
    from vldistill.training.losses import wbce as wbce
    from vldistill.training.recipe import Recipe as Recipe
    from vldistill.workbench.bench import Workbench as Workbench


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vldistill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
