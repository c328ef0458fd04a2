"""The warm-up: a student trained for a few epochs on the real pairs, its embeddings, and which pairs it forgot.

It is the costly part of most selectors, so it is cached: ``herding:100`` and ``kcenter:200`` share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from vldistill.config import SelectConfig
from vldistill.config.plain import Plain, Record, expect
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import ArtefactError, DivergedError, Stopped
from vldistill.runtime.interrupts import deferred_stop
from vldistill.runtime.micro_batches import ComputeOptions
from vldistill.runtime.randomness import generator, seed_of
from vldistill.selection.features import PairFeatures
from vldistill.storage.arrays import open_array, write_array
from vldistill.storage.files import digest, require_space, write_record
from vldistill.storage.locks import held
from vldistill.training.data import TrainingData
from vldistill.training.fit import fit
from vldistill.training.recipe import Recipe
from vldistill.training.resume import SAVE_SECONDS, FileKeeper, clear_leftovers
from vldistill.training.state import Tensors
from vldistill.training.stepper import embed_in_parts
from vldistill.training.steps import steps_in
from vldistill.version import __version__
from vldistill.workbench.bench import Workbench

FORMAT = 1
ARRAYS = ("images", "texts", "forgotten")
"""Normalised embeddings (N, D) and (M, D) float16, and how often each pair was forgotten, (M,) int64."""
NOTE = "note.json"  # written last: a folder without it is not finished
BATCH = 256  # rows embedded at a time
STEP = 128  # pairs per step of the warm-up
SEED = 0  # of weights, order and galleries: all seeds and selectors share one warm-up
GALLERY = 128  # size of the galleries in which a pair must be found to count as learned


def warmup_recipe(options: SelectConfig) -> Recipe:
    """The recipe of the warm-up, as for experts: plain SGD at a constant rate."""
    return Recipe(
        rates={"image": (options.warmup_image_rate,), "text": (options.warmup_text_rate,)},
        epochs=options.warmup_epochs,
        batch=STEP,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        dropout=0.0,
    )


def warm_up(bench: Workbench, image_captions: Sequence[np.ndarray], options: SelectConfig) -> Path:
    """The folder with the :data:`ARRAYS` of this data, encoder and options: from the cache, or trained now.

    Raises:
        DivergedError: the student's loss is not finite.
        Stopped: on Ctrl-C or SIGTERM, after the training is saved.
    """
    recipe = replace(warmup_recipe(options), negatives=bench.negatives("all"))
    key: dict[str, Plain] = {
        "format": FORMAT,
        "data": bench.pixels("train").pairs.fingerprint,
        "encoder": bench.fingerprint,
        "recipe": recipe.to_dict(),
        "seed": SEED,
        "gallery": GALLERY,
    }
    if bench.compute.precision != "float32":
        key["precision"] = bench.compute.precision
    folder = bench.cache / "warm-ups" / digest(key)
    place, lock = folder / "unfinished", folder / ".lock"
    if _whole(folder, bench):
        clear_leftovers(place, lock)
        return folder
    count = len(image_captions) + sum(map(len, image_captions))
    require_space(bench.cache, count * bench.embedding_width * 2, "the warm-up's embeddings")
    bench.split("train")
    groups = galleries(image_captions, GALLERY, SEED)
    with held(lock, "the warm-up", wait_seconds=math.inf):  # another process may be training it
        if not _whole(folder, bench):
            try:
                _train(bench, groups, recipe, key, folder, place)
            except DivergedError as error:
                raise DivergedError(
                    f"warm-up: {error} The rates are select.warmup_image_rate and select.warmup_text_rate."
                ) from None
            except Stopped as stop:
                raise Stopped(f"{stop}. Run the same command to resume.") from None
    return folder


def _whole(folder: Path, bench: Workbench) -> bool:
    """Whether a warm-up is finished and undamaged."""
    if not (folder / NOTE).exists():
        return False
    try:
        for name in ARRAYS:
            open_rows(folder / f"{name}.npy")
    except ArtefactError as error:
        bench.reporter.warn(f"{error} It is recomputed now.")
        return False
    return True


def open_rows(path: Path) -> torch.Tensor:
    """A memory-mapped .npy file as a tensor. Raises ArtefactError if it is damaged."""
    return torch.from_numpy(open_array(path, "warm-up", "c"))  # "c": torch needs writable memory


@dataclass
class _Keeper(FileKeeper):
    """Also saves which pairs were found after each epoch."""

    seen: list[torch.Tensor] = field(default_factory=list)

    def extra(self) -> tuple[Tensors, dict[str, Plain]]:
        return {f"seen/{epoch}": found for epoch, found in enumerate(self.seen)}, {"epochs": len(self.seen)}

    def restore(self, tensors: Tensors, about: Record) -> None:
        self.seen[:] = [tensors[f"seen/{epoch}"].clone() for epoch in range(expect(about["epochs"], int))]


def _train(
    bench: Workbench, groups: list[torch.Tensor], recipe: Recipe, key: Record, folder: Path, place: Path
) -> None:
    """Train the student, or resume it from ``place``, and write the :data:`ARRAYS`."""
    data, seed = bench.split("train").data, seed_of(SEED, "warm-up")
    student = bench.student(seed)
    images = torch.empty(len(data.images), bench.embedding_width, dtype=torch.float16)
    texts = torch.empty(len(data.texts), bench.embedding_width, dtype=torch.float16)
    features = PairFeatures(images, texts, data.caption_image)
    steps, embedded = steps_in(len(data), recipe), 0
    what = f"warm-up of {recipe.epochs} epochs"
    with deferred_stop() as stop_asked, bench.reporter.progress(what, steps) as bar:
        keeper = _Keeper("the warm-up", place, key, bench.reporter, SAVE_SECONDS, stop_asked, bar.advance)

        def after_epoch(epoch: int, loss: float) -> None:
            nonlocal embedded
            embed_into(student, data, images, texts, bench.compute)
            keeper.seen.append(found(features, groups))
            embedded = epoch
            bar.advance(steps // recipe.epochs, loss=loss, found=100 * float(keeper.seen[-1].float().mean()))

        device, compute = bench.device, bench.compute
        fit(student, data, recipe, seed=seed, device=device, on_epoch=after_epoch, keeper=keeper, compute=compute)
    if not embedded:  # resumed after the last step
        embed_into(student, data, images, texts, bench.compute)
    for name, values in zip(ARRAYS, (images, texts, count_forgotten(torch.stack(keeper.seen)))):
        write_array(folder / f"{name}.npy", values.numpy())
    versions = {"vldistill": __version__, "torch": str(torch.__version__)}
    write_record(folder / NOTE, {**key, "versions": versions})
    keeper.remove()


@torch.no_grad()
def embed_into(
    student: DualEncoder, data: TrainingData, images: torch.Tensor, texts: torch.Tensor, compute: ComputeOptions
) -> None:
    """Fill ``images`` (N, D) and ``texts`` (M, D) with the student's normalised embeddings."""
    for side, inputs, out in (("image", data.images, images), ("text", data.texts, texts)):
        for rows in torch.arange(len(out)).split(BATCH):
            out[rows] = embed_in_parts(student, side, inputs.rows(rows), compute).to("cpu", torch.float16)


def galleries(image_captions: Sequence[np.ndarray], size: int, seed: int) -> list[torch.Tensor]:
    """All captions in random groups of about ``size``; the captions of a group have distinct images.

    The first groups contain one caption of every image, the next groups the second captions, and so on. If one image
    has more captions than all others, the last groups contain only that image.

    Returns:
        Rows (B,) int64 of each group; every caption is in exactly one group.
    """
    draw = generator(seed, "galleries")
    shuffled = [own[torch.randperm(len(own), generator=draw).numpy()] for own in image_captions]
    groups: list[torch.Tensor] = []
    for turn in range(max(map(len, shuffled))):
        rows = torch.tensor([int(own[turn]) for own in shuffled if len(own) > turn])
        rows = rows[torch.randperm(len(rows), generator=draw)]
        groups += rows.tensor_split(-(-len(rows) // size))
    return groups


def found(features: PairFeatures, groups: list[torch.Tensor]) -> torch.Tensor:
    """Whether each pair ranks first in its gallery in both directions, (M,) bool; ties count against it."""
    out = torch.zeros(len(features), dtype=torch.bool)
    for rows in groups:
        scores = features.images[features.caption_image[rows]].float() @ features.texts[rows].float().T
        own = scores.diagonal()
        ahead = (scores >= own[:, None]).sum(1), (scores >= own[None, :]).sum(0)
        out[rows] = (ahead[0] == 1) & (ahead[1] == 1)
    return out


def count_forgotten(seen: torch.Tensor) -> torch.Tensor:
    """How often each pair changes from found to not found, (M,) int64; ``seen`` is (E, M) bool by epoch."""
    return (seen[:-1] & ~seen[1:]).sum(0)
