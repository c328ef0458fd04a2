"""Write a data source or a set in another format, with a card."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from vldistill.convert.records import Export, files_to_write
from vldistill.convert.writers import WRITERS
from vldistill.data.photos import PHOTO_LIMITS, PhotoLimits
from vldistill.distilled.remote import is_set_on_hub, local_folder
from vldistill.errors import ConfigError, DataError
from vldistill.runtime.log import Reporter
from vldistill.storage.files import storage_errors
from vldistill.storage.locks import held
from vldistill.version import __version__


def open_export(
    path: str,
    splits: Sequence[str] = (),
    *,
    strict: bool = False,
    origin: str = "",
    limits: PhotoLimits = PHOTO_LIMITS,
) -> Export:
    """Open a data source or a set for export. Raises DataError.

    Args:
        path: a data source, or the folder of a set.
        splits: to export; empty is all.
        strict: refuse a source with unusable entries.
        origin: the source of a coreset, if it is not the one recorded in the set.
        limits: larger photos count as broken.
    """
    from vldistill.config import expand
    from vldistill.convert.sets import export_set
    from vldistill.data.load import read_collection

    if is_set_on_hub(path):
        path = str(local_folder(path))
    if (Path(path).expanduser() / "set.json").is_file():
        return export_set(Path(path).expanduser(), origin, limits)
    collection = read_collection(expand(path)).limited(limits)
    present = collection.splits_present()
    lacking = [split for split in splits if split not in present]
    if lacking:
        raise DataError(f"{path} has no split {', '.join(lacking)}. It has: {', '.join(present)}.")
    chosen = {split: collection.pairs(split, strict=strict) for split in splits or present}
    return Export(path, chosen, notes=tuple(f"{name}: {note}" for name, own in chosen.items() for note in own.notes))


def write_export(
    export: Export, to: str, out: Path, reporter: Reporter, *, shard: int = 10_000, strict: bool = False
) -> Path:
    """Write an export in format ``to``; the folder ``out`` appears complete or not at all.

    Raises:
        ConfigError: ``out`` exists, or the disk is too small.
        DataError: an image cannot be read, with ``strict``.
    """
    if out.exists():
        raise ConfigError(f"--out {out} exists already. Delete it, or choose another folder.")
    for note in export.notes:
        reporter.warn(note)
    with held(out.with_name(f".{out.name}.lock"), str(out)):
        if out.exists():  # another process has just written it
            raise ConfigError(f"--out {out} exists already. Delete it, or choose another folder.")
        leftovers = re.compile(rf"\.{re.escape(out.name)}\.\d+\.tmp")
        for path in [path for path in out.parent.iterdir() if leftovers.fullmatch(path.name)]:
            shutil.rmtree(path, ignore_errors=True)  # left by a killed process
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        with storage_errors(out):
            temporary.mkdir(parents=True)
        try:
            counts = _write(export, to, temporary, out.name, reporter, shard, strict)
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    total = sum(count["images"] for count in counts.values())
    captions = sum(count["captions"] for count in counts.values())
    reporter.info(f"{total:,} images, {captions:,} captions in {out}" + (", lossy" if export.lossy else ""))
    return out


def _write(
    export: Export, to: str, folder: Path, name: str, reporter: Reporter, shard: int, strict: bool
) -> dict[str, dict[str, int]]:
    """Write the files and the card; returns the number of images and captions written, by split."""
    counts: dict[str, dict[str, int]] = {}
    broken: list[str] = []
    names: set[str] = set()
    images = sum(pairs.count_images for pairs in export.splits.values())
    with reporter.progress(f"images to {to}", images) as bar:
        records = {
            split: files_to_write(pairs, broken, counts.setdefault(split, {}), bar, strict=strict, elsewhere=names)
            for split, pairs in export.splits.items()
        }
        WRITERS[to].write(folder, records, shard)
    notes = list(export.notes)
    if broken:
        notes.append(f"{len(broken):,} image{'s' if len(broken) > 1 else ''} left out: {'; '.join(broken[:3])}")
        reporter.warn(notes[-1])
    (folder / "README.md").write_text(_card(export, to, name, counts, notes), encoding="utf-8")
    return counts


def _card(export: Export, to: str, name: str, counts: dict[str, dict[str, int]], notes: Sequence[str]) -> str:
    """The text of README.md: front matter for machines, a description for people."""
    about = {
        "made_by": f"vldistill {__version__} convert",
        "source": export.source,
        "format": to,
        "lossy": bool(export.lossy),
        **({"why_lossy": export.lossy} if export.lossy else {}),
        "splits": counts,
        **({"set": dict(export.about)} if export.about else {}),
        **({"left_out": list(notes)} if notes else {}),
    }
    front = yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=110)
    lines = [f"- {split}: {c['images']:,} images, {c['captions']:,} captions" for split, c in counts.items()]
    lossy = f"**This is a lossy export.** {export.lossy}\n\n" if export.lossy else ""
    return (
        f"---\n{front}---\n\n# {name}\n\n{lossy}Image-caption pairs written by `vldistill convert` from "
        f"`{export.source}`.\n\n" + "\n".join(lines) + "\n\nThe terms of the data they come from apply.\n"
    )
