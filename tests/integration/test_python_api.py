"""Python's verbs on forty drawn scenes: sets, students, searches, and what they refuse."""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vldistill as vd
from vldistill.api import progress
from vldistill.api.asking import ask
from vldistill.errors import ArtefactError, ConfigError, DataError
from vldistill.evaluation.measures import Accuracy, Recalls
from vldistill.evaluation.retrieval import retrieval_metrics
from vldistill.runtime.log import Reporter
from vldistill.storage.files import write_record

SCENES = "scenes:train=40,val=20,test=20"
FAST: dict[str, Any] = {"quiet": True, "iterations": 1, "bilevel.steps": 2, "validate_every": 0}


def recalls(figures: Recalls | Accuracy) -> Recalls:
    """Those of a student of pairs."""
    assert isinstance(figures, Recalls)
    return figures


def dots(options: dict[str, Any]) -> dict[str, Any]:
    """Options by dotted name, of any type."""
    return options


@pytest.fixture(scope="module")
def tiny(config: Path) -> dict[str, Any]:
    """The small configuration, by a method that needs no experts."""
    plain = yaml.safe_load(config.read_text())
    return {**plain, "distill": {"method": "bilevel", "pairs": 6}}


@pytest.fixture(scope="module")
def pairs(tiny: dict[str, Any], cache: Path) -> vd.DistilledSet:
    return vd.distill(SCENES, config=tiny, **FAST)


@pytest.fixture(scope="module")
def student(pairs: vd.DistilledSet) -> vd.Student:
    return pairs.train(quiet=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scenes as PNG and JPEG files, one of them in a folder below; one is broken, and a text lies beside."""
    folder, images = tmp_path_factory.mktemp("photos"), vd.load_pairs(SCENES, "test").images
    (folder / "more").mkdir()
    for number in range(10):
        place = folder / "more" if number == 9 else folder
        images.read(number).save(place / f"{number}.{'png' if number % 2 else 'jpg'}")
    (folder / "broken.jpg").write_bytes((folder / "0.jpg").read_bytes()[:100])
    (folder / "notes.txt").write_text("no photo")
    return folder


def rewrite(path: Path, record: dict[str, Any]) -> None:
    """Write a changed record with a checksum that fits."""
    write_record(path, {name: value for name, value in record.items() if name != "blake2b"})


# --- distil and evaluate -------------------------------------------------------------------------------------------


def test_the_same_call_reads_the_set_that_is_there(
    pairs: vd.DistilledSet, tiny: dict[str, Any], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = vd.distill(SCENES, config=tiny, **dots(FAST | {"quiet": False}))
    said = capsys.readouterr().err
    assert "finished already" in said and f"run folder {cache}" in said
    assert again.folder == pairs.folder and torch.equal(again.images, pairs.images)
    assert isinstance(again, vd.DistilledSet) and len(again) == 6


def test_options_have_short_and_dotted_names_and_sections(tiny: dict[str, Any], tmp_path: Path) -> None:
    options = {"distill": {"iterations": 1}, "bilevel": {"steps": 2}, "seed": 1, "image_lr": 0.5, "encoder.dim": 8}
    made = vd.distill(SCENES, 4, config=tiny, run=tmp_path / "run", quiet=True, **options)
    used = made.info["config"]
    assert (len(made), used["distill"]["image_lr"], used["bilevel"]["steps"], used["encoder"]["dim"]) == (4, 0.5, 2, 8)
    assert made.folder == tmp_path / "run" / "sets" / "bilevel-4-s1"
    assert vd.distill(run=tmp_path / "run", pairs=4, quiet=True, **options).folder == made.folder  # remembers the rest


def test_data_alone_get_towers_that_fit(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data, name in ((photos, "mobilenetv2_100"), (SCENES, "convnet")):
        asked = ask("distill", data, None, tmp_path / "run", {"encoder.dim": 8})
        assert (asked.config.encoder.image.name, asked.config.encoder.dim) == (name, 8)
        assert "(no config= was given)" in capsys.readouterr().err
    assert len(vd.distill(SCENES, 4, quiet=True, method="prototypes")) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "no data are named. Give data"),
        ({"data": "nowhere/"}, "the data source nowhere/ does not exist"),
        ({"data": SCENES, "iteration": 3}, r"unknown option 'iteration'. Did you mean iterations or distill"),
        ({"data": SCENES, "pairs": "many"}, "distill.pairs is 'many'; expected a whole number"),
        ({"data": SCENES, "method": "bilevell"}, "unknown method 'bilevell'"),
        ({"data": SCENES, "method": "bilevel", "image_lr": object()}, "expected a number, a text"),
        ({"data": SCENES, "config": "nothing.yaml"}, "nothing.yaml does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(call: dict[str, Any], message: str) -> None:
    with pytest.raises(vd.VldistillError, match=message):
        vd.distill(**call, quiet=True)


def test_methods_that_need_experts_record_those_that_are_missing(tiny: dict[str, Any], tmp_path: Path) -> None:
    options = {"config": tiny, "quiet": True}
    run = vd.record_experts(SCENES, run=tmp_path / "run", count=1, **options)
    assert [path.name for path in (run / "experts").glob("*.safetensors")] == ["expert-000.safetensors"]
    quick = {"method": "bitraj", "iterations": 1, "validate_every": 0, "bitraj.syn_steps": 2}
    elsewhere = vd.distill(SCENES, 4, run=tmp_path / "other", experts_from=run, **options, **quick)
    assert len(elsewhere) == 4 and not (tmp_path / "other" / "experts").exists()
    alone = vd.distill(SCENES, 4, **options, **quick, **dots({"experts.count": 1}))
    assert alone.folder is not None and (alone.folder.parents[1] / "experts" / "expert-000.safetensors").exists()


def test_record_experts_still_takes_a_workbench_and_warns(pairs: vd.DistilledSet, tmp_path: Path) -> None:
    student = pairs.train(quiet=True, data=SCENES)
    experts = vd.Config().experts
    with pytest.warns(DeprecationWarning, match="takes data; for a workbench"):
        recorded: Any = vd.record_experts(student.bench, type(experts)(count=1, epochs=1, batch=32), tmp_path)
    assert isinstance(recorded[0], vd.Trajectory)


def test_an_evaluation_prints_as_a_table_and_becomes_a_data_frame(pairs: vd.DistilledSet) -> None:
    found = vd.evaluate(pairs, seeds=2, quiet=True)
    assert "| bilevel-6-s0 | own " in str(found) and repr(found) == str(found)
    assert set(found.recalls) == {"own", "generic"} and found.generic is not None
    assert found.recalls["generic"]["mean_recall"] == found.generic.mean_recall.mean
    assert json.loads(json.dumps(found.to_dict()))["seeds"] == 2
    pandas = pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame["recipe"]) == ["own", "own", "generic", "generic"]
    assert frame["tr10"].iloc[0] == found.own.students[0].tr10  # pyright: ignore[reportOptionalMemberAccess]
    assert vd.evaluate(str(pairs.folder), seeds=2, quiet=True, run=pairs.folder.parents[1]) == found  # pyright: ignore


def test_real_pairs_and_sets_in_memory_are_evaluated_too(pairs: vd.DistilledSet, tiny: dict[str, Any]) -> None:
    quick = {"seeds": 1, "recipes": ["generic"], "quiet": True}
    found = vd.evaluate("random:6", SCENES, config=tiny, **quick)
    assert (found.set, found.pairs) == ("random:6", 6)
    made = vd.DistilledSet(pairs.images * 0.9, pairs.texts, pairs.recipe, pairs.towers, pairs.setting,
                           standardisation=pairs.standardisation, info=pairs.info)  # fmt: skip
    assert made.folder is None
    assert vd.evaluate(made, config=tiny, data=SCENES, **quick).pairs == 6


def test_selected_pairs_are_a_set(tiny: dict[str, Any]) -> None:
    chosen = vd.select(SCENES, 5, method="kmeans", config=tiny, quiet=True)
    assert (
        chosen.is_coreset and len(chosen) == 5 and recalls(chosen.train(quiet=True).score(quiet=True)).mean_recall > 0
    )


def test_a_set_is_one_line_and_a_gallery_in_a_notebook(pairs: vd.DistilledSet) -> None:
    assert repr(pairs) == f"<DistilledSet bilevel-6-s0: 6 pairs, pixels (16 px), {pairs.stored_floats:,} floats>"
    shown = pairs._repr_html_()
    assert shown.count("<img") == 6 and "data:image/png;base64," in shown and len(shown) < 100_000
    odd = pairs.with_captions(tuple({"start": "", "nearest": "<script>"} for _ in range(6)))
    assert "&lt;script&gt;" in odd._repr_html_() and isinstance(odd, vd.DistilledSet)


# --- students ------------------------------------------------------------------------------------------------------


def test_students_are_those_of_the_evaluation(pairs: vd.DistilledSet) -> None:
    found = vd.evaluate(pairs, seeds=2, quiet=True)
    assert found.own is not None and found.generic is not None
    assert [pairs.train(seed=seed, quiet=True).score(quiet=True) for seed in (0, 1)] == list(found.own.students)
    generic = pairs.train("generic", quiet=True)
    assert generic.recipe.to_dict() == found.generic.recipe and generic.score(quiet=True) == found.generic.students[0]


def test_the_own_recipe_needs_none_of_the_real_data(pairs: vd.DistilledSet, tmp_path: Path) -> None:
    shutil.copytree(pairs.folder, tmp_path / "set")  # pyright: ignore[reportArgumentType]
    record = json.loads((tmp_path / "set" / "set.json").read_text())
    record["info"]["source"] = "gone/"
    rewrite(tmp_path / "set" / "set.json", record)
    moved = vd.DistilledSet.load(tmp_path / "set")
    texts = ["a red ring", "two green squares"]
    assert torch.equal(moved.train(quiet=True).encode_text(texts), pairs.train(quiet=True).encode_text(texts))
    with pytest.raises(DataError, match="gone/ does not exist"):
        moved.train("generic", quiet=True)
    assert recalls(moved.train(data=SCENES, quiet=True).score(SCENES, quiet=True)).mean_recall > 0


def test_students_of_ones_own_recipe_and_of_siglip(pairs: vd.DistilledSet, student: vd.Student) -> None:
    recipe = vd.Recipe(epochs=3, loss="siglip", temperature=0.1)
    other = pairs.train(recipe, quiet=True)
    assert other.recipe == recipe and not torch.equal(other.encode_text("a ring"), student.encode_text("a ring"))


def test_what_a_student_cannot_be_trained_by_is_refused(pairs: vd.DistilledSet) -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'generics'.*Or give a vldistill.Recipe"):
        pairs.train("generics")
    with pytest.raises(ConfigError, match="seed is -1; expected a whole number"):
        pairs.train(seed=-1)
    with pytest.raises(ArtefactError, match="holds sentence vectors of the text tower 'hashing'"):
        pairs.train(quiet=True, **dots({"encoder.text.width": 16}))
    with pytest.raises(ConfigError, match=r"recipe\.loss|unknown loss 'sigmoid'"):
        vd.Recipe(loss="sigmoid")


def test_another_image_tower_is_standardised_by_the_data(pairs: vd.DistilledSet) -> None:
    other = pairs.train(quiet=True, **dots({"encoder.image.options": {"width": 16}}))
    assert other.bench.image_tower.width != pairs.towers["image"]["width"]
    assert recalls(other.score(quiet=True)).mean_recall > 0


def test_photos_become_the_same_embedding_in_every_form(student: vd.Student, photos: Path) -> None:
    path = photos / "1.png"
    image = Image.open(path)
    pixels = np.asarray(image.convert("RGB"))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    forms = [path, str(path), image, pixels, pixels / np.float32(255), tensor, tensor.double() / 255]
    together = student.encode_image(forms)
    assert together.shape == (7, 16)
    torch.testing.assert_close(together, student.encode_image(path).expand(7, -1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(7))
    assert student.encode_image(np.stack([pixels, pixels])).shape == (2, 16)
    assert student.encode_image(image.convert("RGBA")).shape == (16,)
    assert student.encode_image(np.asarray(image.convert("L"))).shape == (16,)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ([], "images is empty"),
        (7, "images is of type int; expected a path, a PIL image"),
        ([None], "a picture is of type NoneType"),
        (np.zeros((4, 4, 2), np.uint8), r"the shape \(4, 4, 2\)"),
        (np.full((4, 4, 3), 200.0), r"holds float64 from 200 to 200; expected uint8, or floats in \[0, 1\]"),
        (torch.full((3, 4, 4), torch.nan), "expected uint8, or floats"),
        ("nowhere.png", "nowhere.png.*cannot be read"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_picture_is_refused_by_name(form: Any, message: str, student: vd.Student) -> None:
    with pytest.raises(DataError, match=message):
        student.encode_image(form)


def test_texts_are_encoded_one_and_many(student: vd.Student) -> None:
    many = student.encode_text(["a red ring", "  a red ring ", "two squares"])
    assert many.shape == (3, 16) and torch.equal(many[0], many[1])
    torch.testing.assert_close(student.encode_text("two squares"), many[2])
    for wrong, message in [
        ("  ", "text 0 is '  ', which is empty"),
        ([], "texts is empty"),
        (["a", 3], "text 1 is of"),
    ]:
        with pytest.raises(DataError, match=message):
            student.encode_text(wrong)  # pyright: ignore[reportArgumentType]


def test_the_score_is_that_of_the_embeddings(student: vd.Student) -> None:
    real = vd.load_pairs(SCENES, "test")
    images = student.encode_image([real.images.read(row) for row in range(len(real.images))])
    found = retrieval_metrics(images, student.encode_text(real.captions), torch.tensor(real.caption_image))
    assert found.mean_recall == pytest.approx(recalls(student.score(quiet=True)).mean_recall, abs=1.0)
    with pytest.raises(ConfigError, match=r"unknown split 'tests'\. Did you mean test"):
        student.score(split="tests")


# --- search --------------------------------------------------------------------------------------------------------


def test_a_search_ranks_photos_and_counts_broken_ones(
    student: vd.Student, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = student.search("a red ring", photos, top=3, quiet=True)
    assert len(found) == 3 and found.photos == 10
    assert list(found.left_out) == [str(photos / "broken.jpg")] and "not a readable image" in str(found.left_out)
    files = sorted(path for path in photos.rglob("*.*g") if path.name != "broken.jpg")
    scores = student.encode_image(files) @ student.encode_text("a red ring")
    best = scores.argsort(descending=True)[:3]
    assert found.paths == [str(files[row]) for row in best]
    assert [hit.score for hit in found] == pytest.approx(scores[best].tolist(), abs=1e-5)
    assert "among 10 photos, 1 left out" in repr(found) and found[0].path in repr(found)
    assert json.loads(json.dumps(found.to_dict()))["hits"][0]["path"] == found[0].path
    monkeypatch.setattr(type(student), "_embed_pixels", None)  # the same files are not encoded again
    assert student.search("two squares", photos, top=99, quiet=True).photos == 10


def test_searches_of_files_and_of_what_is_not_there(student: vd.Student, photos: Path, tmp_path: Path) -> None:
    some = [photos / "1.png", str(photos / "2.jpg")]
    assert set(student.search("a ring", some, quiet=True).paths) == {str(path) for path in some}
    for images, message in [
        (tmp_path, "holds no image file"),
        ("nowhere", "nowhere does not exist"),
        ([], "an empty list holds no image file"),
        (photos / "broken.jpg", "none of 1 photos can be read"),
    ]:
        with pytest.raises(DataError, match=message):
            student.search("a ring", images, quiet=True)
    with pytest.raises(ConfigError, match="top is 0; expected"):
        student.search("a ring", photos, top=0)


# --- kept students -------------------------------------------------------------------------------------------------


def test_a_student_is_kept_with_its_towers_by_name(student: vd.Student, photos: Path, tmp_path: Path) -> None:
    folder = student.save(tmp_path / "student")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "student.json", "student.safetensors"]
    assert "convnet" in (folder / "README.md").read_text()
    again = vd.Student.load(folder)
    assert repr(again) == repr(student) and again.recipe == student.recipe
    assert again.search("a ring", photos, quiet=True) == student.search("a ring", photos, quiet=True)
    student.save(folder)  # over itself
    with pytest.raises(ArtefactError, match="holds something else than a student"):
        student.save(photos)


def damaged(student: vd.Student, place: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A student whose record was changed."""
    folder = student.save(place)
    record = json.loads((folder / "student.json").read_text())
    change(record)
    rewrite(folder / "student.json", record)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(format=2), "not a student of format 1"),
        (lambda record: record.pop("recipe"), "lacks or garbles something"),
        (lambda record: record.update(encoder=3), "lacks or garbles something"),
        (lambda record: record["encoder"].update(dim="x"), "lacks or garbles something"),
        (lambda record: record["encoder"].update(dim=8), "does not fit its own configuration"),
        (lambda record: record.update(towers=[]), "image tower None of fingerprint None"),
        (lambda record: record["towers"]["text"].update(fingerprint="x"), "Give the weights it was trained with"),
        (lambda record: record["encoder"]["image"].update(seed=5), "encoder.image.weights': PATH"),
        (lambda record: record.update(sha256="x"), "does not match its checksum"),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_record_that_was_changed_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, student: vd.Student, tmp_path: Path
) -> None:
    with pytest.raises(ArtefactError, match=message):
        vd.Student.load(damaged(student, tmp_path / "student", change))


def test_damaged_and_missing_students_are_refused(student: vd.Student, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="there is no such folder"):
        vd.Student.load(tmp_path / "none")
    with pytest.raises(ArtefactError, match=r"it has no student\.json"):
        vd.Student.load(tmp_path)
    folder = student.save(tmp_path / "student")
    weights = folder / "student.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-3] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(ArtefactError, match="checksum"):
        vd.Student.load(folder)
    weights.write_bytes(raw[:100])
    with pytest.raises(ArtefactError):
        vd.Student.load(folder)


@pytest.mark.parametrize("setting", ["full", "lora"])
def test_students_of_trained_towers_are_kept_whole(
    setting: str, tiny: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    lora = {"encoder.lora.patterns": ["*"]} if setting == "lora" else {}
    options = dots({"encoder.setting": setting, **lora})
    chosen = vd.select(SCENES, 4, method="random", config=tiny, quiet=True, **options)
    student = chosen.train(vd.Recipe(epochs=1), quiet=True)
    again = vd.Student.load(student.save(tmp_path / "student"))
    paths = [photos / "1.png", photos / "2.jpg"]
    assert torch.equal(again.encode_image(paths), student.encode_image(paths))
    assert torch.equal(again.encode_text("a ring"), student.encode_text("a ring"))


# --- comparisons, reports, towers ----------------------------------------------------------------------------------


def test_a_comparison_of_a_dictionary_is_a_table(config: Path, tmp_path: Path) -> None:
    sweep = {"base": str(config), "pairs": [6], "methods": {}, "targets": ["random"]}
    found = vd.compare(sweep, run=tmp_path / "run", quiet=True, **dots({"evaluate.seeds": 1}))
    assert not found.failed and len(found.rows) == 1 and "random" in str(found)
    assert len(found.to_pandas()) == 1 and found.to_dict()["rows"] == found.rows
    with pytest.raises(ConfigError, match="matches no cell"):
        vd.compare(sweep, run=tmp_path / "run", only="nothing", quiet=True)


def test_reports_and_inspections(pairs: vd.DistilledSet, tmp_path: Path) -> None:
    assert pairs.folder is not None
    page = vd.report(pairs.folder.parents[1], out=tmp_path / "page.html", students="never", quiet=True)
    assert page == tmp_path / "page.html" and "bilevel-6-s0" in page.read_text(encoding="utf-8")
    assert vd.inspect(pairs.folder)["pairs"] == 6 and vd.inspect(pairs.folder.parents[1])["kind"] == "run"
    found = vd.inspect(SCENES, sheet=tmp_path / "sheet.png", quiet=True)
    assert found["kind"] == "data source" and (tmp_path / "sheet.png").is_file() and not found["broken"]
    with pytest.raises(ConfigError, match="was given no run"):
        vd.report()


def test_towers_by_name() -> None:
    tower = vd.image_tower("convnet", weights="random", size=16, options={"width": 8})
    assert tower(torch.zeros(2, 3, 16, 16)).shape == (2, tower.width)
    assert vd.text_tower("hashing", width=32).encode(["a ring"]).shape == (1, 32)
    with pytest.raises(ConfigError, match=r"unknown tower option 'sise'\. Did you mean size"):
        vd.image_tower(sise=3)


# --- the names -----------------------------------------------------------------------------------------------------


def test_every_public_name_is_itself_after_every_submodule_was_imported() -> None:
    first = {name: getattr(vd, name) for name in vd.__all__}
    for module in pkgutil.walk_packages(vd.__path__, "vldistill."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of extras that are not installed
                importlib.import_module(module.name)
    for name, value in first.items():
        assert getattr(vd, name) is value and not isinstance(value, types.ModuleType), name
        assert getattr(vd, name) is value, name


class Kernel:
    """Stands for IPython in a notebook's kernel."""

    class ZMQInteractiveShell:
        """Its shell."""

    def get_ipython(self) -> object:
        return self.ZMQInteractiveShell()


def test_a_notebook_has_bars_of_tqdm_and_lines_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type(progress.reporter(False)) is Reporter
    monkeypatch.setitem(sys.modules, "IPython", Kernel())  # pyright: ignore[reportArgumentType]
    lines = progress.reporter(False)
    lines.info("begun")
    with lines.progress("photos", 4, done=1) as bar, lines.progress("parts", 2) as inner:
        inner.advance(2)
        bar.advance(3, loss=0.5)
    said = capsys.readouterr()
    assert said.out.startswith("begun\n") and "photos" in said.err and "4/4" in said.err and "loss=0.5" in said.err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with progress.reporter(False).progress("photos", 4) as bar:
        bar.advance(4)
    assert "photos: 4/4" in capsys.readouterr().err


# --- the commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(vldistill: Any, pairs: vd.DistilledSet, tmp_path: Path) -> Iterator[Path]:
    done = vldistill("train", "--set", pairs.folder, "--out", tmp_path / "student", "--quiet")
    assert done.code == 0 and done.out.strip() == str(tmp_path / "student")
    yield tmp_path / "student"


def test_the_commands_train_and_search(kept: Path, vldistill: Any, student: vd.Student, photos: Path) -> None:
    done = vldistill("search", "--student", kept, "--images", photos, "a red ring", "two squares", "--top", 2, "--json")
    first, second = map(json.loads, done.out.splitlines())
    assert done.code == 0 and first == student.search("a red ring", photos, 2, quiet=True).to_dict()
    assert second["question"] == "two squares" and first["left_out"]
    done = vldistill("search", "--student", kept, "--images", photos, "a red ring")
    assert "1 left out" in done.out and "photos encoded" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--set", "nowhere", "--out", "student"), "nowhere is not a distilled set"),
        (("search", "--student", "nowhere", "--images", ".", "a ring"), "nowhere is not a student"),
        (("search", "--student", "nowhere", "a ring"), "images"),
    ],
)
def test_commands_refuse_what_is_not_there(words: tuple[str, ...], message: str, vldistill: Any) -> None:
    done = vldistill(*words)
    assert done.code == 2 and message in done.err
