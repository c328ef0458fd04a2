"""Throw broken and hostile input at everything that reads from outside, and count what comes of it.

    python benchmarks/fuzz.py --seconds 60 --out docs/results/fuzz.json

Every target is fuzzed by atheris (coverage-guided, ``pip install atheris``) in a process of its own, from small valid
examples. A case has to end in a result or in one of our own errors, within 5 s and 1 GB, without a write outside the
folder it was given, a process or a connection. Anything else is a finding: its input is kept in ``--keep``, and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MOST_SECONDS, MOST_BYTES = 5.0, 1_000_000_000
WORDS = (
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    "",
    "\0",
    "../x",
    "/etc/passwd",
    "a\nb",
    "\ud800",
    "<b>",
    [],
    {},
    [[]],
    [None],
)


class Hang(BaseException):
    """A case that took more than MOST_SECONDS."""


@dataclass
class Tally:
    """What came of the cases of one target."""

    place: Path
    keep: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, str]] = field(default_factory=list)
    slowest: float = 0.0
    armed: bool = False

    def find(self, what: str, raw: bytes) -> None:
        """Keep the first few inputs of each kind of finding."""
        self.outcomes["FINDING"] += 1
        if sum(one["what"] == what for one in self.findings) < 2 and len(self.findings) < 40:
            path = self.keep / f"{self.place.name}-{len(self.findings)}.bin"
            path.write_bytes(raw)
            self.findings.append({"what": what, "input": path.name})

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: no case may write elsewhere, start a process or open a connection."""
        if not self.armed:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
            self.outcomes["RAN"] += 1
            raise Hang(f"{event} {arguments}")
        if event == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            writes = isinstance(mode, str) and set(mode) & set("wax+")
            writes = writes or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")
            path = arguments[0] if arguments else None
        if writes and isinstance(path, str | bytes | os.PathLike):
            full = Path(os.fsdecode(path)).absolute()
            if not full.is_relative_to(self.place) and full != Path("/dev/null"):
                raise Hang(f"writes {full}")


def main() -> int:
    """Fuzz every target in turn, or be one worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--targets", nargs="*", default=None, help="all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="statistics, a json file")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="inputs of findings")
    asked = parser.parse_args()
    asked.keep = asked.keep.absolute()
    asked.keep.mkdir(parents=True, exist_ok=True)
    atheris: Any = import_module("atheris")  # it brings no types
    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["vldistill", "yaml", "tarfile"]):
        import fuzz_sources
        import fuzz_targets

    assert fuzz_sources  # it has registered its targets
    rows = {}
    for name in asked.targets or fuzz_targets.TARGETS:
        rows[name] = run_worker(name, asked)
        print(name, json.dumps(rows[name]), flush=True)
    total = {
        "cases": sum(row["cases"] for row in rows.values()),
        "seconds": round(sum(row["seconds"] for row in rows.values()), 1),
        "slowest_case_seconds": max(row["slowest_case_seconds"] for row in rows.values()),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows.values()),
        "findings": sum(len(row["findings"]) for row in rows.values()),
    }
    print(json.dumps(total))
    if asked.out:
        asked.out.write_text(json.dumps(statement(asked) | {"total": total, "targets": rows}, indent=2) + "\n")
    return 1 if total["findings"] else 0


def statement(asked: argparse.Namespace) -> dict[str, Any]:
    """What was run, on what."""
    from vldistill.workbench.run_folder import commit

    return {
        "command": f"python benchmarks/fuzz.py {' '.join(sys.argv[1:])}",
        "commit": commit(),
        "seed": asked.seed,
        "limits": {"seconds": MOST_SECONDS, "bytes": MOST_BYTES},
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("atheris", "pillow", "torch", "safetensors", "pyyaml")},
    }


def run_worker(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One target in a process of its own; one that dies or does not come back is a finding."""
    done, said = asked.keep / f"{name}.json", asked.keep / f"{name}.stderr"
    done.unlink(missing_ok=True)
    process = os.fork()  # everything is imported and instrumented already
    if process == 0:
        with said.open("wb") as handle:
            os.dup2(handle.fileno(), 1)
            os.dup2(handle.fileno(), 2)
        try:
            work(name, asked.seconds, asked.seed, asked.keep)
        finally:
            traceback.print_exc()
            os._exit(1)
    died = ""
    late = time.monotonic() + asked.seconds + 60
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
        if time.monotonic() > late:
            os.kill(process, signal.SIGKILL)
            died = "the process did not come back"
        time.sleep(0.2)
    if not died and (ended[1] or not done.exists()):
        died = f"the process ended with {os.waitstatus_to_exitcode(ended[1])}"
    empty = {"cases": 0, "seconds": 0.0, "outcomes": {}, "slowest_case_seconds": 0.0, "peak_memory_bytes": 0}
    row = json.loads(done.read_text()) if done.exists() else empty | {"findings": []}
    done.unlink(missing_ok=True)
    if died:
        row["findings"].append({"what": died, "input": said.name})
    else:
        said.unlink()
    return row


def work(name: str, seconds: float, seed: int, keep: Path) -> None:
    """Fuzz one target until the time is over; ends the process."""
    import atheris

    import fuzz_targets

    place = Path(tempfile.mkdtemp(prefix="fuzz-")) / name
    corpus = place.with_name("corpus")
    for folder in (place, corpus):
        folder.mkdir()
    target, examples, structured = fuzz_targets.prepare(name, place)
    for number, example in enumerate(examples):
        (corpus / str(number)).write_bytes(example)
    tally = Tally(place, keep)
    with contextlib.suppress(fuzz_targets.VldistillError):
        target(examples[0])  # what is imported and cached once is no case
    before, began = peak(), time.monotonic()
    sys.addaudithook(tally.audit)

    def test(raw: bytes) -> None:
        if time.monotonic() - began > seconds:
            took = time.monotonic() - began
            report(keep / f"{name}.json", tally, took, before)
            os._exit(0)
        judge(target, raw, tally, fuzz_targets.VldistillError)

    def mutate(raw: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        changed = change_json(raw, draw) if structured and draw.random() < 0.7 else None
        return atheris.Mutate(raw, most) if changed is None else changed[:most]

    options = [
        f"-seed={seed + 1}",
        "-timeout=0",
        "-rss_limit_mb=0",
        "-max_len=65536",
        f"-artifact_prefix={keep}/{name}-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test, custom_mutator=mutate)
    atheris.Fuzz()


def judge(target: Callable[[bytes], object], raw: bytes, tally: Tally, own: type[Exception]) -> None:
    """One case: how it ended, and how long it took."""

    def late(*_: object) -> None:
        raise Hang(f"more than {MOST_SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    start, found, tally.armed = time.monotonic(), "", True
    try:
        target(raw)
        tally.outcomes["result"] += 1
    except own as error:
        tally.outcomes[type(error).__name__] += 1
    except Hang as hang:
        found = str(hang)
    except Exception as error:
        found = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        tally.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    if found:
        tally.find(found, raw)
    tally.slowest = max(tally.slowest, time.monotonic() - start)


def report(path: Path, tally: Tally, seconds: float, before: int) -> None:
    """Write what one worker has to say."""
    grown = peak() - before
    if grown > MOST_BYTES:
        tally.find(f"{grown:,} bytes of memory", b"")
    row = {
        "cases": sum(tally.outcomes.values()),
        "seconds": round(seconds, 1),
        "outcomes": dict(tally.outcomes.most_common()),
        "slowest_case_seconds": round(tally.slowest, 3),
        "peak_memory_bytes": grown,
        "findings": tally.findings,
    }
    path.write_text(json.dumps(row))


def peak() -> int:
    """Peak resident memory of this process, bytes."""
    from vldistill.runtime.memory import peak_memory

    return peak_memory()


def holders(value: Any) -> list[Any]:
    """The lists and objects in a JSON value that are not empty."""
    found: list[Any] = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict | list) and one:
            found.append(one)
            left += list(one.values()) if isinstance(one, dict) else one
    return found


def change_json(raw: bytes, draw: random.Random) -> bytes | None:
    """The JSON in ``raw`` with one place of it changed: another type, a strange text, doubled, or gone."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    places = holders(value)
    if not places:
        return None
    holder = draw.choice(places)
    key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
    action = draw.randrange(4)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, list):
        holder.append(holder[key])
    elif action == 2 and isinstance(holder, dict):
        holder[str(draw.choice(WORDS))] = holder[key]
    else:
        holder[key] = draw.choice(WORDS)
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return None


if __name__ == "__main__":
    sys.exit(main())
