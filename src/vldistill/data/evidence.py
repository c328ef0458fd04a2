"""What files hold, seen from a little of each: recognition goes by content, as sidecars lie beside most data sets."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

from vldistill.data.archives import open_tar_members
from vldistill.data.columns import CAPTIONS, IMAGES
from vldistill.data.jsonfile import HEAD_BYTES, head_of
from vldistill.data.patterns import listed
from vldistill.data.samples import IMAGE_SUFFIXES, TEXT_SUFFIXES, key_of
from vldistill.data.tables import Layout, layout_of
from vldistill.errors import DataError

ENOUGH = 200  # members of a tar that are listed to see what it holds
RECORDS = re.compile(rb"\[\s*\{")
BY_NAME = re.compile(
    rb'\{\s*"[^"]{1,1000}\.(?:%s)"\s*:\s*["\[]' % "|".join(sorted(IMAGE_SUFFIXES)).replace(".", "").encode()
)
TARS = (".tar", ".tar.gz", ".tgz")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".token", ".token.txt", ".list")


def json_kind(path: Path) -> str:
    """``karpathy``, ``blip`` or ``coco`` for a json file with captions of images; empty for any other."""
    head = head_of(path)
    if head.startswith(b"{") and b'"sentences"' in head and b'"filename"' in head:
        return "karpathy"
    if RECORDS.match(head) and _has(head, IMAGES) and _has(head, CAPTIONS):
        return "blip"
    if BY_NAME.match(head):
        return "blip"
    both = head + _tail(path) if head.startswith(b"{") else b""
    if b'"caption_str"' in both and b'"image_id"' in both:
        return "blip"  # of TextCaps
    lists = b'"images"' in both or b'"annotations"' in both
    return "coco" if lists and b'"file_name"' in both and b'"caption"' in both else ""


def _has(head: bytes, keys: tuple[str, ...]) -> bool:
    """Whether a json begins with one of some keys."""
    return any(f'"{key}"'.encode() in head for key in keys)


def json_files(folder: Path) -> list[Path]:
    """The json files of a folder and of its annotations/."""
    return [*listed(folder, "*.json"), *listed(folder, "annotations/*.json")]


def caption_jsons(folder: Path) -> dict[Path, str]:
    """The json files of a folder and of its annotations/ that hold captions of images, with their kind."""
    kinds = {file: json_kind(file) for file in json_files(folder)}
    return {file: kind for file, kind in kinds.items() if kind}


def passed_over(folder: Path, reader: str) -> list[Path]:
    """The files of a folder that hold captions for other readers than the one that reads it."""
    if not folder.is_dir():
        return []
    kinds = {file: kind for file, kind in caption_jsons(folder).items() if kind != reader}
    found = {
        "wds": lambda: sample_tars(folder),
        "csv": lambda: caption_tables(folder),
        "parquet": lambda: picture_tables(listed(folder, "*.parquet")),
    }
    return [*kinds, *(file for kind, files in found.items() if kind != reader for file in files())]


def is_tar(path: Path) -> bool:
    """Whether a path is named like a tar, compressed or not."""
    return path.name.lower().endswith(TARS) and not path.name.startswith("._")


def is_table_name(path: Path) -> bool:
    """Whether a file is named like a table that may hold captions."""
    return path.name.lower().endswith(TABLES) and not path.name.startswith("._")


def sample_tars(folder: Path) -> list[Path]:
    """The tars of a folder, or of the folders in it, where the first of them holds captioned samples."""
    tars = tars_of(folder)
    return tars if any(map(holds_samples, tars[:3])) else []


def tars_of(folder: Path) -> list[Path]:
    """The tars of a folder, or of the folders in it."""
    inside = (sorted(path for path in folder.glob(place) if is_tar(path) and path.is_file()) for place in ("*", "*/*"))
    return next(filter(None, inside), [])


def holds_samples(path: Path) -> bool:
    """Whether the first members of a tar are images together with texts of the same names."""
    try:
        names = [member.name for member in islice(open_tar_members(path), ENOUGH)]
    except DataError:
        return True  # reading it reports what is wrong
    images = {key for key, suffix in map(key_of, names) if suffix in IMAGE_SUFFIXES}
    texts = {key for key, suffix in map(key_of, names) if suffix in TEXT_SUFFIXES}
    return bool(images & texts) or (bool(names) and not images)


def caption_tables(folder: Path) -> list[Path]:
    """The tables of a folder whose columns name images and captions."""
    return [path for path in tables_of(folder) if _captioned(path)]


def tables_of(folder: Path) -> list[Path]:
    """The files of a folder that are named like tables."""
    return sorted(path for path in folder.iterdir() if is_table_name(path) and path.is_file())


def _captioned(path: Path) -> bool:
    try:
        return layout_of(path, {}, str(path)).kind != Layout.UNKNOWN
    except DataError:
        return path.suffix.lower() in (".csv", ".tsv")  # reading it reports what is wrong


def picture_tables(paths: list[Path]) -> list[Path]:
    """The parquet files with a column of images' bytes or paths; all of them where pyarrow is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        return paths
    return [path for path in paths if _pictured(parquet, path)]


def _pictured(parquet: Any, path: Path) -> bool:
    try:
        schema = parquet.read_schema(path)
    except Exception:  # pyarrow raises nearly anything on broken bytes; reading it reports what is wrong
        return True
    names = {name.lower() for name in schema.names}
    bytes_of = any("binary" in str(kind) for kind in schema.types)
    return bytes_of or (bool(names & {*IMAGES}) and bool(names & {*CAPTIONS}))


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            handle.seek(max(handle.seek(0, 2) - HEAD_BYTES, 0))
            return handle.read(HEAD_BYTES)
    except OSError:
        return b""
