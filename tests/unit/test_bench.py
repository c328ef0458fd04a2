"""``vldistill bench``: rows, their bare products, what is left out and why, and the time that is kept to."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vldistill.cli import main
from vldistill.config import RuntimeConfig
from vldistill.measuring.products import Products
from vldistill.measuring.supervise import measure, table
from vldistill.measuring.timer import peak_of, quickly, repeated
from vldistill.measuring.worker import asked_of, plain, work_through
from vldistill.measuring.works import Asked, names

CPU = torch.device("cpu")


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked("convnet", (16,), 4, ("canonical", "covmatch"), RuntimeConfig(device="cpu", threads=1), str(tmp_path))


def test_products_are_counted_there_and_back_and_replayed() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    products = Products()
    with products:
        layers(torch.randn(2, 3, 8, 8)).sum().backward()
    kinds = sorted(func.overloadpacket.__name__ for func, _ in products.found.elements())
    assert kinds == ["addmm", "convolution", "convolution_backward", "mm", "mm"]
    calls: list[float] = []

    def timed(work: Any) -> float:
        work()
        calls.append(1.0)
        return 2.0

    assert products.found.total() == 5 and products.seconds(timed) == 10.0
    assert quickly(CPU, 0.01)(lambda: None) < 0.01


def test_calls_fit_in_their_time_and_memory_is_that_of_a_call() -> None:
    found = repeated(lambda: time.sleep(0.02), CPU, 0.1)
    assert 1 <= len(found) <= 5 and min(found) >= 0.02
    peak = peak_of(lambda: torch.ones(50_000_000), CPU)
    assert peak is None or 190e6 < peak < 260e6


def test_rows_are_measured_or_say_why_not(asked: Asked) -> None:
    wanted = ["product, bfloat16", "wait for one number", "iteration, canonical, 16 px", "iteration, covmatch, 16 px"]
    assert set(wanted) <= set(names(asked))
    out = io.StringIO()
    work_through(asked, wanted, time.time() + 2, out)
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    begun = [line["begin"] for line in told if "begin" in line]
    rows = {line["row"]: line for line in told if "row" in line}
    assert begun == list(rows) == ["device", *wanted]
    assert rows["device"]["device"] == "cpu"
    assert "for GPUs" in rows["product, bfloat16"]["left_out"] and "both towers" in rows[wanted[3]]["left_out"]
    waited, iteration = rows[wanted[1]], rows[wanted[2]]
    assert waited["unit"] == "waits" and waited["a_second"] == pytest.approx(1 / waited["seconds"])
    assert iteration["calls"] >= 1 and iteration["seconds"] > 0 and iteration["unit"] == "iterations"


def test_what_is_asked_survives_as_text(asked: Asked) -> None:
    assert asked_of(plain(asked)) == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sizes", "8"], "--sizes is '8'; expected pixels"),
        (["--sizes", "big"], "--sizes is 'big'; expected pixels"),
        (["--minutes", "0"], "--minutes is 0; expected more than 0"),
        (["--pairs", "1"], "--pairs is 1; expected at least 2"),
        (["--methods", "bitrj"], "Did you mean bitraj"),
        (["--device", "cuda:77"], "cannot be used here"),
        (["--max_memory", "much"], "runtime.max_memory is 'much'"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_table_has_every_row_and_the_reasons() -> None:
    rows = {
        "a": {"unit": "images", "seconds": 0.01, "a_second": 6400.0, "share": 0.5, "peak_bytes": 10**9, "waits": 2},
        "b": {"left_out": "too little memory"},
        "c": {"unit": "gradients", "seconds": 2.0, "a_second": 0.5},
    }
    text = table({"device": "cpu", "threads": 2, "seconds": 9.0, "rows": rows}).splitlines()
    assert text[0] == "cpu, 2 threads, 9.0 s" and len(text) == 4
    assert all(word in text[1] for word in ("6,400 images/s", "10 ms a call", "50% products", "peak 1.0 GB", "2 waits"))
    assert text[2].endswith("left out: too little memory") and "2 s a call" in text[3]


def test_time_that_is_over_ends_it_and_every_row_says_so(asked: Asked) -> None:
    report = measure(asked, 0.005, lambda line: None)
    seconds = report["seconds"]
    assert isinstance(seconds, float) and seconds < 20
    rows = report["rows"]
    assert isinstance(rows, dict) and list(rows) == list(names(asked))
    assert all(isinstance(row, dict) and row["left_out"] == "the time is over" for row in rows.values())
    assert json.loads(json.dumps(report)) == report


@pytest.mark.slow
def test_the_command_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--image", "convnet", "--sizes", "16", "--pairs", "4", "--methods", "bitraj", "--device", "cpu"]
    began = time.monotonic()
    assert main(["bench", *words, "--minutes", "2", "--json", "--out", str(tmp_path / "bench.json")]) == 0
    assert time.monotonic() - began < 140
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report == json.loads((tmp_path / "bench.json").read_text())
    assert report["device"] == "cpu" and report["rows"]["iteration, bitraj, 16 px"]["a_second"] > 0
    assert "iteration, bitraj, 16 px" in printed.err
