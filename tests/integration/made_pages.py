"""Reports of made runs: everything a page can show, without training anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vldistill.drawing.figures import heat_map, inline_svg, scatter
from vldistill.drawing.pictures import change_gain, change_pictures, change_sizes, data_uri, fitting_quality
from vldistill.evaluation.measures import MEASURES, Recalls
from vldistill.reporting.browser import students_table
from vldistill.reporting.page import render
from vldistill.reporting.records import read_runs
from vldistill.reporting.views import BrowserView, Extras, FigureView, Near, PairView, SetView

HARD = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    '"><img src=x onerror="window.hacked = 3">',
    'it\'s a "quoted" & ampersanded caption with {{ 7 * 7 }} and {% raw %}',
    "שלום עולם, כלב רץ על החוף",
    "مرحبا بالعالم كلب يركض على الشاطئ",
    "\u202eright-to-left override stays in its caption",
    "👩‍👩‍👧 and 🐶 and ❤️ on a beach",
    "word " * 2000,
    "x" * 10_000,
    "\ud800 lone, \x00 null and \x1b escape",
    "two\nlines and a\ttab",
)
SIMPLE = ("a dog runs on the beach", "two children climb a rock", "a red circle above a blue square", "a man on a bike")


def pictures(count: int, side: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Circles on coloured grounds with Gaussian noise of that size, (count, 3, side, side) uint8."""
    draw = np.random.default_rng(seed)
    made = []
    for index in range(count):
        ground = tuple(int(value) for value in draw.integers(40, 220, 3))
        image = Image.new("RGB", (side, side), ground)
        corner, width = int(side * 0.15) + index % max(1, side // 4), side // 2
        ImageDraw.Draw(image).ellipse((corner, corner, corner + width, corner + width), fill=(230, 200, 40))
        made.append(np.asarray(image).transpose(2, 0, 1))
    clean = np.stack(made).astype(np.float64)
    return np.clip(clean + noise * draw.standard_normal(clean.shape), 0, 255).astype(np.uint8)


def figure(mean: float, std: float = 0.5) -> dict[str, Any]:
    """Recalls of one row: the mean recall, and figures around it."""
    return {name: {"mean": mean + index, "std": std} for index, name in enumerate(MEASURES)}


def result(name: str, pairs: int, mean: float, own: float | None = None, **more: Any) -> dict[str, Any]:
    """An evaluation as the stage writes it."""
    return {
        "set": name,
        "setting": "heads",
        "protocol": "last",
        "pairs": pairs,
        "stored_floats": pairs * 3584,
        "seeds": 3,
        "own": figure(own) if own is not None else None,
        "generic": figure(mean) | {"recipe": {}},
        "chance": {"mean_recall": 1.06},
        "image_tower": "convnet",
        "text_tower": "hashing",
        "details": {"method": name.split("-")[0]} if "-s" in name else {},
        "seconds": 12.5,
        "peak_memory_bytes": 800_000_000,
        "environment": {"command": f"vldistill evaluate --run runs/made --set {name}"},
    } | more


def made_run(folder: Path, results: Sequence[dict[str, Any]] = (), sets: Sequence[str] = ("bitraj-20-s0",)) -> Path:
    """A run folder with a configuration, logs, the text files of sets, and results."""
    for name in sets:
        place = folder / "sets" / name
        place.mkdir(parents=True)
        looks = [{"iteration": i, "val_mean_recall": 4 + i / 10, "seconds": 2.0 * i} for i in range(0, 101, 10)]
        steps = [
            {"iteration": i, "value": 2 - i / 100, "rate_image": 0.1 + i / 900, "rate_text": 0.1} for i in range(100)
        ]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*looks, *steps]))
        info = {"method": name.split("-")[0], "selection": {"seconds": 200.0}, "config": {"distill": {"pairs": 20}}}
        (place / "set.json").write_text(json.dumps({"info": info, "sha256": ""}))
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for index, value in enumerate(results or DEFAULT_RESULTS):
        (folder / "results" / f"{index}.json").write_text(json.dumps(value))
    encoder = "encoder:\n  setting: heads\n  image: {name: convnet}\n  text: {name: hashing}\n"
    (folder / "config.yaml").write_text(f"data: {{source: scenes}}\n{encoder}")
    event = {"stage": "experts", "count": 2, "seconds": 60, "losses": [[2.0, 1.0, 0.5], [2.1, 1.1, 0.6]]}
    (folder / "metrics.jsonl").write_text(json.dumps(event) + "\n")
    (folder / "env.json").write_text(json.dumps({"command": "vldistill demo", "commit": "0123456789ab"}))
    return folder


DEFAULT_RESULTS = (
    result("bitraj-20-s0", 20, 40.3, 38.6),
    result("bitraj-50-s0", 50, 48.0),
    result("random:20", 20, 3.1),
    result("random:50", 50, 9.0),
    result("full", 15000, 95.7),
)


def set_view(
    run: str, name: str, count: int, side: int, captions: Sequence[str], noise: float, space: str = "pixels"
) -> SetView:
    """A gallery of made pictures, within the page's budget."""
    before, after = pictures(count, side), pictures(count, side, noise)
    gain = change_gain(change_sizes(before, after))
    change = change_pictures(before, after, gain)
    share, quality = fitting_quality(np.concatenate([before, after, change]), 3 * count, 5_500_000)
    pairs = []
    for index in range(count):
        caption = captions[index % len(captions)]
        shown: dict[str, Any] = {}
        if space == "pixels":
            stacks = {"before": before, "after": after, "change": change}
            shown = {key: data_uri(stack[index], share, quality) for key, stack in stacks.items()}
        pairs.append(
            PairView(
                number=index + 1,
                **shown,
                caption=caption,
                nearest_before=[Near(caption, 1.0)],
                nearest_after=[Near(captions[(index + 1) % len(captions)], 0.9 - index / 1000), Near("other", 0.3)],
                photos=[Near(f"{index}<b>.jpg", 0.7, data_uri(before[index], 0.5, 60))] * 3,
                image_change=float((7 * index) % count),
                text_change=index / count,
            )
        )
    cloud = np.random.default_rng(0).standard_normal((600, 2))
    moves = np.stack([cloud[:count], cloud[count : 2 * count]], axis=1)
    drawn = scatter(
        [("real", cloud), ("start", cloud[:count]), ("distilled", cloud[count : 2 * count])],
        xlabel="1st direction, 12 % of the variance",
        ylabel="2nd direction, 8 %",
        moves=moves,
    )
    heat = heat_map(np.eye(count) + 0.1, xlabel="text", ylabel="image")
    identity = f"{''.join(c for c in run if c.isalnum())}-{name}"
    figures = [
        FigureView("images", inline_svg(drawn, f"{identity}-images", "Map")),
        FigureView("learned similarity", inline_svg(heat, f"{identity}-heat", "Heat map")),
    ]
    return SetView(run, name, space, side if space == "pixels" else 0, gain, [f"{count} pairs"], pairs, figures)


def browser_view(run: str, captions: Sequence[str], side: int = 32, queries: int = 12) -> BrowserView:
    """Three students that find the right photo first, third, and never."""
    made = pictures(queries, side, seed=5)
    images = [(f"photo {i} <i>.jpg", data_uri(made[i]), [i]) for i in range(queries)]
    texts = [captions[i % len(captions)] for i in range(queries)]

    def asked() -> list[dict[str, Any]]:
        found = []
        for row in range(queries):
            others = [(row + step) % queries for step in range(1, 6)]
            first = [row, *others[:4]]
            third = [*others[:2], row, *others[2:4]]
            answers = [[[r, int(r == row)] for r in rows] for rows in (first, third, others)]
            found.append({"q": row, "a": answers, "r": [1, 3, 1234], "own": 0})
        found[0] |= {"a": [found[0]["a"][0]] * 3, "r": [1, 1, 1]}  # one on which the students agree
        return found

    recalls = Recalls(**{name: 10.0 + index for index, name in enumerate(MEASURES)})
    students = ["bitraj-20-s0", "random:20", "full"]
    table = students_table([(name, "generic recipe", recalls) for name in students], queries, queries)
    data = {"students": students, "images": images, "captions": texts, "byCaption": asked(), "byImage": asked()}
    return BrowserView(run, table, data)


def made_page(
    folder: Path, *, count: int = 12, side: int = 32, captions: Sequence[str] = HARD, noise: float = 20.0, runs: int = 1
) -> Path:
    """A whole report of made runs; returns its file."""
    names = ["made", "<b>other</b> & 'run'"][:runs]
    folders = [made_run(folder / name.replace("/", "⁄")) for name in names]
    records = read_runs(folders)
    extras = {
        run.name: Extras(
            [set_view(run.name, f"bitraj-{count}-s{index}", count, side, captions, noise)],
            browser_view(run.name, captions),
            ["A note with <b>markup</b>."],
        )
        for index, run in enumerate(records)
    }
    path = folder / "report.html"
    path.write_text(render(records, extras), encoding="utf-8")
    return path
