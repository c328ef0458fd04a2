"""The demo, what ``inspect`` understands, what ``ls`` lists, and that the packaged configurations and tables hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmark_scripts import benchmark
from vldistill.comparison.sweepfile import read_sweep
from vldistill.config import SETTINGS, expand
from vldistill.distillation.method import METHODS
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.errors import ConfigError
from vldistill.options.parser import packaged_config
from vldistill.options.resolve import resolve
from vldistill.options.words import parse

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_ends_with_a_table_and_its_files(vldistill: Any, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "demo"
    done = vldistill("demo", "--config", config, "--run", run)
    assert done.code == 0, done.err
    summary = json.loads((run / "results.json").read_text())
    assert [row["set"] for row in summary["rows"]] == ["bitraj-6-s0", "random:6", "full"]
    distilled, random, full = (row["generic"]["mean_recall"]["mean"] for row in summary["rows"])
    assert summary["gain_over_random"] == pytest.approx(distilled / random)
    assert summary["share_of_full"] == pytest.approx(distilled / full)
    assert 0 < summary["chance_mean_recall"] < 100
    assert "random:6" in done.out and "chance" in done.out
    for name in ("curve.png", "sets/bitraj-6-s0/preview.png"):
        with Image.open(run / name) as picture:
            assert picture.width > 200
    assert done.out.splitlines()[-1] == str(run / "report.html")
    assert "Retrieval browser" in (run / "report.html").read_text(encoding="utf-8")
    again = vldistill("demo", "--config", config, "--run", run)
    assert again.code == 0 and "nothing to do" in again.err
    assert vldistill("evaluate", "--run", run, "--set", "random:6").code == 0  # the run remembers what was given


def test_inspect_a_set_an_experts_folder_and_a_run(vldistill: Any, run: Path) -> None:
    assert vldistill("distill", "--run", run).code == 0
    folder = run / "sets" / "bitraj-6-s0"
    found = json.loads(vldistill("inspect", folder, "--json").out)
    assert found["kind"] == "distilled set" and found["pairs"] == 6
    assert found["stored_floats"] == DistilledSet.load(folder).stored_floats
    assert "hashing" in found["fits"] and found["broken"] == []
    experts = json.loads(vldistill("inspect", run / "experts", "--json").out)
    assert (experts["kind"], experts["count"], experts["snapshots"]) == ("experts", 2, [0, 1, 2, 3])
    whole = json.loads(vldistill("inspect", run, "--json").out)
    assert (whole["kind"], whole["experts"], whole["sets"]) == ("run", 2, ["bitraj-6-s0"])
    assert "stored floats" in vldistill("inspect", folder).out


def test_inspect_names_a_broken_expert_and_exits_2(vldistill: Any, run: Path) -> None:
    broken = run / "experts" / "expert-001.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    found = vldistill("inspect", run / "experts")
    assert found.code == 2
    assert "expert-001" in found.out and "count: 1" in found.out


def test_inspect_counts_a_source_and_names_a_broken_photo(vldistill: Any, karpathy: Any) -> None:
    karpathy.add_photos()
    karpathy.save()
    good = json.loads(vldistill("inspect", karpathy.folder, "--json").out)
    assert good["kind"] == "data source" and good["broken"] == []
    photo = sorted(karpathy.folder.glob("**/*.jpg"))[0]
    photo.write_bytes(photo.read_bytes()[:50])
    bad = vldistill("inspect", karpathy.folder)
    assert bad.code == 2 and photo.name in bad.out


def test_inspect_says_what_is_absent_or_cannot_be_used_at_all(vldistill: Any, karpathy: Any, tmp_path: Path) -> None:
    karpathy.add_photos()
    karpathy.save([{**item, "split": "train"} for item in karpathy.entries])
    alone = vldistill("inspect", karpathy.folder)
    assert alone.code == 0 and "absent: val, test" in alone.out
    gone = tmp_path / "gone.csv"
    gone.write_text("filepath,title\n" + "".join(f"{number}.jpg,a dog\n" for number in range(9)))
    assert vldistill("inspect", gone).code == 2
    found = json.loads(vldistill("inspect", gone, "--json").out)
    assert found["broken"] and all("can be used" in trouble for trouble in found["broken"])
    gone.write_text("filepath,title\n")
    empty = vldistill("inspect", gone)
    assert empty.code == 2 and "no images at all" in empty.out and "contact sheet: none" in empty.out


def test_ls_lists_what_there_is(vldistill: Any) -> None:
    listed = vldistill("ls", "methods").out
    assert all(name in listed for name in METHODS) and max(map(len, listed.splitlines())) <= 160
    one = vldistill("ls", "methods", "bitraj").out
    assert "bitraj.syn_steps=8" in one and "distill.text_lr=0.1" in one
    assert "heads" in vldistill("ls", "settings").out
    assert "convnet" in vldistill("ls", "towers").out and "hashing" in vldistill("ls", "towers").out
    assert "karpathy" in vldistill("ls", "readers").out
    assert "nfnet_l0" in vldistill("ls", "towers", "*nfnet_l0*").out
    assert "configs/scenes.yaml" in vldistill("ls", "configs").out
    wrong = vldistill("ls", "tower")
    assert wrong.code == 2 and "Did you mean towers" in wrong.err
    assert vldistill("ls").code == 2


def test_ls_configs_shows_whole_sentences(vldistill: Any) -> None:
    listed = dict(line.split("  ", 1) for line in vldistill("ls", "configs").out.splitlines())
    shown = {name.removeprefix("configs/"): about.strip() for name, about in listed.items()}
    assert shown["leaderboard_flickr8k.yaml"].endswith("the same number of trials on val, two distillations.")
    assert shown["flickr8k/cross.yaml"].endswith("the same family at 0.35 of its width.")
    assert shown["lors_flickr30k.yaml"].endswith("setting full. For a GPU; experts take a day.")
    for name, about in shown.items():
        text = (ROOT / "src" / "vldistill" / "configs" / name).read_text(encoding="utf-8")
        after = text.replace("\n# ", " ").partition(about)[2]
        assert about and (about.endswith(".") or after.startswith("\n")), f"{name} is cut: {about}"


CONFIGS = sorted(path.name for path in (ROOT / "src" / "vldistill" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_packaged_configurations_are_valid_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = Path(packaged_config(f"configs/{name}")).read_text()
    assert text.startswith("# vldistill "), "a configuration begins with the command that runs it"
    if "\nbase:" in text:  # of `vldistill compare`
        assert read_sweep(Path(packaged_config(f"configs/{name}"))).cells()
        return
    config, _ = parse("experts", ["--config", f"configs/{name}", "--run", "runs/any"])
    assert config.encoder.setting in SETTINGS and resolve(config).distill.method in METHODS
    assert config.experts.count >= 2 and config.distill.method in ("", *METHODS)


def test_a_file_that_is_missing_elsewhere_is_never_taken_from_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone who mistypes the folder of an own file must not train with other settings unawares."""
    monkeypatch.chdir(tmp_path)
    assert packaged_config("scenes.yaml") == packaged_config("./configs/scenes.yaml")
    for path in (
        "mine/scenes.yaml",
        "mine/configs/scenes.yaml",
        "../configs/scenes.yaml",
        str(tmp_path / "scenes.yaml"),
    ):
        with pytest.raises(ConfigError, match="does not exist"):
            packaged_config(path)
    own = tmp_path / "mine" / "scenes.yaml"
    own.parent.mkdir()
    own.write_text("")
    assert packaged_config("mine/scenes.yaml") == "mine/scenes.yaml"


def test_paths_in_configurations_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLDISTILL_SHARED", "/elsewhere")
    config, _ = parse("experts", ["--config", "configs/flickr8k_heads.yaml", "--run", "runs/any"])
    assert expand(config.data.source) == "/elsewhere/data/flickr8k"
    monkeypatch.delenv("VLDISTILL_SHARED")
    assert expand(config.data.source) == "../shared/data/flickr8k"


def test_the_tables_in_the_documentation_are_what_the_results_say() -> None:
    tables = benchmark("tables")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]:
        text = path.read_text(encoding="utf-8")
        assert tables.filled(text, ROOT / "docs" / "results") == text, f"{path.name}: run python benchmarks/tables.py"


@pytest.mark.slow
def test_a_study_keeps_what_its_run_has(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = benchmark("study")
    out = tmp_path / "results" / "tiny.json"
    words = ["study.py", "--config", "unused.yaml", "--run", str(run), "--pairs", "6", "--also", "random:6"]
    monkeypatch.setattr("sys.argv", [*words, "--seeds", "2", "--out", str(out)])
    study.main()
    found = json.loads(out.read_text())
    assert [row["set"] for row in found["rows"]] == ["bitraj-6-s0", "random:6"]
    assert found["rows"][0]["generic"]["mean_recall"].keys() == {"mean", "std"}
    assert found["rows"][0]["distilled"]["seconds"] > 0 and found["experts_seconds"] > 0
    assert found["command"].startswith("python benchmarks/study.py --config unused.yaml")
    shutil.rmtree(run / "experts")
    monkeypatch.setattr("sys.argv", [*words, "--seeds", "2", "--no-experts", "--out", str(out)])
    study.main()
    assert json.loads(out.read_text())["rows"] == found["rows"]
    page = tmp_path / "page.md"
    page.write_text("<!-- table: tiny -->\n<!-- end table -->\n")
    filled = benchmark("tables").filled(page.read_text(), out.parent)
    assert "random:6" in filled and "python benchmarks/study.py" in filled and "Took on a shared machine" in filled


def test_inspect_and_convert_show_what_was_understood(vldistill: Any, tmp_path: Path) -> None:
    done = vldistill("convert", "scenes:train=4,val=2,test=2", "--to", "csv", "--out", tmp_path / "pairs")
    assert done.code == 0 and done.out.strip() == str(tmp_path / "pairs"), done.err
    seen = vldistill("inspect", tmp_path / "pairs", "--sheet", tmp_path / "sheet.png")
    assert seen.code == 0 and "image: filepath" in seen.out and "separator: ," in seen.out and "examples:" in seen.out
    bare = tmp_path / "bare.tsv"
    rows = (tmp_path / "pairs" / "pairs.csv").read_text().splitlines()
    bare.write_text("filepath\ttitle\n" + "".join(f"{row.split(',')[0]}\tsome words\n" for row in rows[1:41:5]))
    found = json.loads(vldistill("inspect", f"{bare}?images={tmp_path / 'pairs'}&val=0.4&test=0.4", "--json").out)
    assert found["reader"] == "csv" and sum(split["images"] for split in found["splits"].values()) == 8
    assert "made by a hash of image names" in found["splits"]["test"]["notes"][-1]
    wrong = vldistill("convert", "scenes", "--to", "csv", "--out", tmp_path / "pairs")
    assert wrong.code == 2 and "exists already" in wrong.err
