"""What lies beside an exported student: ``export.json``, the tokenizer, a README."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vldistill.config.plain import Plain
from vldistill.convert.student_sides import StudentParts
from vldistill.encoders.clip import ClipTextTower
from vldistill.encoders.text_towers import TransformersTextTower
from vldistill.errors import ArtefactError
from vldistill.storage.files import storage_errors, write_json, write_text
from vldistill.version import __version__

RECORD = "export.json"


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder``. Raises ArtefactError where something is there already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtefactError(f"{folder} is there already and is not empty. Choose a new folder.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with storage_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        yield temporary
        with storage_errors(folder):
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def record_of(student: StudentParts, sides: Collection[str], more: Mapping[str, Plain], folder: Path) -> None:
    """Write the record, the tokenizer and a README."""
    bench, record = student.bench, {"made_by": f"vldistill {__version__}", **more}
    if "image" in sides:
        tower = bench.image_tower
        record["image"] = {
            "tower": tower.name,
            "input": "pixel_values",
            "size": tower.size,
            "mean": list(tower.mean),
            "std": list(tower.std),
            "resize": "to a square by bicubic interpolation, without a crop; RGB in [0, 1], minus mean, by std",
        }
    if "text" in sides:
        record["text"] = {"tower": bench.text_tower.name, **_tokenizer(student, folder)}
        record["text"]["clean_captions"] = student.clean_captions
    record["embedding"] = bench.embedding_width
    record["logit_scale"] = float(student.encoder.logit_scale)
    record["made_from"] = {name: str(value) for name, value in student.about.items()}
    write_json(folder / RECORD, record)
    if not (folder / "README.md").exists():
        write_text(folder / "README.md", _readme(record))


def _tokenizer(student: StudentParts, folder: Path) -> dict[str, Plain]:
    """Save the tokenizer; returns what the inputs of the text side are."""
    tower = student.bench.text_tower
    if isinstance(tower, ClipTextTower):
        about = f"open_clip.get_tokenizer({str(tower.note['open_clip'])!r})"
        return {"inputs": ["input_ids"], "tokenizer": about, "max_tokens": tower.max_tokens, "length": tower.context}
    assert isinstance(tower, TransformersTextTower)
    tower.tokenizer.save_pretrained(folder)
    return {
        "inputs": ["input_ids", "attention_mask"],
        "tokenizer": "in this folder, transformers.AutoTokenizer",
        "max_tokens": tower.max_tokens,
    }


def _readme(record: Mapping[str, Plain]) -> str:
    made_from = record["made_from"]
    name = made_from.get("set", "a set") if isinstance(made_from, Mapping) else "a set"
    return (
        f"# A student of {name}, as {record['format']}\n\nExported by {record['made_by']}. `{RECORD}` says what its "
        f"inputs are: size, mean and std of pictures, the tokenizer of texts. Embeddings have length 1; their products "
        f"are cosine similarities.\n\nThe terms of the real data and of the towers apply to it too.\n"
    )
