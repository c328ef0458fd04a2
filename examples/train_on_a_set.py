"""Train a student on a distilled set in plain PyTorch, rank real photos and captions with it, and keep its weights.

    python examples/train_on_a_set.py runs/mine/sets/bilevel-100-s0 photos/ student.safetensors "a dog on the beach"

For sets of setting ``heads`` that `vldistill distill` or `select` made: they say their towers and their recipe. Of the
real data only the test split is read, to be ranked. docs/training.md tells what is behind every line.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from vldistill import DistilledSet, DualEncoder, Recipe, load_pairs, retrieval_metrics
from vldistill.data.transforms import to_float
from vldistill.encoders.build import build_image_tower, build_text_tower
from vldistill.encoders.dual import SIDES, Head
from vldistill.options.merge import resolved
from vldistill.training.losses import SOFT_LOSSES, infonce
from vldistill.training.steps import steps_in


def batches(count: int, recipe: Recipe, several: int) -> Iterator[torch.Tensor]:
    """Rows of the pairs of every step: phase after phase, in a new order each time, one text of an image in a step."""
    for phase in torch.arange(count).split(list(recipe.phases) or count):
        for turn in range(recipe.epochs * several):
            index = phase[torch.randperm(len(phase))] + turn % several * count
            yield from (part for part in index.split(recipe.batch) if len(part) > 1)  # one pair has no contrast


def train(student: DualEncoder, images: torch.Tensor, texts: torch.Tensor, pairs: DistilledSet) -> None:
    """Train two heads on standardised features of the pairs by the recipe that the set carries."""
    recipe, several = pairs.recipe, pairs.captions_per_image
    steps = steps_in(len(texts), recipe, blocks=several)
    if recipe.schedule == "half" and recipe.phases:  # half of the first phase; later ones go on at a tenth
        steps = steps_in(recipe.phases[0], replace(recipe, phases=()))
    sides = [{"params": student.side(side).parameters(), "side": side} for side in SIDES]
    optimiser = torch.optim.SGD(sides, lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    scale = 1 / recipe.temperature if recipe.temperature else student.logit_scale
    student.train()
    for step, index in enumerate(batches(len(pairs), recipe, several)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(group["side"], step, steps)
        logits = scale * student.embed("image", images[index]) @ student.embed("text", texts[index]).T
        if pairs.similarity is not None and recipe.loss in SOFT_LOSSES:
            loss = SOFT_LOSSES[recipe.loss](logits, pairs.similarity[index][:, index])
        else:
            loss = infonce(logits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    student.eval()


def main(folder: str, source: str, out: str, *questions: str) -> None:
    """Train, rank the test split of ``source``, answer, and save."""
    pairs = DistilledSet.load(folder)
    if pairs.setting != "heads" or "config" not in pairs.info:
        raise SystemExit(f"{folder}: expected a set of setting heads that `vldistill distill` made.")
    encoder = resolved({"encoder": pairs.info["config"]["encoder"]}, folder).encoder
    image_tower, text_tower = build_image_tower(encoder.image), build_text_tower(encoder.text, torch.device("cpu"))
    for side, tower in zip(SIDES, (image_tower, text_tower)):
        if tower.fingerprint() != pairs.towers[side]["fingerprint"]:
            raise SystemExit(f"{folder}: {tower.name} has other weights here than when the set was made.")
    known = pairs.standardisation

    def image_features(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = torch.cat([image_tower(part) for part in images.split(64)])
        return (features - known["image_mean"]) / known["image_scale"]

    def text_features(captions: list[str]) -> torch.Tensor:
        return (text_tower.encode(captions) - known["text_mean"]) / known["text_scale"]

    size, mean, std = image_tower.size, image_tower.mean, image_tower.std
    images = pairs.images if pairs.space == "features" else image_features(pairs.images_for(size, mean, std))
    texts = pairs.texts  # standardised already, as are images in space features
    if pairs.captions_per_image > 1:  # (N, C, d): the first text of every image, then the second, ...
        images, texts = images.repeat(pairs.captions_per_image, 1), texts.transpose(0, 1).flatten(0, 1)
    torch.manual_seed(0)
    heads = (Head(tower.width, encoder.dim, pairs.recipe.dropout) for tower in (image_tower, text_tower))
    student = DualEncoder(*heads, logit_scale=1 / encoder.temperature)
    train(student, images, texts, pairs)

    real = load_pairs(source, "test")
    photos = (real.images.read(row, size) for row in range(len(real.images)))
    pixels = np.stack([np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC)) for photo in photos])
    inputs = to_float(torch.from_numpy(pixels).permute(0, 3, 1, 2), mean, std)
    with torch.no_grad():
        gallery = student.embed("image", image_features(inputs))
        captions = student.embed("text", text_features(real.captions))
        print(retrieval_metrics(gallery, captions, torch.tensor(real.caption_image)).to_json())
        for question in questions:
            scores = gallery @ student.embed("text", text_features([question]))[0]
            print(question, [real.images.names[index] for index in scores.topk(min(5, len(scores))).indices.tolist()])
    save_file({**student.state_dict(), **known}, out)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
