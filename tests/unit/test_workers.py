from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from vldistill.evaluate.workers import Job, Workers, cores, only_one

from vldistill.errors import ConfigError, Stopped
from vldistill.evaluate.cells import CellFailed


class Heard(list[tuple[str, BaseException | None]]):
    """What the main thread hears of jobs."""

    def __call__(self, job: Job, error: BaseException | None) -> None:
        self.append((job.name, error))


def test_a_command_runs_in_a_process_of_its_own_with_its_words_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log.txt"
    workers = Workers(1, 1)
    workers.launch(["--version"], log)
    with pytest.raises(CellFailed, match=r"`vldistill evalate` refused \(exit code 2\): unknown stage.*evaluate"):
        workers.launch(["evalate"], log)
    said = log.read_text().splitlines()
    assert said[0] == "$ vldistill --version" and said[1].startswith("vldistill 0")
    assert "$ vldistill evalate" in said


def test_no_more_jobs_than_workers_and_needs_come_first() -> None:
    order: list[str] = []
    running, most = 0, 0
    guard = threading.Lock()

    def work(name: str) -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with guard:
            running -= 1
            order.append(name)

    names = [("late", ("early",)), ("early", ()), *((f"free{i}", ()) for i in range(5)), ("orphan", ("nobody",))]
    heard = Heard()
    Workers(2, 1).run([Job(name, lambda name=name: work(name), needs) for name, needs in names], heard)
    assert sorted(order) == sorted(name for name, _ in names) == sorted(name for name, _ in heard)
    assert order.index("early") < order.index("late") and most == 2


def test_a_failed_job_is_heard_and_the_others_go_on() -> None:
    def fail() -> None:
        raise CellFailed("broken")

    heard = Heard()
    Workers(1, 1).run([Job("a", fail), Job("b", lambda: None, ("a",))], heard)
    assert [(name, str(error)) for name, error in heard] == [("a", "broken"), ("b", "None")]


def test_nothing_starts_after_stopping(tmp_path: Path) -> None:
    workers = Workers(1, 1)
    assert workers.stop() == 0
    with pytest.raises(Stopped):
        workers.launch(["--version"], tmp_path / "log.txt")
    with pytest.raises(Stopped):
        workers.run([Job("a", lambda: pytest.fail("started"))], Heard())


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_two_comparisons_never_share_a_folder_and_a_child_holds_it(tmp_path: Path) -> None:
    with only_one(tmp_path) as lock:
        assert lock is not None
        with pytest.raises(ConfigError, match="in use by another"), only_one(tmp_path):
            pass
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    try:
        with pytest.raises(ConfigError, match="left behind"), only_one(tmp_path):
            pass
    finally:
        child.communicate(b"\n")
    with only_one(tmp_path):
        pass


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_ctrl_c_asks_running_work_to_end_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    workers = Workers(1, 1)
    begun = threading.Event()

    def work() -> Any:
        begun.set()
        while not workers.stopping:
            time.sleep(0.01)
        raise Stopped("stopped")

    def interrupt() -> None:
        begun.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    heard = Heard()
    with pytest.raises(Stopped, match="finished cells are kept"):
        workers.run([Job("a", work), Job("b", lambda: pytest.fail("started"))], heard)
    sender.join()
    assert [name for name, _ in heard] == ["a"] and "once more stops at once" in capfd.readouterr().err
