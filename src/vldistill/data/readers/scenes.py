"""The reader of drawn scenes."""

from __future__ import annotations

import numpy as np

from vldistill.data.account import Account
from vldistill.data.classes import Classes
from vldistill.data.collection import Collection
from vldistill.data.reader import reader
from vldistill.data.scenes import (
    CLASS_VIEWS,
    ClassScenes,
    Scene,
    SceneImages,
    caption_scene,
    class_view,
    draw_splits,
    parse_options,
)


@reader("scenes", matches=lambda source: source == "scenes" or source.startswith("scenes:"))
def read(source: str) -> Collection:
    """The word scenes, or scenes:seed=0,train=3000,val=500,test=500: captioned drawings, made on the spot.

    ``scenes:classes=shape`` (or ``colour``) draws one object of each scene alone: its shape or colour is the class.
    """
    view, options = class_view(source)
    seed, counts = parse_options(options)
    scenes, splits = [], []
    for split, chosen in draw_splits(seed, counts).items():
        scenes += chosen
        splits += [split] * len(chosen)
    account = Account("scenes", sum(counts.values()), len(scenes))
    if view:
        return _classes(source, view, scenes, splits, account)
    images = SceneImages(tuple(scenes))
    return Collection(source, images, [caption_scene(scene) for scene in scenes], splits, accounts=(account,))


def _classes(source: str, view: str, scenes: list[Scene], splits: list[str], account: Account) -> Collection:
    """The class set of a view."""
    names, prompt = CLASS_VIEWS[view]
    labels = np.array([names.index(getattr(scene.first, view)) for scene in scenes], np.int64)
    classes = Classes(names, labels, (prompt,), source)
    images, about = ClassScenes(tuple(scenes)), {"format": "drawn objects", "classes": list(names)}
    return Collection(source, images, classes.captions(), splits, about=about, accounts=(account,), classes=classes)
