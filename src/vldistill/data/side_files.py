"""Tables beside the data: csv, tsv, jsonl and parquet files with a row for an image or a pair."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from vldistill.config.plain import Plain
from vldistill.data.containers import readable, require_parquet
from vldistill.errors import ConfigError

IMAGE_COLUMNS = ("image", "image_name", "name", "filepath", "file_name", "file", "key", "uid")
"""Columns that may say which image a row is about; the first that is there counts."""


def read_table(path: Path, option: str) -> dict[str, list[Plain]]:
    """The columns of a csv, tsv, jsonl or parquet file, by name. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{option} {path} does not exist; expected a .csv, .tsv, .jsonl or .parquet file.")
    ending = path.suffix.lower()
    if ending == ".parquet":
        with readable(path):
            return require_parquet().read_table(path).to_pydict()
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            if ending in (".csv", ".tsv"):
                header, *rows = list(csv.reader(handle, delimiter="\t" if ending == ".tsv" else ",")) or [[]]
                bad = next((line for line, row in enumerate(rows, 2) if row and len(row) != len(header)), None)
                if bad:
                    raise ValueError(f"line {bad} has {len(rows[bad - 2])} cells, the header {len(header)}")
                return {name: [row[place] for row in rows if row] for place, name in enumerate(header)}
            if ending in (".jsonl", ".ndjson"):
                records = [json.loads(line) for line in handle if line.strip()]
                known = dict.fromkeys(name for record in records for name in record)
                return {name: [record.get(name, "") for record in records] for name in known}
    except (OSError, ValueError, UnicodeDecodeError, AttributeError, TypeError, csv.Error) as error:
        raise ConfigError(f"{option} {path} cannot be read ({error}). Correct the file.") from None
    raise ConfigError(f"{option} {path}: expected a .csv, .tsv, .jsonl or .parquet file.")
