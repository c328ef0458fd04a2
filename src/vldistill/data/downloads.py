"""What img2dataset says of its downloads: tables with the key and status of each, beside the images or with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vldistill.data.account import Account, Ledger
from vldistill.data.containers import readable, require_parquet
from vldistill.errors import DataError, MissingExtraError

COLUMNS = ("key", "status")


def tells_downloads(columns: Collection[str]) -> bool:
    """Whether a table says of each image whether it was downloaded."""
    return {*COLUMNS} <= {*columns}


def why_failed(status: Any) -> str:
    """Why an image was not downloaded; empty for one that was."""
    return "" if status in ("success", None) else f"not downloaded: {str(status).replace('_', ' ')}"


def account_of_downloads(tables: Iterable[Path], keys: Collection[str]) -> Sequence[Account]:
    """The account of the rows of the tables that tell downloads, joined with the ``keys`` of the images that are there.

    Tables that cannot be read tell nothing, and nor do any where pyarrow is not installed.
    """
    ledger, seen = Ledger("downloads"), 0
    for path in tables:
        with suppress(DataError, MissingExtraError):
            rows = _rows(path)
            seen += len(rows)
            for key, status in rows:
                if key in keys:
                    ledger.use()
                else:
                    ledger.leave(why_failed(status) or "downloaded, but not there", f"key {key}")
    return [ledger.close(seen)] if seen else []


def _rows(path: Path) -> list[tuple[Any, Any]]:
    """The keys and statuses in a table; none of one without these columns. Raises DataError and MissingExtraError."""
    parquet = require_parquet()
    with readable(path), parquet.ParquetFile(path) as file:
        if not tells_downloads(file.schema_arrow.names):
            return []
        return list(zip(*(file.read(columns=[column]).column(column).to_pylist() for column in COLUMNS)))
