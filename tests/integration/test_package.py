"""The wheel and the sdist, built and installed outside the checkout: what is in them works there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--data.source=scenes:train=40,val=20,test=20", "--pairs=4", "--iterations=2", "--seeds=1", "--quiet"]
SMALL += ["--distill.validate_every=1", "--bilevel.steps=2", "--evaluate.trials=1", "--evaluate.max_steps=2"]

Python = Callable[..., str]


def run(words: list[str], cwd: Path, **environment: str) -> str:
    """The output of a command; a failure shows it."""
    done = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], folder)
    return folder


@pytest.fixture(scope="module", params=["*.whl", "*.tar.gz"])
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Python:
    """``installed("-m", "vldistill", ...)``: Python in an empty folder, with the package in front of this checkout."""
    target, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    (package,) = built.glob(request.param)
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run([sys.executable, *pip, "--target", str(target), str(package)], elsewhere)

    def python(*words: str) -> str:
        cache = str(target.parent / "cache")
        return run([sys.executable, *words], elsewhere, PYTHONPATH=str(target), VLDISTILL_CACHE=cache)

    home = python("-c", "import vldistill; print(vldistill.__file__)")
    assert Path(home.strip()).is_relative_to(target)
    return python


def test_every_packaged_configuration_is_installed(installed: Python) -> None:
    configs = ROOT / "src" / "vldistill" / "configs"
    here = {f"configs/{path.relative_to(configs).as_posix()}" for path in configs.glob("**/*.yaml")}
    assert {line.split()[0] for line in installed("-m", "vldistill", "ls", "configs").splitlines()} == here


def test_version_and_type_marker_are_installed(installed: Python) -> None:
    version, typed = installed(
        "-c",
        "from importlib import metadata, resources; import vldistill;"
        "print(vldistill.__version__ == metadata.version('vldistill'));"
        "print(resources.files('vldistill').joinpath('py.typed').is_file())",
    ).split()
    assert (version, typed) == ("True", "True")


@pytest.mark.parametrize("installed", ["*.whl"], indirect=True)  # the sdist makes the same wheel
def test_the_demo_and_its_report_run_from_the_installed_package(installed: Python) -> None:
    printed = installed("-m", "vldistill", "demo", "--run", "run", *SMALL)
    assert "random:4" in printed and "full" in printed
    page = installed("-m", "vldistill", "report", "run", "--out", "page.html", "--quiet")
    assert "page.html" in page


@pytest.mark.slow  # downloads what the package needs
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_a_fresh_environment_of_the_package_alone_runs_the_demo(built: Path, tmp_path: Path, kind: str) -> None:
    (package,) = built.glob(kind)
    run([sys.executable, "-m", "venv", str(tmp_path / "venv")], tmp_path)
    python = str(next(tmp_path.glob("venv/[bS]*/python*")))
    run([python, "-m", "pip", "install", "--quiet", str(package)], tmp_path)
    alone = {"PYTHONPATH": "", "VLDISTILL_CACHE": str(tmp_path / "cache")}
    assert "configs/scenes.yaml" in run([python, "-m", "vldistill", "ls", "configs"], tmp_path, **alone)
    assert "random:4" in run([python, "-m", "vldistill", "demo", "--run", "run", *SMALL], tmp_path, **alone)
    page = run([python, "-m", "vldistill", "report", "run", "--out", "page.html", "--quiet"], tmp_path, **alone)
    assert "page.html" in page
    run([python, "-W", "error::SyntaxWarning", "-c", "import vldistill; vldistill.distill"], tmp_path, **alone)
