"""The reader of drawn scenes."""

from __future__ import annotations

from vldistill.data.account import Account
from vldistill.data.collection import Collection
from vldistill.data.reader import reader
from vldistill.data.scenes import SceneImages, caption_scene, draw_splits, parse_options


@reader("scenes", matches=lambda source: source == "scenes" or source.startswith("scenes:"))
def read(source: str) -> Collection:
    """The word scenes, or scenes:seed=0,train=3000,val=500,test=500: captioned drawings, made on the spot."""
    seed, counts = parse_options(source)
    scenes, splits = [], []
    for split, chosen in draw_splits(seed, counts).items():
        scenes += chosen
        splits += [split] * len(chosen)
    account = Account("scenes", sum(counts.values()), len(scenes))
    images = SceneImages(tuple(scenes))
    return Collection(source, images, [caption_scene(scene) for scene in scenes], splits, accounts=(account,))
