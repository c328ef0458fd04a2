"""A release up to publishing: versions agree, metadata is what an index takes, and what is wrong is refused."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from scripts import check_release

known = pytest.importorskip("trove_classifiers", reason="hatchling is not installed: pip install '.[test]'")

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("build", "hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the wheel, built as a release builds it. Skips where the tools are not installed."""
    if missing := [tool for tool in TOOLS if not importlib.util.find_spec(tool)]:
        pytest.skip(f"the release is not built: {', '.join(missing)} not installed: pip install '.[test]'")
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_metadata_of_the_wheel_is_what_an_index_shows(wheel: Path) -> None:
    (file,) = wheel.glob("*.whl")
    with ZipFile(file) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(opened.read(name).decode("utf-8"))
    said = set(metadata.get_all("Classifier", []))
    assert said <= known.classifiers and "Typing :: Typed" in said
    assert metadata["Version"] == check_release.versions(ROOT)["src/vldistill/version.py"]
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata.get_payload()
    assert all(", https://" in line for line in metadata.get_all("Project-URL", [])) and metadata["Project-URL"]
    assert "ray" not in "".join(line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line)


def test_twine_finds_nothing_wrong(wheel: Path) -> None:
    if not importlib.util.find_spec("twine"):
        pytest.skip("what is built is not checked by twine: not installed: pip install '.[test]'")
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, wheel.glob("*.whl"))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_file_has_what_its_format_asks_for_and_the_same_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["title"] == "vldistill" and citation["message"] and citation["authors"]
    for reference in citation["references"]:
        assert reference["type"] == "article" and reference["title"] and reference["authors"]
        assert all({"family-names", "given-names"} == set(author) for author in reference["authors"])
    assert set(check_release.versions(ROOT).values()) == {str(citation["version"])} == {version("vldistill")}


def made(root: Path, release: str = "1.2.3", urls: str = "Source Issues Documentation Changelog") -> Path:
    """A checkout with a release, tagged and built."""
    (root / "src" / "vldistill").mkdir(parents=True)
    (root / "dist").mkdir()
    (root / "src" / "vldistill" / "version.py").write_text(f'__version__ = "{release}"\n', encoding="utf-8")
    (root / "CITATION.cff").write_text(f"title: x\nversion: {release}\nrepository-code: y\n", encoding="utf-8")
    (root / "CHANGELOG.md").write_text(f"# Changelog\n\n## {release}\n\n- x\n", encoding="utf-8")
    lines = "\n".join(f'{name} = "https://example.org"' for name in urls.split())
    (root / "pyproject.toml").write_text(f"[project.urls]\n{lines}\n", encoding="utf-8")
    (root / ".gitignore").write_text("dist/\n", encoding="utf-8")
    for name in (f"vldistill-{release}-py3-none-any.whl", f"vldistill-{release}.tar.gz"):
        (root / "dist" / name).touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"], [*who, "tag", "-am", "x", f"v{release}"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return root


def test_a_release_that_fits_together_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_release.main(["v1.2.3"], made(tmp_path)) == 0
    assert "publish" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tag", "urls", "said"),
    [
        ("1.2.3", "Source Issues Documentation Changelog", ["expected vX.Y.Z"]),
        (
            "v1.2.4",
            "Source Issues Documentation Changelog",
            ["version 1.2.3", "'## 1.2.4'", "make wheel", "not at the tag"],
        ),
        ("v1.2.3", "Source", ["has no Issues", "has no Changelog"]),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str, urls: str, said: list[str]
) -> None:
    assert check_release.main([tag], made(tmp_path, urls=urls)) == 1
    printed = capsys.readouterr().out
    assert all(words in printed for words in said)


def test_changes_and_files_of_another_release_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made(tmp_path)
    (root / "dist" / "vldistill-1.0.0.tar.gz").touch()
    (root / "left.txt").touch()
    assert check_release.main(["v1.2.3"], root) == 1
    printed = capsys.readouterr().out
    assert "1.0.0.tar.gz, which is not of this release" in printed and "not committed" in printed
