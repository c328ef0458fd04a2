"""From one sentence space to another: a ridge regression fitted on training captions.

A set holds sentence vectors of the text tower it was made with. To judge it with another one, both towers encode the
same real captions, and a linear map learnt from these takes the set's vectors across. Nothing of val or test is fitted
but the strength of the regularisation, on val.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from vldistill.config import TextTowerConfig
from vldistill.data.pairs import Pairs
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.build import build_text_tower
from vldistill.encoders.features import FeatureTable, Standardisation, text_encoding
from vldistill.encoders.tower import TextTower
from vldistill.errors import ArtefactError
from vldistill.runtime.randomness import generator
from vldistill.workbench.bench import Workbench

CAPTIONS = 50_000  # training captions that are enough for a linear map of some hundred dimensions
ALPHAS = (1.0, 10.0, 100.0, 1000.0, 10_000.0)


def fit_ridge(
    source: np.ndarray, target: np.ndarray, val_source: np.ndarray, val_target: np.ndarray
) -> tuple[Any, float, float]:
    """The ridge map that explains most of the val vectors.

    Args:
        source: (M, d) vectors of one tower; ``target`` (M, e) of the other, of the same captions.
        val_source: (V, d) likewise, unseen; ``val_target`` (V, e).

    Returns:
        The fitted scikit-learn ``Ridge``, its alpha, and its R2 on val (variance-weighted; 1 is perfect).
    """
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    def fitted(alpha: float) -> tuple[Any, float, float]:
        ridge = Ridge(alpha=alpha).fit(source, target)
        score = r2_score(val_target, ridge.predict(val_source), multioutput="variance_weighted")
        return ridge, alpha, float(score)

    return max(map(fitted, ALPHAS), key=itemgetter(2))


def own_text_tower(distilled: DistilledSet, bench: Workbench) -> TextTower:
    """The text tower that a set was made with. Raises ArtefactError when the set does not say, or it is another now."""
    encoder: Any = distilled.info.get("config", {}).get("encoder", {})
    recorded, wanted = encoder.get("text"), distilled.towers["text"]
    try:
        config = TextTowerConfig(**recorded)
    except TypeError:
        raise ArtefactError(
            f"{distilled.name} does not say how its text tower {wanted['name']!r} is built, so its vectors cannot be "
            f"mapped to another tower. Use the tower it was made with."
        ) from None
    tower = build_text_tower(config, bench.device)
    if tower.fingerprint() != wanted["fingerprint"]:
        raise ArtefactError(
            f"{distilled.name} was made with other weights of text tower {wanted['name']!r} (fingerprint "
            f"{wanted['fingerprint']}, found {tower.fingerprint()}). Restore them, or use the tower it was made with."
        )
    return tower


def mapped_texts(distilled: DistilledSet, bench: Workbench) -> tuple[torch.Tensor, Mapping[str, Any]]:
    """The set's texts in the standardised sentence space of the bench's text tower, (N, e), and what the map is like.

    Raises:
        ArtefactError: the set's own text tower cannot be built again.
    """
    tower = own_text_tower(distilled, bench)
    train, val = (bench.pixels(split).pairs for split in ("train", "val"))

    def vectors(of: TextTower, pairs: Pairs) -> FeatureTable:
        return text_encoding(of, pairs, bench.cache, dtype=bench.data_config.features).table(bench.reporter)

    source = vectors(tower, train)
    mean, scale = (distilled.standardisation.get(f"text_{key}") for key in ("mean", "scale"))
    own = Standardisation(mean, scale) if mean is not None and scale is not None else None
    own = own or Standardisation(torch.zeros(tower.width), torch.ones(tower.width))
    target = vectors(bench.text_tower, train)
    rows = torch.randperm(len(source), generator=generator("ridge", len(source)))[:CAPTIONS]
    ridge, alpha, score = fit_ridge(
        own(source.rows(rows)).numpy(),
        bench.text_standardisation(target.rows(rows)).numpy(),
        own(vectors(tower, val).all()).numpy(),
        bench.text_standardisation(vectors(bench.text_tower, val).all()).numpy(),
    )
    flat = distilled.texts.reshape(-1, distilled.texts.shape[-1]).numpy()
    mapped = torch.from_numpy(ridge.predict(flat).astype(np.float32)).reshape(*distilled.texts.shape[:-1], -1)
    about = {
        "kind": "ridge",
        "from": tower.name,
        "to": bench.text_tower.name,
        "captions": len(rows),
        "alpha": alpha,
        "r2_val": round(score, 4),
    }
    return mapped, about
