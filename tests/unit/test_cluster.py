from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from units_for_tests import appended, ends, refused, waits_for_a_stop, works

from vldistill.cluster import Launch, Unit, UnitFailed, run_units
from vldistill.cluster.commands import Commands
from vldistill.cluster.local import LocalProcesses, cores, visible_devices
from vldistill.cluster.options import Place
from vldistill.cluster.shards import Shard
from vldistill.errors import ConfigError, InUseError, Stopped
from vldistill.runtime.interrupts import PARENT
from vldistill.runtime.log import Reporter
from vldistill.storage.locks import held_with_children

QUIET = Reporter(quiet=True)


class Ended(list[tuple[str, UnitFailed | None]]):
    """The final results of units, as the main thread receives them."""

    def __call__(self, unit: Unit, error: UnitFailed | None) -> None:
        self.append((unit.name, error))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vldistill.cluster.units.PAUSE_SECONDS", 0.001)


def test_a_command_runs_in_a_process_of_its_own_with_its_words_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log.txt"
    commands = Commands(1)
    commands.launch(["--version"], log)
    with pytest.raises(UnitFailed, match=r"`vldistill evalate` refused \(exit code 2\): unknown command.*eval") as met:
        commands.launch(["evalate"], log)
    assert met.value.kind == "refused"
    said = log.read_text().splitlines()
    assert said[0] == "$ vldistill --version" and said[1].startswith("vldistill 0")
    assert "$ vldistill evalate" in said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process of its parent's death")
def test_a_command_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"
    child = (
        "import pathlib, time, sys\nfrom vldistill.runtime.interrupts import end_with_parent, stop_at_once\n"
        "import signal; signal.signal(signal.SIGTERM, stop_at_once); end_with_parent()\n"
        f"pathlib.Path({str(began)!r}).touch()\n"
        f"try: time.sleep(60)\nexcept KeyboardInterrupt: pathlib.Path({str(ended)!r}).touch()\n"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], env={{**os.environ, {PARENT!r}: str(os.getpid())}})"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        _patiently(began.exists)
        process.kill()
    _patiently(ended.exists)


def _patiently(condition: object) -> None:
    until = time.monotonic() + 60
    while not condition():  # pyright: ignore[reportCallIssue]
        assert time.monotonic() < until
        time.sleep(0.02)


def test_no_more_units_than_slots_and_needs_come_first(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    names = [("late", ("early",)), ("early", ()), *((f"free{i}", ()) for i in range(5)), ("orphan", ("nobody",))]
    units = [Unit(name, partial(works, notes=str(notes), name=name), after=after) for name, after in names]
    ended = Ended()
    with LocalProcesses(2, 1) as backend:
        assert run_units(units, backend, ended, QUIET) == {}
    events = notes.read_text().split()
    running = most = 0
    for event in events:
        running += 1 if event.startswith("+") else -1
        most = max(most, running)
    assert most == 2 and events.index("-early") < events.index("+late")
    assert sorted(name for name, _ in ended) == sorted(name for name, _ in names)


def test_what_always_fails_is_tried_again_listed_and_stops_nothing_but_what_needs_it(tmp_path: Path) -> None:
    notes = {"notes": str(tmp_path / "notes")}
    units = [
        Unit("broken", partial(ends, **notes, kind="failed")),
        Unit("lost", partial(ends, **notes, kind="lost")),
        Unit("refused", partial(refused, **notes)),
        Unit("needs", partial(works, **notes, name="needs"), needs=("broken",)),
        Unit("after", partial(works, **notes, name="after"), after=("broken",)),
    ]
    ended = Ended()
    with LocalProcesses(1, 1) as backend:
        failed = run_units(units, backend, ended, QUIET, retries=2)
    words = (tmp_path / "notes").read_text().split()
    assert [words.count(name) for name in ("failed", "lost", "refused")] == [3, 3, 1]
    assert "+after" in words and "+needs" not in words
    assert {name: str(error) for name, error in failed.items()} == {
        "broken": "it is failed",
        "lost": "it is lost",
        "refused": "never",
        "needs": "broken failed: it is failed",
    }
    assert {name for name, error in ended if error is None} == {"after"}


def test_a_lost_process_is_done_again(tmp_path: Path) -> None:
    place = tmp_path / "tries"
    with LocalProcesses(1, 1) as backend:
        failed = run_units([Unit("a", partial(appended, place=str(place), enough=3))], backend, Ended(), QUIET)
    assert failed == {} and place.read_text() == "xxx"


def test_nothing_starts_after_stopping(tmp_path: Path) -> None:
    commands = Commands(1)
    assert commands.stop() == 0
    with pytest.raises(Stopped):
        commands.launch(["--version"], tmp_path / "log.txt")


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_a_command_inherits_the_lock_of_its_comparison(tmp_path: Path) -> None:
    script = tmp_path / "sitecustomize.py"
    script.write_text(
        "import os, time\nopen(os.environ['BEGUN'], 'w').close()\ntime.sleep(float(os.environ['SLEEP']))\n"
    )
    begun = tmp_path / "begun"
    environment = {"PYTHONPATH": str(tmp_path), "BEGUN": str(begun), "SLEEP": "60"}
    with held_with_children(tmp_path / ".lock", "the board") as lock:
        commands = Commands(1, lock, environment=environment)
        thread = threading.Thread(target=_launched, args=(commands, tmp_path / "log.txt"))
        thread.start()
        _patiently(begun.exists)
    try:
        with pytest.raises(InUseError, match="in use by another"), held_with_children(tmp_path / ".lock", "the board"):
            pass
    finally:
        commands.kill()
        thread.join()
    with held_with_children(tmp_path / ".lock", "the board"):
        pass


def test_an_interrupt_that_wakes_no_system_call_stops_a_command(tmp_path: Path) -> None:
    """As Ray's do, which takes a task back by setting Python's flag and no more."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nopen(os.environ['BEGUN'], 'w').close()\ntime.sleep(60)\n"
    )
    begun = tmp_path / "begun"
    commands = Commands(1, environment={"PYTHONPATH": str(tmp_path), "BEGUN": str(begun)})

    def interrupt() -> None:
        _patiently(begun.exists)
        _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        sender = threading.Thread(target=interrupt)
        sender.start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            commands.launch(["--version"], tmp_path / "log.txt")
        sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 50


def _launched(commands: Commands, log: Path) -> None:
    with suppress(UnitFailed, Stopped):
        commands.launch(["--version"], log)


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_ctrl_c_asks_running_work_to_end_and_says_so(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    begun = threading.Event()
    backend = LocalProcesses(1, 1)

    def interrupt() -> None:
        begun.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    sender.start()
    units = [
        Unit("a", partial(waits_for_a_stop, begun=begun, commands=backend.commands)),
        Unit("b", partial(works, notes=str(tmp_path / "b"), name="b")),
    ]
    with pytest.raises(Stopped, match="finished units are kept"), backend:
        run_units(units, backend, Ended(), QUIET)
    sender.join()
    assert not (tmp_path / "b").exists() and "a second request stops at once" in capfd.readouterr().err


def test_each_slot_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def launch(own: Commands, words: object, log: Path, environment: dict[str, str]) -> None:
        seen.append(environment["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr(Commands, "launch", launch)
    units = [Unit(f"u{i}", _launches) for i in range(6)]
    with LocalProcesses(2, 1, devices=("3", "5")) as backend:
        run_units(units, backend, Ended(), QUIET)
    assert len(seen) == 6 and set(seen) == {"3", "5"}
    seen.clear()
    with Place(workers=1, gpus=0).backend(QUIET) as backend:
        run_units(units[:2], backend, Ended(), QUIET)
    assert seen == ["", ""]  # no GPU for anybody
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_devices() == ("3", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == ()


def _launches(launch: Launch) -> None:
    launch(["x"], Path("log"))


def test_shards_share_everything_once() -> None:
    items = list(range(11))
    parts = [Shard(number, 4).of(items) for number in range(1, 5)]
    assert sorted(item for part in parts for item in part) == items and max(map(len, parts)) == 3
    assert Shard.parse("4/4") == Shard(4, 4) and Shard(7, 7).of(items[:3]) == []


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected I/N with I from 1 to N"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 0}, "--workers is 0; expected 1 to"),
        ({"workers": 10**6}, "the CPU cores that this process may use"),
        ({"cluster": "auto", "shard": Shard(1, 2)}, "Leave one of them out"),
        ({"retries": -1}, "--retries -1"),
        ({"cpus": 0}, "--cpus is 0"),
        ({"gpus": 0.5}, "--gpus is 0.5; processes of this machine take one GPU each"),
    ],
)
def test_a_place_that_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Place(**options)
