"""The retrieval browser: what students of the distilled set, of random pairs and of the full data find.

One student each, trained quickly and kept as its answers in ``RUN/report``, so that a second report is quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.distilled.distilled_set import DistilledSet
from vldistill.drawing.pictures import data_uri, fitting_quality
from vldistill.errors import ConfigError, VldistillError
from vldistill.evaluation.protocol import GENERIC, embed_split, train_student
from vldistill.evaluation.retrieval import metrics_of, retrieval_ranks
from vldistill.evaluation.subjects import subject
from vldistill.reporting.records import RunRecord
from vldistill.reporting.views import BrowserView, Hit, Query, StudentView
from vldistill.storage.files import digest, read_json, write_record
from vldistill.training.data import TrainingData
from vldistill.training.recipe import Recipe
from vldistill.training.steps import steps_in
from vldistill.workbench.bench import Workbench

FORMAT = 1  # of the kept answers
TOP = 5
MOST_SETS = 3
MOST_STEPS = 2_000  # of one student: a report is made in seconds, where an evaluation may take minutes
PHOTO_SIDE = 96


@dataclass(frozen=True)
class Target:
    """Who is asked: a name, what is judged, and what identifies it beside its name."""

    name: str
    judged: str | DistilledSet
    identity: str


def browse(
    bench: Workbench, run: RunRecord, sets: Sequence[tuple[DistilledSet, str]], queries: int, budget: int
) -> BrowserView:
    """Train what is missing and ask every student the same questions.

    Args:
        sets: distilled sets with the checksum of each.
        queries: captions, and photos, to ask for.
        budget: bytes of the page that photos may take.
    """
    reporter = bench.reporter
    targets = [Target(one.name, one, checksum) for one, checksum in sets[:MOST_SETS]]
    count = len(sets[0][0])
    targets += [Target(f"random:{count}", f"random:{count}", ""), Target("full", "full", "")]
    test = bench.split("test")
    by_caption, by_image = choose_queries(test.pairs.image_captions, queries)
    students: list[StudentView] = []
    answers: list[Mapping[str, Any]] = []
    troubles: list[str] = []
    for target in targets:
        try:
            about, answer = _answers(bench, run, target, by_caption, by_image)
        except VldistillError as error:
            reporter.warn(f"{target.name}: no student for the retrieval browser: {error}")
            troubles.append(f"No student of {target.name}: {error}")
            continue
        students.append(StudentView(target.name, about, answer["recalls"]))
        answers.append(answer)
    view = _view(bench, run.name, students, answers, (by_caption, by_image), budget)
    return replace(view, note=" ".join(troubles))


def choose_queries(image_captions: Sequence[np.ndarray], count: int) -> tuple[list[int], list[int]]:
    """Rows of ``count`` captions and of ``count`` images, spread over the split; of different images in a large one."""
    images = len(image_captions)
    count = min(count, images)
    first = [images * index // count for index in range(count)]
    second = [min(images - 1, row + max(1, images // count) // 2) for row in first]
    captions = [int(image_captions[row][index % len(image_captions[row])]) for index, row in enumerate(first)]
    return captions, second


def quick_recipe(run: RunRecord, target: str, own: Recipe | None, pairs: int) -> tuple[Recipe, str]:
    """The recipe of a student, and in words where it is from.

    The generic one as an evaluation of this run chose it on val; without one the set's own, or a middle rate.
    """
    kind = target.partition(":")[0]
    rows = [row for row in run.rows if row.recipe == "generic"]
    rows = [row for row in rows if row.set == target] or [row for row in rows if row.set.partition(":")[0] == kind]
    recipe, words = None, ""
    for row in rows:
        try:
            recipe, words = Recipe.from_dict(row.result["generic"]["recipe"]), "generic recipe of its evaluation"
            break
        except (ConfigError, KeyError, TypeError):
            continue
    if recipe is None and own is not None:
        recipe, words = own, "its own recipe"
    if recipe is None:
        recipe = replace(GENERIC, epochs=GENERIC.epochs if kind == "random" else 10)
        words = "generic recipe, untuned"
    per_epoch = max(1, steps_in(pairs, recipe) // recipe.epochs)
    epochs = min(recipe.epochs, max(1, MOST_STEPS // per_epoch))
    shown = f"{epochs} epochs" if epochs == recipe.epochs else f"{epochs} of its {recipe.epochs} epochs"
    return replace(recipe, epochs=epochs), f"{words}, {shown}"


def _answers(
    bench: Workbench, run: RunRecord, target: Target, by_caption: Sequence[int], by_image: Sequence[int]
) -> tuple[str, Mapping[str, Any]]:
    judged = subject(bench, target.judged)
    data = judged.draw(0)
    recipe, about = quick_recipe(run, target.name, judged.own, len(data))
    prints = [bench.pixels(split).pairs.fingerprint for split in ("train", "test")]
    key = digest(
        FORMAT, bench.fingerprint, prints, target.name, target.identity, recipe.to_dict(), by_caption, by_image
    )
    path = run.folder / "report" / f"student-{key}.json"
    kept = _kept(path)
    if kept is None:
        kept = _ask(bench, target.name, data, recipe, by_caption, by_image)
        write_record(path, kept)
    return about, kept


def _kept(path: Path) -> Mapping[str, Any] | None:
    """PartialResults of an earlier report; None where there are none, or damaged ones."""
    try:
        kept = read_json(path, "student") if path.exists() else None
    except VldistillError:
        return None
    return kept if isinstance(kept, dict) and {"recalls", "by_caption", "by_image"} <= kept.keys() else None


def _ask(
    bench: Workbench, name: str, data: TrainingData, recipe: Recipe, by_caption: Sequence[int], by_image: Sequence[int]
) -> dict[str, Any]:
    """Train a student and note its top five for every query, the rank of the best right one, and its recalls."""
    with bench.reporter.progress(f"report: student of {name}", recipe.epochs) as bar:
        student = train_student(bench, data, recipe, 0, lambda _student, _epoch: bar.advance())
    test = bench.split("test")
    images, captions = embed_split(bench, student, test)
    ranks = retrieval_ranks(images, captions, test.data.caption_image)
    top_images = (captions[list(by_caption)] @ images.T).topk(min(TOP, len(images)), dim=1).indices
    top_captions = (images[list(by_image)] @ captions.T).topk(min(TOP, len(captions)), dim=1).indices
    return {
        "recalls": metrics_of(ranks),
        "by_caption": {"top": top_images.tolist(), "ranks": (ranks.text_to_image[list(by_caption)] + 1).tolist()},
        "by_image": {"top": top_captions.tolist(), "ranks": (ranks.image_to_text[list(by_image)] + 1).tolist()},
    }


def _view(
    bench: Workbench,
    run: str,
    students: Sequence[StudentView],
    answers: Sequence[Mapping[str, Any]],
    queries: tuple[Sequence[int], Sequence[int]],
    budget: int,
) -> BrowserView:
    """The answers with only the photos and captions they name, numbered anew."""
    test = bench.split("test")
    image_of, own = test.pairs.caption_image, test.pairs.image_captions
    by_caption, by_image = queries
    photos = sorted({row for a in answers for top in a["by_caption"]["top"] for row in top} | set(by_image))
    photos = sorted({*photos, *(int(image_of[row]) for row in by_caption)})
    captions = {row for a in answers for top in a["by_image"]["top"] for row in top} | set(by_caption)
    captions = sorted(captions | {int(row) for photo in photos for row in own[photo]})
    photo_at, caption_at = ({row: at for at, row in enumerate(rows)} for rows in (photos, captions))

    def asked(rows: Sequence[int], way: str) -> list[Query]:
        found = []
        for number, row in enumerate(rows):
            tops = [answer[way]["top"][number] for answer in answers]
            ranks = [int(answer[way]["ranks"][number]) for answer in answers]
            if way == "by_caption":
                hits = [[Hit(photo_at[photo], int(image_of[row]) == photo) for photo in top] for top in tops]
            else:
                hits = [[Hit(caption_at[caption], int(image_of[caption]) == row) for caption in top] for top in tops]
            if way == "by_caption":
                found.append(Query(caption_at[row], hits, ranks, photo_at[int(image_of[row])]))
            else:
                found.append(Query(photo_at[row], hits, ranks))
        return found

    array = test.pixels.array
    share = min(1.0, PHOTO_SIDE / array.shape[-1])
    best, quality = fitting_quality(np.asarray(array[photos[:: max(1, len(photos) // 8)]]), len(photos), budget)
    pictures = [data_uri(array[row], min(share, best), min(quality, 80)) for row in photos]
    return BrowserView(
        run=run,
        students=students,
        images=[
            (test.pairs.images.names[row], picture, [caption_at[int(c)] for c in own[row]])
            for row, picture in zip(photos, pictures)
        ],
        captions=[test.pairs.captions[row] for row in captions],
        by_caption=asked(by_caption, "by_caption"),
        by_image=asked(by_image, "by_image"),
        gallery=(test.pairs.count_images, test.pairs.count_captions),
    )


def worth_training(bench: Workbench) -> bool:
    """Whether students take seconds: heads do, a tower does on an accelerator."""
    return bench.setting == "heads" or bench.device.type != "cpu"
