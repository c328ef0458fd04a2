"""The process that measures: a row at a time, each reported when it begins and when it ends, as lines of JSON.

It may be killed at any row: by a device that is out of memory, or by the command, whose time is over.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict
from typing import TextIO

import torch

from vldistill.config import RuntimeConfig
from vldistill.config.plain import Plain
from vldistill.errors import VldistillError
from vldistill.measuring.products import Products
from vldistill.measuring.timer import once, peak_of, quickly, repeated, waits_of
from vldistill.measuring.works import Asked, Row, rows_of
from vldistill.runtime.devices import choose_device
from vldistill.runtime.memory import available_memory
from vldistill.runtime.micro_batches import free_memory, is_short_of_memory

CALLS, PRODUCTS = 0.5, 0.25  # parts of a row's time: for repeated calls, and for its bare products
BRIEF = 0.05  # seconds for each kind of product, at most


def measured(row: Row, device: torch.device, seconds: float) -> dict[str, Plain]:
    """A row's figures, in about ``seconds`` where one call is shorter than that.

    Raises:
        VldistillError: it cannot be measured here; the message says why.
    """
    work = row.make()
    until = time.perf_counter() + seconds
    found: dict[str, Plain] = {"unit": work.unit, "first_call_seconds": once(work.call, device)}
    calls = repeated(work.call, device, CALLS * seconds)
    each = statistics.median(calls)
    found |= {"seconds": each, "calls": len(calls), "a_second": work.count / each}
    left = until - time.perf_counter()
    if left > 2 * each:
        found |= {"peak_bytes": peak_of(work.call, device), "waits": waits_of(work.call, device)}
    left = until - time.perf_counter()
    if left > 3 * each:
        products = Products()
        with products:
            work.call()
        brief = min(PRODUCTS * seconds / max(len(products.found), 1), BRIEF)
        if products.found and until - time.perf_counter() > len(products.found) * brief:
            bare = products.seconds(quickly(device, brief))
            found |= {"products": products.found.total(), "products_seconds": bare, "share": min(bare / each, 1.0)}
    return found


def about(device: torch.device) -> dict[str, Plain]:
    """The device in words and numbers."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "free_bytes": available_memory(device),
        "bfloat16": device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False),
    }


def work_through(asked: Asked, names: list[str], until: float, out: TextIO) -> None:
    """Measure the rows ``names``, each in an equal part of the time that is left until ``until`` (of the clock)."""

    def tell(**line: Plain) -> None:
        print(json.dumps(line), file=out, flush=True)

    tell(begin="device")
    device = choose_device(asked.runtime)
    with Products():  # what torch loads for it takes seconds, which are no row's
        torch.zeros(1, device=device).add_(1)
    tell(row="device", **about(device))
    rows = {row.name: row for row in rows_of(asked)}
    for place, name in enumerate(names):
        seconds = (until - time.time()) / (len(names) - place)
        tell(begin=name)
        try:
            tell(row=name, **measured(rows[name], device, seconds))
        except VldistillError as error:
            tell(row=name, left_out=str(error))
        except RuntimeError as error:
            short = is_short_of_memory(error)
            tell(row=name, left_out="too little memory" if short else f"failed: {str(error).splitlines()[0][:200]}")
            free_memory(device)


def plain(asked: Asked) -> str:
    """``asked`` as JSON, for :func:`asked_of`."""
    return json.dumps(asdict(asked))


def asked_of(text: str) -> Asked:
    """The inverse of :func:`plain`."""
    values = json.loads(text)
    lists = {name: tuple(values[name]) for name in ("sizes", "methods")}
    return Asked(**{**values, **lists, "runtime": RuntimeConfig(**values["runtime"])})


def main() -> None:
    """Asked, names and the end of the time, as three words."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no line of ours
    work_through(asked_of(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3]), out)


if __name__ == "__main__":
    main()
