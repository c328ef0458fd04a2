"""A student's folder: ``student.safetensors``, a readable ``student.json`` and a card; never a pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vldistill.api.asking import settings
from vldistill.config import Config
from vldistill.config.plain import Record
from vldistill.distilled.distilled_set import STANDARDISATION
from vldistill.encoders.dual import DualEncoder
from vldistill.errors import ArtefactError, ConfigError
from vldistill.options.merge import resolved
from vldistill.runtime.log import Reporter
from vldistill.storage.files import read_json, read_tensors, write_record, write_tensors, write_text
from vldistill.training.recipe import Recipe
from vldistill.workbench.bench import Workbench
from vldistill.workbench.opening import open_bench

FORMAT = 1
WEIGHTS, RECORD, CARD = "student.safetensors", "student.json", "README.md"
PREFIX = "encoder."  # of the dual encoder's tensors; the others are the standardisation


@dataclass(frozen=True)
class StudentRecord:
    """What a student's folder says beside its weights.

    Args:
        config: sections ``encoder`` and ``data`` of the configuration.
        recipe: by which it was trained.
        made_from: see Student.
    """

    config: Config
    recipe: Recipe
    made_from: Record


def write_student(folder: Path, record: StudentRecord, bench: Workbench, encoder: DualEncoder) -> Path:
    """Write a student's folder; the record last. Raises ArtefactError for a folder that holds other things."""
    check_place(folder)
    weights = {f"{PREFIX}{name}": tensor for name, tensor in encoder.state_dict().items()}
    write_tensors(folder / WEIGHTS, {**weights, **bench.standardisation})
    plain: dict[str, Any] = {
        "format": FORMAT,
        "setting": bench.setting,
        "encoder": asdict(record.config.encoder),
        "data": asdict(record.config.data),
        "towers": bench.towers,
        "recipe": record.recipe.to_dict(),
        "made_from": dict(record.made_from),
        "versions": bench.versions,
        "sha256": _hash(folder / WEIGHTS),
    }
    write_text(folder / CARD, _card(plain))
    write_record(folder / RECORD, plain)
    return folder


def check_place(folder: Path) -> None:
    """Refuse a folder that holds something else: a student's card would replace its README. Raises ArtefactError."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / RECORD).exists())):
        raise ArtefactError(f"{folder} holds something else than a student. Choose a new or an empty folder.")


def read_student(
    folder: Path, options: Mapping[str, object], lines: Reporter
) -> tuple[StudentRecord, Workbench, DualEncoder]:
    """Read and check a student; ``options`` change its configuration. Raises ArtefactError."""
    plain = _record(folder)
    record = _understood(folder, plain, options)
    tensors, _ = read_tensors(folder / WEIGHTS, "student")
    if _hash(folder / WEIGHTS) != plain.get("sha256"):
        raise ArtefactError(f"{folder / WEIGHTS} does not match its checksum. Restore it, or train the student again.")
    known = {name: tensors[name] for name in STANDARDISATION if name in tensors}
    bench = open_bench(record.config, lines, standardisation=known)
    _check_towers(folder, plain, bench)
    encoder = bench.student(0)
    weights = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ArtefactError(f"{folder / WEIGHTS} does not fit its own configuration ({reason}). Restore it.") from None
    _check_standardisation(folder, bench, known)
    return record, bench, encoder.eval()


def _record(folder: Path) -> Record:
    path = folder / RECORD
    if not path.is_file():
        what = "it has no student.json" if folder.exists() else "there is no such folder"
        raise ArtefactError(f"{folder} is not a student: {what}. Expected a folder that `Student.save` wrote.")
    plain = read_json(path, "student")
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not a student of format {FORMAT}. Use the version that wrote it.")
    return plain


def _understood(folder: Path, plain: Record, options: Mapping[str, object]) -> StudentRecord:
    """The values of a record. Raises ArtefactError for what is garbled, ConfigError for options that cannot be."""
    path, made_from = folder / RECORD, plain.get("made_from")
    try:
        recipe = Recipe.from_dict(plain["recipe"])  # pyright: ignore[reportArgumentType]
        sections = {name: plain[name] for name in ("encoder", "data")}
        config = resolved(sections, str(path))
        if not isinstance(made_from, dict):
            raise ConfigError("made_from is missing")
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise ArtefactError(f"{path} lacks or garbles something ({error}). Restore it, or train again.") from None
    return StudentRecord(settings(config, options) if options else config, recipe, made_from)


def _check_towers(folder: Path, plain: Record, bench: Workbench) -> None:
    """Refuse towers with other weights or of another kind than the student was trained with."""
    kept, here = plain.get("towers"), bench.towers
    for side in ("image", "text"):
        old = kept.get(side) if isinstance(kept, Mapping) else None
        fingerprint = old.get("fingerprint") if isinstance(old, Mapping) else None
        if fingerprint != here[side]["fingerprint"]:
            name = old.get("name") if isinstance(old, Mapping) else None
            raise ArtefactError(
                f"{folder} was trained with the {side} tower {name!r} of fingerprint {fingerprint}; here "
                f"{here[side]['name']!r} has {here[side]['fingerprint']}. Give the weights it was trained with: "
                f"Student.load(folder, **{{'encoder.{side}.weights': PATH}})."
            )


def _check_standardisation(folder: Path, bench: Workbench, known: Mapping[str, torch.Tensor]) -> None:
    """Refuse a student without the mean and scale that its inputs need, or with those of another width."""
    for side in needed_sides(bench.setting):
        width = (bench.image_tower if side == "image" else bench.text_tower).width
        for part in ("mean", "scale"):
            found = known.get(f"{side}_{part}")
            if found is None or tuple(found.shape) != (width,):
                shape = "none" if found is None else tuple(found.shape)
                raise ArtefactError(f"{folder / WEIGHTS}: {side}_{part} is {shape}; expected ({width},). Restore it.")


def needed_sides(setting: str) -> tuple[str, ...]:
    """The sides that read standardised features of a frozen tower."""
    return {"heads": ("image", "text"), "both": ()}.get(setting, ("text",))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _card(plain: Mapping[str, Any]) -> str:
    """Markdown about a student."""
    image, text, made_from = plain["towers"]["image"], plain["towers"]["text"], plain["made_from"]
    recipe, encoder = plain["recipe"], plain["encoder"]
    vectors = bool(image.get("kind"))
    one, two = plain["data"].get("sides") or ("photos", "texts")
    towers = [
        f"| image tower | `{image['name']}` at {image['size']} px, weights `{encoder['image']['weights']}`, "
        f"fingerprint {image['fingerprint']} |",
        f"| text tower | `{text['name']}`, weights `{encoder['text']['weights']}`, fingerprint {text['fingerprint']} |",
    ]
    if vectors:
        sides = ((one, image), (two, text))
        towers = [f"| {side} | vectors of `{own['name']}`, {own['width']} wide |" for side, own in sides]
    use = (
        "scores = student.similarity(vectors, others)  # (N, M) cosines"
        if vectors
        else 'student.search("a dog on the beach", "photos/", top=5)'
    )
    lines = [
        f"# A student of {made_from.get('set', 'a set')}",
        "",
        f"A dual encoder of {one} and {two}, trained by `vldistill`. Trained parts are in `student.safetensors`; "
        "frozen towers are not: they are found by name, and checked by fingerprint.",
        "",
        "| | |",
        "|---|---|",
        *towers,
        f"| setting | `{plain['setting']}` |",
        f"| recipe | loss {recipe['loss']}, {recipe['epochs']} epochs, batch {recipe['batch']} |",
        f"| data of the set | fingerprint {made_from.get('data', 'unknown')} |",
        "",
        "```python",
        "import vldistill as vd",
        "",
        'student = vd.Student.load("this folder")',
        use,
        "```",
        "",
        "The terms of the real data and of the towers apply to it too.",
        "",
    ]
    return "\n".join(lines)
