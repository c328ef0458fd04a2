"""Makes .venv for ``make``: says what will be downloaded and how long it may take, then shows pip at work.

A torch that is there already is taken. Nothing but Python is needed: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Gigabytes to download and on disk, measured on Linux with Python 3.11 in November 2026.
TORCH_WITH_CUDA, TORCH_ALONE, REST = (3.0, 5.3), (0.2, 0.8), (0.2, 0.8)
EXTRAS = {"": (0.0, 0.0), "dev": (0.3, 0.9), "docs": (0.1, 0.2), "notebooks": (0.1, 0.2)}
SELDOM = r"/tests?/|transformers/models/|ray/(rllib|serve|train|tune|llm)/|/networkx/"  # compiled when it is imported
FOUND = "import importlib.metadata as m; print(m.version('torch'), m.version('torchvision'))"


def version(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (2, 14, 1) of "2.14.1+cpu"."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def lowest(package: str) -> str:
    """The oldest version of a package that pyproject.toml allows."""
    found = re.search(rf'"{package}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found, f"pyproject.toml has no lowest version of {package}"
    return found[1]


def installed_torch(python: Path | str) -> str:
    """The version of torch that a Python has beside torchvision, if both are new enough; else nothing."""
    done = subprocess.run([str(python), "-c", FOUND], capture_output=True, text=True, check=False)
    versions = done.stdout.split() if done.returncode == 0 else []
    enough = [version(has) >= version(lowest(name)) for has, name in zip(versions, ("torch", "torchvision"))]
    return versions[0] if enough == [True, True] else ""


def size(torch: str, extra: str, wanted: str) -> tuple[float, float]:
    """Gigabytes to download and on disk, where that torch is there already and that one is wanted."""
    cuda = sys.platform == "linux" and wanted in ("auto", "new")
    parts = [REST, EXTRAS[extra]] + ([] if torch else [TORCH_WITH_CUDA if cuda else TORCH_ALONE])
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def announcement(torch: str, extra: str, wanted: str) -> list[str]:
    """What is said before anything is downloaded."""
    download, disk = size(torch, extra, wanted)
    minutes = max(1, round(download * 8000 / 100 / 60))
    tools = f" and the tools of [{extra}]" if extra else ""
    lines = [
        f"Installing vldistill{tools} into .venv, with Python {platform.python_version()}.",
        f"torch {torch} is there already and is taken."
        if torch
        else "torch is not there yet: it is most of the download.",
        f"To download: about {download:.1f} GB ({disk:.1f} GB on disk), less what is there or in pip's cache.",
        f"That takes about {minutes} min at 100 Mbit/s, and unpacking some minutes more.",
    ]
    if not torch and sys.platform == "linux" and wanted == "auto" and not shutil.which("nvidia-smi"):
        smaller = size("", extra, "cpu")[0]
        lines.append(f"No NVIDIA GPU was found: with TORCH=cpu it is about {smaller:.1f} GB (docs/install.md).")
    return lines


def make(venv: Path, system: bool) -> None:
    """An environment, which sees the system's packages where its torch is to be taken."""
    words = [sys.executable, "-m", "venv", str(venv), *(["--system-site-packages"] if system else [])]
    if subprocess.run(words, check=False).returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise SystemExit(
            "Python cannot make environments here. On Debian and Ubuntu: apt install python3-venv, as root."
        )


def python_of(venv: Path) -> Path:
    """The Python of an environment."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def pip_calls(extra: str, wanted: str, torch: str) -> list[list[str]]:
    """What pip is asked for, one call after the other."""
    install = ["-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    package = [*install, "--editable", f".[{extra}]" if extra else "."]
    if torch or wanted in ("auto", "new") or (wanted == "cpu" and sys.platform != "linux"):  # PyPI's has no CUDA there
        return [package]
    index = CPU_INDEX if wanted == "cpu" else wanted
    return [
        [*install, "--index-url", index, f"torch>={lowest('torch')}", f"torchvision>={lowest('torchvision')}"],
        package,
    ]


def compile_all(venv: Path) -> None:
    """Compiles what was installed and is often imported, on all cores: pip takes three times as long, on one."""
    words = ["-m", "compileall", "-qq", "-j", "0", "-x", SELDOM, str(venv / "lib")]
    subprocess.run([str(python_of(venv)), *words], check=False)


def main(words: list[str] | None = None) -> None:
    """``make_venv.py [--extra NAME] [--torch auto|new|cpu|INDEX] [--dry-run]``."""
    if sys.version_info < (3, 11):  # noqa: UP036  # whoever has an older one reads this
        raise SystemExit("vldistill needs Python 3.11 or newer; try make PYTHON=python3.12")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", default="", choices=EXTRAS, help="tools to install beside the package")
    parser.add_argument("--torch", default="auto", help="auto, new (never the system's), cpu, or the index of wheels")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    options = parser.parse_args(words)
    there = python_of(options.venv).is_file()
    torch = installed_torch(python_of(options.venv)) if there else ""
    system = "" if there or options.torch != "auto" else installed_torch(sys.executable)
    print(*announcement(torch or system, options.extra, options.torch), sep="\n", flush=True)
    calls = pip_calls(options.extra, options.torch, torch or system)
    if options.dry_run:
        print(*(" ".join(["pip", *call[2:]]) for call in calls), sep="\n")
        return
    if not there:
        make(options.venv, bool(system))
    for call in calls:
        if code := subprocess.run([str(python_of(options.venv)), *call], cwd=ROOT, check=False).returncode:
            raise SystemExit(code)
    compile_all(options.venv)


if __name__ == "__main__":
    main()
