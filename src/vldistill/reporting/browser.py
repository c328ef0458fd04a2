"""The retrieval browser: what students of the distilled set, of random pairs and of the full data find.

One student each, trained quickly and kept as its answers in ``RUN/report``, so that a second report is quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError, VldistillError
from vldistill.evaluation.measures import MEASURES, TITLES
from vldistill.evaluation.protocol import GENERIC, embed_split, train_student
from vldistill.evaluation.retrieval import metrics_of, retrieval_ranks
from vldistill.evaluation.subjects import subject
from vldistill.reporting.gallery import photo_addresses
from vldistill.reporting.overview import Table, TableCell
from vldistill.reporting.records import RunRecord
from vldistill.reporting.views import BrowserView
from vldistill.storage.files import digest, read_json, write_record
from vldistill.training.data import TrainingData
from vldistill.training.recipe import Recipe
from vldistill.training.steps import steps_in
from vldistill.workbench.bench import Workbench

FORMAT = 1  # of the kept answers
TOP = 5
MOST_SETS = 3
MOST_STEPS = 2_000  # of one student: a report is made in seconds, where an evaluation may take minutes
Answer = Mapping[str, Any]
"""Of a student: ``recalls``, and ``by_caption`` and ``by_image``, each with the ``top`` five and ``ranks`` by query."""


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
    students: list[tuple[str, str, Mapping[str, float]]] = []
    answers: dict[str, Answer] = {}
    troubles: list[str] = []
    for target in targets:
        try:
            about, answer = _answers(bench, run, target, by_caption, by_image)
        except VldistillError as error:
            reporter.warn(f"{target.name}: no student for the retrieval browser: {error}")
            troubles.append(f"No student of {target.name}: {error}")
            continue
        students.append((target.name, about, answer["recalls"]))
        answers[target.name] = answer
    table = students_table(students, test.pairs.count_images, test.pairs.count_captions) if students else None
    return BrowserView(run.name, table, _data(bench, answers, by_caption, by_image, budget), " ".join(troubles))


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
) -> tuple[str, Answer]:
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


def _kept(path: Path) -> Answer | None:
    """PartialResults of an earlier report; None where there are none, or damaged ones."""
    try:
        kept = read_json(path, "student") if path.exists() else None
    except VldistillError:
        return None
    return kept if isinstance(kept, dict) and {"recalls", "by_caption", "by_image"} <= kept.keys() else None


def _ask(
    bench: Workbench, name: str, data: TrainingData, recipe: Recipe, by_caption: Sequence[int], by_image: Sequence[int]
) -> Answer:
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


def students_table(students: Iterable[tuple[str, str, Mapping[str, float]]], images: int, captions: int) -> Table:
    """Name, what it was trained by and recalls of every student, on so many images and captions of the test split."""
    columns = [("student of", "", False), ("trained by", "", False), *((title, "", True) for title in TITLES)]
    rows = [
        [TableCell.of(name, head=True), TableCell.of(about)]
        + [TableCell.of(recalls[measure], "{:.1f}".format) for measure in MEASURES]
        for name, about, recalls in students
    ]
    note = f"One student each, on {images:,} photos and {captions:,} captions of the test split; percent."
    return Table(columns, rows, [note])


def _data(
    bench: Workbench, answers: Mapping[str, Answer], by_caption: Sequence[int], by_image: Sequence[int], budget: int
) -> dict[str, Any]:
    """The answers with only the photos and captions they name, numbered anew, see :class:`~.views.BrowserView`."""
    test = bench.split("test")
    image_of, own = test.pairs.caption_image.tolist(), test.pairs.image_captions
    found = {
        way: {row for answer in answers.values() for top in answer[way]["top"] for row in top}
        for way in ("by_caption", "by_image")
    }
    photos = sorted(found["by_caption"] | {*by_image, *(image_of[row] for row in by_caption)})
    captions = sorted(found["by_image"] | {*by_caption, *(int(row) for photo in photos for row in own[photo])})
    photo_at, caption_at = ({row: at for at, row in enumerate(rows)} for rows in (photos, captions))

    def query(number: int, row: int, way: str) -> dict[str, Any]:
        given = [answer[way] for answer in answers.values()]
        ranks = [int(one["ranks"][number]) for one in given]
        tops = [one["top"][number] for one in given]
        if way == "by_image":
            hits = [[[caption_at[caption], int(image_of[caption] == row)] for caption in top] for top in tops]
            return {"q": photo_at[row], "a": hits, "r": ranks, "own": 0}
        hits = [[[photo_at[photo], int(image_of[row] == photo)] for photo in top] for top in tops]
        return {"q": caption_at[row], "a": hits, "r": ranks, "own": photo_at[image_of[row]]}

    pictures = photo_addresses(test.pixels.array, photos, len(photos), budget, 80)
    return {
        "students": list(answers),
        "images": [
            (test.pairs.images.names[row], pictures[row], [caption_at[int(c)] for c in own[row]]) for row in photos
        ],
        "captions": [test.pairs.captions[row] for row in captions],
        "byCaption": [query(number, row, "by_caption") for number, row in enumerate(by_caption)],
        "byImage": [query(number, row, "by_image") for number, row in enumerate(by_image)],
    }


def worth_training(bench: Workbench) -> bool:
    """Whether students take seconds: heads do, a tower does on an accelerator."""
    return bench.setting == "heads" or bench.device.type != "cpu"
