"""Locks that name their holder, stay out of the way, and die with their process. Holders are real processes."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from vldistill.errors import ConfigError, InUseError
from vldistill.storage.locks import held, held_with_children

HOLD = """
import sys
from pathlib import Path
from vldistill.storage.locks import held
with held(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    input()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_told_who_holds_it_and_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    process = holder(path)
    with process, held(tmp_path / ".other", "another artefact"):
        where = rf"the set is in use by another process \(process {process.pid} on {platform.node()}\)"
        with pytest.raises(InUseError, match=where) as raised, held(path, "the set"):
            pytest.fail("held twice")
        assert isinstance(raised.value, ConfigError)  # the command line says it and exits with 2
        process.kill()
        process.wait()
        assert path.exists()
        with held(path, "the set"):
            pass
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == []


def test_a_lock_is_left_when_the_work_fails_and_a_remnant_of_any_kind_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_bytes(b"\xff not json")
    with pytest.raises(RuntimeError), held(path, "it"):
        raise RuntimeError
    assert not path.exists()
    with held(path, "it"):
        pass
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="children inherit no locks there")
def test_a_child_that_outlives_its_parent_still_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_with_children(path, "it") as handle:
        assert handle is not None
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(handle,))
    with child:
        with pytest.raises(InUseError, match="one that it left behind"), held_with_children(path, "it"):
            pass
        assert path.exists()
        child.kill()
    with held_with_children(path, "it"):
        pass


COUNT = """
import sys
from pathlib import Path
from vldistill.storage.locks import held
count = Path(sys.argv[1]) / "count"
for _ in range(60):
    with held(count.with_name(".lock"), "it", wait_seconds=60):
        count.write_text(str(int(count.read_text()) + 1))
"""


def test_of_many_processes_one_holds_it_at_a_time_though_each_removes_the_file(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "180" and len(list(tmp_path.iterdir())) == 1
