"""``vldistill report`` from runs of every kind, and that its page needs nothing and believes nothing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_pages import HARD, SIMPLE, made_page, result
from PIL import Image

from vldistill.cli import main
from vldistill.config import DataConfig, EncoderConfig, ImageTowerConfig, TextTowerConfig
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.reporting.browser import MOST_STEPS, choose_queries, quick_recipe
from vldistill.reporting.gallery import view_set
from vldistill.reporting.neighbours import nearest, principal_plane, starting_pairs
from vldistill.reporting.records import read_run
from vldistill.runtime.log import Reporter
from vldistill.training.recipe import Recipe
from vldistill.training.side_inputs import TensorInputs
from vldistill.workbench.bench import Workbench

VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text within each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("script", "style")).split())

    def browser(self) -> dict[str, Any]:
        return json.loads(next(data for tag, data in self.texts if tag == "script" and data.startswith("{")))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_page(tmp_path_factory.mktemp("hard"), captions=HARD, runs=2)


def test_the_page_names_nothing_outside_itself(hard: Path):
    text = hard.read_text(encoding="utf-8")
    page = Page(hard)
    assert page.open == []
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            if (address := attributes.get(name)) is not None:
                assert address.startswith(("data:image/", "#")), f"<{tag} {name}={address[:60]}>"
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style and "@import" not in style
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", re.sub(r"data:image[^\"']+", "", text)))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")


def test_user_text_is_escaped_everywhere(hard: Path):
    page = Page(hard)
    scripts = [attributes for attributes in page.all("script") if attributes.get("type") != "application/json"]
    assert len(scripts) == 1, "only the page's own"
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert not {"i", "iframe", "object", "embed", "link", "base"} & {tag for tag, _ in page.elements}
    assert all((attributes["src"] or "").startswith("data:") for attributes in page.all("img"))
    text = page.text()
    for caption in HARD[:8]:
        assert " ".join(caption.split()) in text
    assert page.browser()["captions"][:8] == list(HARD[:8])
    names = [attributes.get("aria-label") for attributes in page.all("svg")]
    assert len(names) == len([name for name in names if name])


def test_a_hundred_pairs_at_128_pixels_stay_below_ten_megabytes(tmp_path: Path):
    page = made_page(tmp_path, count=100, side=128, captions=SIMPLE, noise=200.0)
    assert 1_000_000 < page.stat().st_size < 10_000_000
    assert len([a for a in Page(page).all("img") if a["alt"] == "after"]) == 100


def test_a_report_of_a_run(vldistill: Any, run: Path):
    assert vldistill("distill", "--run", run).code == 0
    for target in (run / "sets" / "bitraj-6-s0", "random:6", "full"):
        assert vldistill("evaluate", "--run", run, "--set", target).code == 0
    done = vldistill("report", run)
    assert done.code == 0, done.err
    path = Path(done.out.strip())
    assert path == run / "report.html"
    page = Page(path)
    for alt in ("before", "after", "change"):
        assert len([a for a in page.all("img") if a["alt"] == alt]) == 6
    data = page.browser()
    assert data["students"] == ["bitraj-6-s0", "random:6", "full"]
    assert len(data["byCaption"]) == len(data["byImage"]) == 20, "the test split has 20 images"
    for query in data["byCaption"]:
        own = data["images"][query["own"]][2]
        assert query["q"] in own
        for hits, rank in zip(query["a"], query["r"]):
            right = [index for index, (row, hit) in enumerate(hits) if hit]
            assert [row for row, hit in hits if hit] == [query["own"]][: len(right)]
            assert (right == [rank - 1]) if rank <= 5 else not right
    text = page.text()
    assert "Retrieval browser" in text and "peak memory" in text and "bitraj-6-s0: images" in text
    event = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert " ".join(event["command"].split()) in text, "the commands"
    kept = sorted((run / "report").glob("student-*.json"))
    assert len(kept) == 3
    times = [file.stat().st_mtime_ns for file in kept]
    again = vldistill("report", run, "--out", run / "other.html")
    assert again.code == 0 and "student of" not in again.err
    assert [file.stat().st_mtime_ns for file in kept] == times, "a second report trains nothing"
    assert Page(run / "other.html").browser() == data


def test_a_report_without_results_or_data_shows_what_there_is(vldistill: Any, run: Path, tmp_path: Path):
    assert vldistill("distill", "--run", run).code == 0
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("scenes:train=40,val=20,test=20", "/nowhere/at-all"))
    done = vldistill("report", run, "--out", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert "not available here" in done.err
    page = Page(tmp_path / "r.html")
    text = page.text()
    assert "Nothing is evaluated yet" in text and "/nowhere/at-all" in text
    assert len([a for a in page.all("img") if a["alt"] == "after"]) == 6
    assert not [a for a in page.all("img") if a["alt"] == "before"]
    empty = tmp_path / "begun"
    empty.mkdir()
    shutil.copy(config, empty / "config.yaml")
    assert vldistill("report", empty, "--out", tmp_path / "e.html").code == 0, "a run that has only begun"


def test_a_set_of_features_shows_its_nearest_photos(vldistill: Any, run: Path):
    assert vldistill("distill", "--run", run, "--distill.space", "features").code == 0
    done = vldistill("report", run, "--queries", 5)
    assert done.code == 0, done.err
    page = Page(run / "report.html")
    shown = [a for a in page.all("img") if (a["alt"] or "").startswith("near photo")]
    assert len(shown) == 3 * 6
    assert not [a for a in page.all("img") if a["alt"] == "after"]
    assert "no pictures" in page.text() and len(page.browser()["byImage"]) == 5


def test_a_set_of_features_that_starts_from_another_is_reported(vldistill: Any, run: Path):
    asked = ("distill", "--run", run, "--distill.space", "features")
    assert vldistill(*asked).code == 0
    assert vldistill(*asked, "--start", run / "sets" / "bitraj-6-s0", "--label", "two").code == 0
    done = vldistill("report", run, "--students", "never")
    assert done.code == 0, done.err
    assert "bitraj-6-s0-two" in Page(run / "report.html").text()


def test_a_trained_tower_has_students_only_when_asked(vldistill: Any, config: Path, tmp_path: Path):
    run = tmp_path / "full"
    settings = ["--config", config, "--run", run, "--encoder.setting", "full", "--experts.count", 1]
    assert vldistill("experts", *settings, "--experts.epochs", 2).code == 0
    steps = ["--distill.iterations", 1, "--distill.validate_every", 0]
    assert vldistill("distill", "--run", run, *steps).code == 0
    done = vldistill("report", run)
    assert done.code == 0, done.err
    text = Page(run / "report.html").text()
    if not torch.accelerator.is_available():
        assert "--students always" in text
    assert "bitraj-6-s0: images" in text, "the map needs only the frozen tower"
    assert vldistill("report", run, "--students", "always").code == 0
    assert Page(run / "report.html").browser()["students"] == ["bitraj-6-s0", "random:6", "full"]


def test_a_cross_architecture_matrix_from_two_runs(vldistill: Any, run: Path, config: Path, tmp_path: Path):
    assert vldistill("distill", "--run", run).code == 0
    folder = run / "sets" / "bitraj-6-s0"
    other = tmp_path / "other"
    wide = ["--encoder.image.options", '{"width": 12}', "--encoder.image.seed", 3]
    named = (("--run", run), ("--config", config, "--run", other, *wide))
    for words in named:
        assert vldistill("evaluate", *words, "--set", folder).code == 0
    for path in (other / "results").glob("*.json"):  # both towers are of one kind here; their names tell them apart
        path.write_text(path.read_text().replace('"image_tower": "convnet"', '"image_tower": "wider"'))
    done = vldistill("report", run, other, "--out", tmp_path / "both.html", "--students", "never")
    assert done.code == 0, done.err
    text = Page(tmp_path / "both.html").text()
    assert "made with" in text and "wider" in text and "All students here" not in text


def test_wrong_words_are_refused(vldistill: Any, run: Path, tmp_path: Path):
    for words, told in (
        (["nowhere"], "is not a folder"),
        ([tmp_path], "not a run"),
        ([run, "--students", "some"], "expected auto, always or never"),
        ([run, "--queries", 0], "from 1 to 200"),
        ([run, "--out", tmp_path], "expected a file"),
        ([run, run], "given twice"),
    ):
        done = vldistill("report", *words)
        assert done.code == 2 and told in done.err, words
    assert main(["report", "--help"]) == 0


def test_inspect_draws_a_contact_sheet(vldistill: Any, karpathy: Any, cache: Path, tmp_path: Path):
    karpathy.add_photos()
    karpathy.save()
    found = json.loads(vldistill("inspect", karpathy.folder, "--json").out)
    assert Path(found["contact_sheet"]).parent == cache / "sheets"
    with Image.open(found["contact_sheet"]) as sheet:
        assert sheet.format == "PNG" and sheet.width > 2 * 192, "two of three training photos beside each other"
    chosen = tmp_path / "mine.png"
    assert vldistill("inspect", karpathy.folder, "--sheet", chosen).code == 0 and chosen.exists()
    assert vldistill("inspect", karpathy.folder, "--sheet", tmp_path / "mine.jpg").code == 2


def test_nearest_rows_are_those_of_a_sort():
    generator = torch.Generator().manual_seed(0)
    rows, queries = torch.randn(50, 7, generator=generator), torch.randn(4, 7, generator=generator)
    scores, found = nearest(TensorInputs(rows), queries, 5, torch.device("cpu"))
    cosine = F.cosine_similarity(queries[:, None], rows[None], dim=2).numpy()
    expected = np.argsort(-cosine, axis=1)[:, :5]
    assert np.array_equal(found, expected)
    assert scores == pytest.approx(np.take_along_axis(cosine, expected, 1), abs=1e-6)
    assert nearest(TensorInputs(rows[:3]), queries, 5, torch.device("cpu"))[1].shape == (4, 3)


def test_the_map_is_that_of_scikit_learn():
    from sklearn.decomposition import PCA

    generator = torch.Generator().manual_seed(1)
    real, other = torch.randn(60, 9, generator=generator), torch.randn(5, 9, generator=generator)
    (placed, moved), shares = principal_plane([real, other])
    unit = [F.normalize(rows.double(), dim=1).numpy() for rows in (real, other)]
    reference = PCA(2).fit(unit[0])
    assert np.abs(placed) == pytest.approx(np.abs(reference.transform(unit[0])))
    assert np.abs(moved) == pytest.approx(np.abs(reference.transform(unit[1])))
    assert shares == pytest.approx(tuple(reference.explained_variance_ratio_))
    assert principal_plane([torch.ones(3, 1)])[0][0].shape == (3, 2), "one dimension has no second direction"


def test_queries_are_spread_and_belong_to_their_images():
    own = [np.arange(5 * image, 5 * image + 5) for image in range(100)]
    captions, images = choose_queries(own, 24)
    assert len(set(captions)) == len(set(images)) == 24 and not {c // 5 for c in captions} & set(images)
    assert choose_queries(own[:2], 24)[1] == [0, 1]


def test_the_students_recipe_is_that_of_the_evaluation(tmp_path: Path):
    recipe = Recipe(rates={"image": (0.3,), "text": (0.3,)}, epochs=40)
    values = [result("full", 15_000, 9.0), result("random:20", 20, 3.0)]
    values[0]["generic"]["recipe"] = recipe.to_dict()
    (tmp_path / "results").mkdir()
    for index, value in enumerate(values):
        (tmp_path / "results" / f"{index}.json").write_text(json.dumps(value))
    run = read_run(tmp_path, "r")
    found, words = quick_recipe(run, "full", None, 15_000)
    steps = 118
    assert found.rates == recipe.rates and found.epochs == MOST_STEPS // steps and "of its 40 epochs" in words
    own = Recipe(epochs=7)
    assert quick_recipe(run, "mine", own, 20)[0] == own, "without an evaluation the set's own"
    assert "untuned" in quick_recipe(run, "random:20", None, 20)[1], "its recipe in the file is not one"


def test_a_start_is_shown_only_if_it_is_the_start(vldistill: Any, run: Path):
    from dataclasses import replace

    assert vldistill("distill", "--run", run).code == 0
    distilled = DistilledSet.load(run / "sets" / "bitraj-6-s0")
    tower = ImageTowerConfig("convnet", weights="random", size=16, options={"width": 8})
    encoder = EncoderConfig(image=tower, text=TextTowerConfig("hashing", width=32), dim=16)
    source = DataConfig("scenes:train=40,val=20,test=20")
    bench = Workbench(source, encoder, torch.device("cpu"), Reporter(quiet=True))
    start, trouble = starting_pairs(bench, distilled)
    assert start is not None and trouble == ""
    assert start.captions == [caption["start"] for caption in distilled.captions]
    elsewhere = replace(distilled, info={**distilled.info, "data": "another"})
    assert starting_pairs(bench, elsewhere)[0] is None
    wrong = replace(distilled, captions=tuple({"start": "else", "nearest": ""} for _ in range(6)))
    assert starting_pairs(bench, wrong) == (None, starting_pairs(bench, wrong)[1])
    assert "computes another start" in starting_pairs(bench, wrong)[1]


def test_a_learned_similarity_is_drawn_and_a_set_alone_tells_what_it_carries(vldistill: Any, run: Path):
    from dataclasses import replace

    assert vldistill("distill", "--run", run).code == 0
    distilled = DistilledSet.load(run / "sets" / "bitraj-6-s0")
    learned = replace(distilled, similarity=torch.eye(6) * 0.5 + 0.25)
    view = view_set("r", learned, None, "one", 1_000_000, "No data here.")
    (figure,) = view.figures
    assert figure.title == "learned similarity" and "data:image/png" in figure.svg
    assert figure.note == "Mean on the diagonal 0.75, elsewhere 0.25."
    assert view.notes == ["No data here."]
    for pair, caption in zip(view.pairs, distilled.captions, strict=True):
        assert pair.after.startswith("data:image/webp") and not pair.before
        assert (pair.caption, pair.nearest_after[0].text) == (caption["start"], caption["nearest"])
        assert pair.image_change is None and pair.text_change is None
