"""``make demo`` says what it downloads before it does, and takes a torch that is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import make_venv

ROOT = Path(__file__).resolve().parents[2]


def system_with(folder: Path, torch: str, torchvision: str = "0.29.1") -> Path:
    """A Python that says it has those versions."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho {torch} {torchvision}\n", encoding="utf-8")
    python.chmod(0o755)
    return python


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays Python")
@pytest.mark.parametrize(
    ("torch", "torchvision", "taken"),
    [
        ("2.14.1+cpu", "0.29.1", "2.14.1+cpu"),
        ("2.6.0", "0.29.1", ""),
        ("2.14.1", "0.21.0", ""),
        ("2.10.0", "0.25", "2.10.0"),
    ],
)
def test_a_torch_of_the_system_is_taken_if_it_is_new_enough(
    tmp_path: Path, torch: str, torchvision: str, taken: str
) -> None:
    assert make_venv.installed_torch(system_with(tmp_path, torch, torchvision)) == taken


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays Python")
def test_a_python_without_torch_has_none(tmp_path: Path) -> None:
    python = system_with(tmp_path, "")
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    assert not make_venv.installed_torch(python)


def test_the_cpu_wheel_is_asked_for_before_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_venv.sys, "platform", "linux")
    torch, package = make_venv.pip_calls("", "cpu", torch="")
    assert make_venv.CPU_INDEX in torch and package[-1] == "." and "--index-url" not in package


@pytest.mark.parametrize(("wanted", "torch"), [("auto", ""), ("new", ""), ("cpu", "2.14.1")])
def test_one_call_of_pip_is_enough_otherwise(wanted: str, torch: str) -> None:
    (call,) = make_venv.pip_calls("dev", wanted, torch)
    assert call[-1] == ".[dev]"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI's torch has no CUDA")
def test_sizes_and_minutes_are_said_and_what_makes_them_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_venv.shutil, "which", lambda _: None)
    first = "\n".join(make_venv.announcement("", "", "auto"))
    assert re.search(r"about 3\.2 GB \(6\.1 GB on disk\)", first) and "TORCH=cpu" in first and " min at " in first
    assert "is taken" in make_venv.announcement("2.14.1", "", "auto")[1]
    assert make_venv.size("2.14.1", "", "auto") < make_venv.size("", "", "cpu") < make_venv.size("", "dev", "cpu")


def test_nothing_is_done_when_only_asked_what_would_be(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make_venv.py"
    words = [sys.executable, "-S", str(script), "--dry-run", "--venv", str(tmp_path / "venv")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "To download" in done.stdout and "pip install" in done.stdout and not any(tmp_path.iterdir())


def test_an_environment_that_is_there_keeps_its_torch(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("a shell script plays Python")
    (tmp_path / "bin").mkdir()
    system_with(tmp_path / "bin", "2.14.1")
    words = ["--dry-run", "--torch", "cpu", "--venv", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_venv.py"), *words], capture_output=True, text=True, check=True
    )
    assert "torch 2.14.1 is there already" in done.stdout and "--index-url" not in done.stdout
