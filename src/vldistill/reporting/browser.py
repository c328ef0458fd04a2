"""The retrieval browser: retrievals by students of the distilled set, of random pairs and of the full data.

One student each, trained quickly; its answers are kept in ``RUN/report``, so that a second report is quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from vldistill.config.plain import Record, entry, section
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ArtefactError, ConfigError, VldistillError
from vldistill.evaluation.fixed_grid import GENERIC
from vldistill.evaluation.measures import MEASURES, Recalls, title_of
from vldistill.evaluation.retrieval import metrics_of, retrieval_ranks
from vldistill.evaluation.students import embed_split, train_student
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


@dataclass(frozen=True)
class Found:
    """By query, the rows of the top five, and the rank of the best right one, from 1."""

    top: Sequence[Sequence[int]]
    ranks: Sequence[int]

    @classmethod
    def from_json(cls, record: Record) -> Found:
        """The opposite of :func:`dataclasses.asdict`. Raises ArtefactError."""
        top, ranks = entry(record, "top", list), entry(record, "ranks", list)
        if top is None or ranks is None:
            raise ArtefactError("the answers of a student lack their top five or their ranks.")
        return cls(top, ranks)


@dataclass(frozen=True)
class Answer:
    """What a student found: captions and images are the queries."""

    recalls: Recalls
    by_caption: Found
    by_image: Found

    @classmethod
    def from_json(cls, record: Record) -> Answer:
        """The opposite of :func:`dataclasses.asdict`. Raises ArtefactError."""
        found = (Found.from_json(section(record, way)) for way in ("by_caption", "by_image"))
        return cls(Recalls.from_json(record.get("recalls")), *found)


@dataclass(frozen=True)
class Target:
    """A student's training data: its name, the set or ``SELECTOR:N``, and the checksum of a set."""

    name: str
    data: str | DistilledSet
    identity: str


def browse(
    bench: Workbench, run: RunRecord, sets: Sequence[tuple[DistilledSet, str]], queries: int, budget: int
) -> BrowserView:
    """Train the missing students and give each the same queries.

    Args:
        sets: distilled sets with the checksum of each.
        queries: number of captions, and of photos, that are queries.
        budget: bytes of the page that photos may take.
    """
    reporter = bench.reporter
    targets = [Target(one.name, one, checksum) for one, checksum in sets[:MOST_SETS]]
    count = len(sets[0][0])
    targets += [Target(f"random:{count}", f"random:{count}", ""), Target("full", "full", "")]
    test = bench.split("test")
    by_caption, by_image = choose_queries(test.pairs.image_captions, queries)
    students: list[tuple[str, str, Recalls]] = []
    answers: dict[str, Answer] = {}
    troubles: list[str] = []
    for target in targets:
        try:
            about, answer = _answers(bench, run, target, by_caption, by_image)
        except VldistillError as error:
            reporter.warn(f"{target.name}: no student for the retrieval browser: {error}")
            troubles.append(f"No student of {target.name}: {error}")
            continue
        students.append((target.name, about, answer.recalls))
        answers[target.name] = answer
    counts = test.pairs.count_images, test.pairs.count_captions
    table = students_table(students, *counts, bench.data_config.sides) if students else None
    data = _data(bench, answers, by_caption, by_image, budget)
    return BrowserView(run.name, table, data, " ".join(troubles), bench.data_config.sides or ("photo", "caption"))


def choose_queries(image_captions: Sequence[np.ndarray], count: int) -> tuple[list[int], list[int]]:
    """Rows of ``count`` captions and of ``count`` images, spread over the split; of different images in a large one."""
    images = len(image_captions)
    count = min(count, images)
    first = [images * index // count for index in range(count)]
    second = [min(images - 1, row + max(1, images // count) // 2) for row in first]
    captions = [int(image_captions[row][index % len(image_captions[row])]) for index, row in enumerate(first)]
    return captions, second


def quick_recipe(run: RunRecord, target: str, own: Recipe | None, pairs: int) -> tuple[Recipe, str]:
    """The recipe of a student, and its origin in words.

    The generic one as an evaluation of this run chose it on val; without one the set's own, or a middle rate.
    """
    kind = target.partition(":")[0]
    rows = [row for row in run.rows if row.recipe == "generic"]
    rows = [row for row in rows if row.set == target] or [row for row in rows if row.set.partition(":")[0] == kind]
    recipe, words = None, ""
    for row in rows:
        try:
            recipe, words = Recipe.from_dict(row.trained_by), "generic recipe of its evaluation"
            break
        except ConfigError:
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
    candidate = subject(bench, target.data)
    data = candidate.draw(0)
    recipe, about = quick_recipe(run, target.name, candidate.own, len(data))
    prints = [bench.pixels(split).pairs.fingerprint for split in ("train", "test")]
    key = digest(
        FORMAT, bench.fingerprint, prints, target.name, target.identity, recipe.to_dict(), by_caption, by_image
    )
    path = run.folder / "report" / f"student-{key}.json"
    kept = _kept(path)
    if kept is None:
        kept = _ask(bench, target.name, data, recipe, by_caption, by_image)
        write_record(path, asdict(kept))
    return about, kept


def _kept(path: Path) -> Answer | None:
    """Answers of an earlier report; None where there are none, or damaged ones."""
    try:
        kept = read_json(path, "student") if path.exists() else None
        return Answer.from_json(kept) if isinstance(kept, dict) else None
    except VldistillError:
        return None


def _ask(
    bench: Workbench, name: str, data: TrainingData, recipe: Recipe, by_caption: Sequence[int], by_image: Sequence[int]
) -> Answer:
    """Train a student; its top five for every query, the rank of the best right one, and its recalls."""
    with bench.reporter.progress(f"report: student of {name}", recipe.epochs) as bar:
        student = train_student(bench, data, recipe, 0, lambda _student, _epoch: bar.advance())
    test = bench.split("test")
    images, captions = embed_split(bench, student, test)
    ranks = retrieval_ranks(images, captions, test.data.caption_image)
    top_images = (captions[list(by_caption)] @ images.T).topk(min(TOP, len(images)), dim=1).indices
    top_captions = (images[list(by_image)] @ captions.T).topk(min(TOP, len(captions)), dim=1).indices
    return Answer(
        metrics_of(ranks),
        Found(top_images.tolist(), (ranks.text_to_image[list(by_caption)] + 1).tolist()),
        Found(top_captions.tolist(), (ranks.image_to_text[list(by_image)] + 1).tolist()),
    )


def students_table(
    students: Iterable[tuple[str, str, Recalls]], images: int, captions: int, sides: Sequence[str] = ()
) -> Table:
    """Name, recipe and recalls of every student, on ``images`` and ``captions`` of the test split."""
    columns = [
        ("student of", "", False),
        ("trained by", "", False),
        *((title_of(name, sides), "", True) for name in MEASURES),
    ]
    rows = [
        [TableCell.of(name, head=True), TableCell.of(about)]
        + [TableCell.of(value, "{:.1f}".format) for value in recalls.measures().values()]
        for name, about, recalls in students
    ]
    first, second = [f"{side} rows" for side in sides] or ["photos", "captions"]
    note = f"One student each, on {images:,} {first} and {captions:,} {second} of the test split; percent."
    return Table(columns, rows, [note])


def _data(
    bench: Workbench, answers: Mapping[str, Answer], by_caption: Sequence[int], by_image: Sequence[int], budget: int
) -> Record:
    """The answers with only the photos and captions they name, renumbered, see :class:`~.views.BrowserView`."""
    test = bench.split("test")
    image_of, own = test.pairs.caption_image.tolist(), test.pairs.image_captions
    found_photos = {row for answer in answers.values() for top in answer.by_caption.top for row in top}
    found_captions = {row for answer in answers.values() for top in answer.by_image.top for row in top}
    photos = sorted(found_photos | {*by_image, *(image_of[row] for row in by_caption)})
    captions = sorted(found_captions | {*by_caption, *(int(row) for photo in photos for row in own[photo])})
    photo_at, caption_at = ({row: at for at, row in enumerate(rows)} for rows in (photos, captions))

    def image_query(number: int, row: int) -> Record:
        given = [answer.by_image for answer in answers.values()]
        tops = [found.top[number] for found in given]
        hits = [[[caption_at[caption], int(image_of[caption] == row)] for caption in top] for top in tops]
        return {"q": photo_at[row], "a": hits, "r": [int(found.ranks[number]) for found in given], "own": 0}

    def caption_query(number: int, row: int) -> Record:
        given = [answer.by_caption for answer in answers.values()]
        tops = [found.top[number] for found in given]
        hits = [[[photo_at[photo], int(image_of[row] == photo)] for photo in top] for top in tops]
        ranks = [int(found.ranks[number]) for found in given]
        return {"q": caption_at[row], "a": hits, "r": ranks, "own": photo_at[image_of[row]]}

    pictures = photo_addresses(test.pixels, photos, len(photos), budget, 80)
    return {
        "students": list(answers),
        "images": [
            (test.pairs.images.names[row], pictures.get(row, ""), [caption_at[int(c)] for c in own[row]])
            for row in photos
        ],
        "captions": [test.pairs.captions[row] for row in captions],
        "byCaption": [caption_query(number, row) for number, row in enumerate(by_caption)],
        "byImage": [image_query(number, row) for number, row in enumerate(by_image)],
    }


def worth_training(bench: Workbench) -> bool:
    """Whether students take seconds: heads do, a tower does on an accelerator."""
    return bench.setting == "heads" or bench.device.type != "cpu"
