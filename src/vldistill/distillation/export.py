"""What a method learned, as a distilled set."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from vldistill.config import DistillConfig
from vldistill.config.plain import Plain
from vldistill.distillation.method import Context, State
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench


def _made_for(bench: Workbench, size: int) -> dict[str, dict[str, Plain]]:
    """The towers of a set, with the side of its images where that is not the tower's."""
    towers = bench.towers
    if size and size != bench.image_tower.size:
        towers["image"]["stored_size"] = size
    return towers


def export_set(state: State, context: Context, recipe: Recipe, similarity: torch.Tensor | None = None) -> DistilledSet:
    """The learned tensors as a distilled set, with the (N, N) similarity they give if one is learned."""
    bench, config = context.bench, context.config
    return DistilledSet(
        images=state.variables["images"].detach().cpu().clone(),
        texts=state.variables["texts"].detach().cpu().clone(),
        recipe=replace(recipe, negatives=context.negatives),
        towers=_made_for(bench, config.size),
        setting=bench.setting,
        space=config.space,
        similarity=None if similarity is None else similarity.detach().cpu().clone(),
        text_mask=state.carried["text_mask"].cpu().clone() if bench.setting == "both" else None,
        standardisation=bench.standardisation,
        info={
            "name": set_name(config),
            "method": config.method,
            "seed": config.seed,
            "iteration": context.iteration,
            "similarity_floats": sum(v.numel() for n, v in state.variables.items() if n.startswith("similarity")),
            "data": bench.pixels("train").pairs.fingerprint,
            "source": bench.data_config.source,
            **({"sides": list(bench.data_config.sides)} if bench.data_config.sides else {}),
            "config": {
                "encoder": asdict(bench.encoder_config),
                "distill": asdict(config),
                config.method: asdict(context.options),
            },
            "versions": bench.versions,
        },
    )


def set_name(config: DistillConfig) -> str:
    """The folder name of a set: method, pairs, seed, and the label if there is one."""
    return f"{config.method}-{config.pairs}-s{config.seed}" + (f"-{config.label}" if config.label else "")
