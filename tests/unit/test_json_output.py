"""``--json``: one JSON object, and nothing else, on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vldistill.cli import main
from vldistill.commands.shared import print_record
from vldistill.options.parser import ABOUT
from vldistill.storage.files import write_record

WITHOUT = {
    "experts",
    "encode",
    "report",
    "convert",
    "import",
    "train",
    "push",
    "export",
}  # they print a path, or nothing


@pytest.mark.parametrize("kind", ["methods", "selectors", "towers", "readers", "settings", "configs"])
def test_every_listing(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and all(row["name"] and row["about"] for row in rows)


def test_a_method_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "methods", "bitraj", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert "bitraj.syn_steps=8" in row["details"]


@pytest.mark.parametrize("command", sorted(set(ABOUT) - WITHOUT))
def test_every_command_with_results_offers_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    assert "--json" in capsys.readouterr().out


def test_a_record_is_printed_without_its_checksum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "set.json", {"pairs": 4, "name": "naïve"})
    print_record(tmp_path / "set.json", "set", set="there")
    assert json.loads(capsys.readouterr().out) == {"set": "there", "pairs": 4, "name": "naïve"}
