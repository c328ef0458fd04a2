"""The benchmark of large sources: what it makes is read, and its table follows a straight line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_scripts import benchmark
from vldistill.data.load import load_pairs

ROOT = Path(__file__).resolve().parents[2]


def test_made_sources_are_read_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = benchmark("scale")
    monkeypatch.setattr(scale, "SHARD", 400)
    scale.make(tmp_path / "source-1000", 1000)
    assert len(list((tmp_path / "source-1000").iterdir())) == 3
    pairs = load_pairs(f"{tmp_path / 'source-1000'}?val=0&test=0", "train", strict=True)
    assert pairs.count_captions == 1000 and len(set(pairs.captions)) == 1000
    assert pairs.images.read(999).size == (scale.SIDE, scale.SIDE)
    with scale.own_memory() as own:
        held = bytearray(80_000_000)
        scale.time.sleep(0.2)
    assert len(held) < own[0] < 10**11


def test_the_table_extrapolates_in_a_straight_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = benchmark("tables")
    monkeypatch.setattr(tables, "LARGER", {"ten times": 2_000})
    rows = [
        {
            "images": images,
            "stages": {
                "read": {"cpu_seconds": 7200 + 36 * images, "own_bytes": 10**9 + 10**6 * images, "resident_bytes": 7}
            },
            "source_bytes": 1,
            "cache_bytes": 2,
            "environment": {"commit": "abc"},
        }
        for images in (100, 200)
    ]
    table = tables.scale_table({"rows": rows, "command": "python x"})
    assert "| read  | 10800 s, 1.10 GB | 14400 s, 1.20 GB | 22.0 h, 3 GB" in table
    assert tables.table_of({"rows": rows[:1], "command": "python x"}).count("|\n") == 3, "no line through one size"
