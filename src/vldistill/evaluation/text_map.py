"""From one sentence space to another: a ridge regression fitted on training captions.

A set holds sentence vectors of the text tower it was made with. To evaluate it with another one, both towers
encode the same real captions, and a linear map fitted on these maps the set's vectors. Only the strength of the
regularisation is chosen on val; test is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch

from vldistill.config import TextTowerConfig
from vldistill.config.plain import Record, section
from vldistill.data.pairs import Pairs
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.build import build_text_tower
from vldistill.encoders.features import FeatureTable, Standardisation, text_encoding
from vldistill.encoders.tower import TextTower
from vldistill.errors import ArtefactError
from vldistill.runtime.randomness import generator
from vldistill.workbench.bench import Workbench

if TYPE_CHECKING:
    from sklearn.linear_model import Ridge

CAPTIONS = 50_000  # training captions that are enough for a linear map of some hundred dimensions
ALPHAS = (1.0, 10.0, 100.0, 1000.0, 10_000.0)


def fit_ridge(
    source: np.ndarray, target: np.ndarray, val_source: np.ndarray, val_target: np.ndarray
) -> tuple[Ridge, float, float]:
    """The ridge map that explains most of the val vectors.

    Args:
        source: (M, d) vectors of one tower; ``target`` (M, e) of the other, of the same captions.
        val_source: (V, d) also, of captions of val; ``val_target`` (V, e).

    Returns:
        The fitted scikit-learn ``Ridge``, its alpha, and its R2 on val (variance-weighted; 1 is perfect).
    """
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    def fitted(alpha: float) -> tuple[Ridge, float, float]:
        ridge = Ridge(alpha=alpha).fit(source, target)
        score = r2_score(val_target, ridge.predict(val_source), multioutput="variance_weighted")
        return ridge, alpha, float(score)

    return max(map(fitted, ALPHAS), key=itemgetter(2))


def _recorded_config(make: Callable[..., TextTowerConfig], recorded: Record) -> TextTowerConfig | None:
    try:
        return make(**recorded) if recorded else None
    except TypeError:
        return None


def own_text_tower(distilled: DistilledSet, bench: Workbench) -> TextTower:
    """The text tower that a set was made with. Raises ArtefactError if it is not recorded, or its weights changed."""
    recorded, wanted = section(section(section(distilled.info, "config"), "encoder"), "text"), distilled.towers["text"]
    config = _recorded_config(TextTowerConfig, recorded)
    if config is None:
        raise ArtefactError(
            f"{distilled.name} does not record how its text tower {wanted['name']!r} is built, so its vectors cannot "
            f"be mapped to another tower. Use the tower it was made with."
        )
    tower = build_text_tower(config, bench.device)
    if tower.fingerprint() != wanted["fingerprint"]:
        raise ArtefactError(
            f"{distilled.name} was made with other weights of text tower {wanted['name']!r} (fingerprint "
            f"{wanted['fingerprint']}, found {tower.fingerprint()}). Restore them, or use the tower it was made with."
        )
    return tower


def mapped_texts(distilled: DistilledSet, bench: Workbench) -> tuple[torch.Tensor, Record]:
    """The set's texts in the standardised sentence space of the bench's text tower, (N, e), and a note on the map.

    Raises:
        ArtefactError: the set's own text tower cannot be rebuilt.
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
