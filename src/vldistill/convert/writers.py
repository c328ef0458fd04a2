"""One function per output format. The reader of the same name reads it back."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vldistill.convert.records import Record
from vldistill.data.containers import require_datasets
from vldistill.data.readers.wds import NAME_KEY

if TYPE_CHECKING:
    from datasets import Dataset, Features

Records = Mapping[str, Iterator[Record]]
HF_SPLIT = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Writer:
    """An output format: one line for listings, and ``write(folder, records by split, images per shard)``."""

    about: str
    write: Callable[[Path, Records, int], None]


def write_wds(folder: Path, records: Records, shard: int) -> None:
    """``train-00000.tar``, ...: per image its file, ``.txt`` with the first caption and ``.json`` with all captions."""
    for split, own in records.items():
        number = 0
        while first := list(islice(own, 1)):
            with tarfile.open(folder / f"{split}-{number:05d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
                rest = islice(own, shard - 1)
                for place, record in enumerate(chain(first, rest), start=number * shard):
                    about = {"captions": record.captions, NAME_KEY: record.name}
                    _add(archive, f"{place:09d}{PurePosixPath(record.file).suffix.lower()}", record.raw)
                    _add(archive, f"{place:09d}.txt", record.captions[0].encode())
                    _add(archive, f"{place:09d}.json", json.dumps(about, ensure_ascii=False).encode())
            number += 1


def _add(archive: tarfile.TarFile, name: str, raw: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(raw), 0o644  # no time and no owner: the same pairs give the same bytes
    archive.addfile(member, BytesIO(raw))


def write_folder(folder: Path, records: Records, shard: int) -> None:
    """``train/NAME.jpg`` and ``train/NAME.txt``, a caption per line; ``.json`` if a caption has line breaks."""
    for split, own in records.items():
        for record in own:
            path = folder / split / record.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(record.raw)
            if any("\n" in caption or "\r" in caption for caption in record.captions):
                text = json.dumps({"captions": record.captions}, ensure_ascii=False)
                path.with_suffix(".json").write_text(text, encoding="utf-8")
            else:
                path.with_suffix(".txt").write_text("\n".join(record.captions) + "\n", encoding="utf-8")


def write_csv(folder: Path, records: Records, shard: int) -> None:
    """``pairs.csv`` with filepath, title and split, a row per caption, and ``images/``."""
    taken: set[str] = set()
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["filepath", "title", "split"])
        for split, own in records.items():
            for record in own:
                file = record.file if record.file.casefold() not in taken else f"{split}/{record.file}"
                taken.add(file.casefold())
                path = folder / "images" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(record.raw)
                rows.writerows([file, caption, split] for caption in record.captions)


def write_hf(folder: Path, records: Records, shard: int) -> None:
    """A DatasetDict for ``datasets.load_from_disk``: image, captions, image_name; val is called validation."""
    datasets = require_datasets()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "image_name": datasets.Value("string"),
        }
    )
    with ExitStack() as stack:
        if datasets.utils.logging.is_progress_bar_enabled():
            datasets.utils.logging.disable_progress_bar()
            stack.callback(datasets.utils.logging.enable_progress_bar)
        tables = {HF_SPLIT[split]: _table(folder, split, own, features) for split, own in records.items()}
        datasets.DatasetDict(tables).save_to_disk(folder)
        del tables
    for part in folder.glob("*.rows.arrow"):
        part.unlink()


def _table(folder: Path, split: str, records: Iterator[Record], features: Features) -> Dataset:
    """A split as a memory-mapped table, written a thousand rows at a time."""
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    path = folder / f"{split}.rows.arrow"
    with ArrowWriter(path=str(path), features=features, writer_batch_size=1000) as writer:
        for record in records:
            image = {"bytes": record.raw, "path": PurePosixPath(record.file).name}
            writer.write({"image": image, "captions": record.captions, "image_name": record.name})
        writer.finalize()
    return Dataset.from_file(str(path))


WRITERS = {
    "wds": Writer("WebDataset tars", write_wds),
    "hf": Writer("a Hugging Face dataset (save_to_disk)", write_hf),
    "folder": Writer("images with .txt files", write_folder),
    "csv": Writer("a csv and images", write_csv),
}
