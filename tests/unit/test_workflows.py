"""What the workflows, the hooks and RELEASING.md run is there: targets of make, scripts, tests, tools, extras."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
FORMS = [path for path in sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")) if path.name != "config.yml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = {
    target
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    if (rule := re.match(r"([\w./ -]+):(?!=)", line)) and not line.startswith(".PHONY")
    for target in rule[1].split()
}
PACKAGES = {re.split(r"[\[>=;]", name)[0] for extra in PROJECT["optional-dependencies"].values() for name in extra}
MODULES = {"pip", "venv", "build", "pytest", "twine"}
OURS = {"python", "ruff", "basedpyright", "mkdocs", "vldistill"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.name


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in read(workflow)["jobs"].values():
        yield from job["steps"]


def lines(text: str) -> Iterator[list[str]]:
    """The commands of a shell block, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if words := shlex.split(command, comments=True):
                yield words


def missing(words: list[str]) -> list[str]:
    """What a command names that is not there."""
    program, rest = words[0], words[1:]
    extras = [extra for found in re.findall(r"\.\[([\w,]+)\]", " ".join(rest)) for extra in found.split(",")]
    lost = [f"extra {extra}" for extra in extras if extra not in PROJECT["optional-dependencies"]]
    lost += [word for word in rest if re.match(r"(tests|scripts|docs)/", word) and not (ROOT / word).exists()]
    if program == "make":
        return lost + [f"target {word}" for word in rest if "=" not in word and word not in TARGETS]
    if re.fullmatch(r"(\.venv/(bin|Scripts)/)?python3?", program):
        return lost + ([f"module {rest[1]}"] if rest[0] == "-m" and rest[1] not in MODULES else [])
    if program.startswith((".venv/", "fresh/")):
        return lost + ([] if Path(program).name in OURS | {"pip"} else [program])
    return lost if program in {"uv", "git", "pip"} else [*lost, f"program {program}"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name)
def test_workflows_run_what_is_there(workflow: Path) -> None:
    runs = [step["run"] for step in steps(workflow) if "run" in step]
    assert runs and not [lost for run in runs for words in lines(run) for lost in missing(words)]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name)
def test_workflows_read_only_and_take_actions_of_a_version(workflow: Path) -> None:
    assert read(workflow)["permissions"] == {"contents": "read"} and "secrets." not in workflow.read_text(
        encoding="utf-8"
    )
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    assert all(("run" in step) != ("uses" in step) for step in steps(workflow))


def test_every_supported_python_and_system_is_tested() -> None:
    matrix = read(ROOT / ".github/workflows/checks.yml")["jobs"]["test"]["strategy"]["matrix"]
    said = {match[1] for line in PROJECT["classifiers"] if (match := re.fullmatch(r"Programming.*:: (3\.\d+)", line))}
    assert set(matrix["python"]) == said and f">={min(said)}" == PROJECT["requires-python"]
    assert [system.partition("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]


def test_a_command_that_is_not_there_is_found() -> None:
    wrong = (
        "make none",
        "python -m none",
        ".venv/bin/none",
        "python scripts/none.py",
        "uv pip install .[none]",
        "none",
    )
    assert all(missing(words) for command in wrong for words in lines(command))


def test_hooks_are_tools_of_the_environment() -> None:
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert hooks and len({hook["id"] for hook in hooks}) == len(hooks)
    for hook in hooks:
        (words,) = lines(hook["entry"])
        assert not missing(words) and Path(words[0]).name in PACKAGES and hook["language"] == "system"


def test_releasing_runs_what_is_there() -> None:
    text = (ROOT / "RELEASING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert blocks and not [lost for block in blocks for words in lines(block) for lost in missing(words)]
    assert all(target in TARGETS for target in re.findall(r"`make (\w+)`", text))
    assert all((ROOT / path).exists() for path in re.findall(r"`((?:src|tests|scripts)/[^\s`]+)`", text))


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_forms_ask_for_something(form: Path) -> None:
    read_form = read(form)
    assert read_form["name"] and read_form["description"]
    identifiers = [field["id"] for field in read_form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(field["type"] in {"textarea", "input"} and field["attributes"]["label"] for field in read_form["body"])
    assert any(field["validations"]["required"] for field in read_form["body"])
