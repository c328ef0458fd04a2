"""What ``benchmarks/fuzz.py`` throws its cases at: each target gets bytes, puts them where they would be, and reads.

A target is ``prepare(place) -> (function of bytes, valid examples, whether they are JSON)``.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from vldistill.comparison.sweepfile import read_sweep
from vldistill.config.plain_yaml import parse_yaml
from vldistill.data.archives import tar_members
from vldistill.data.cache import open_images
from vldistill.data.load import load_pairs, source_summary
from vldistill.data.photos import PhotoLimits, decode
from vldistill.distilled.distilled_set import DistilledSet
from vldistill.encoders.tower import read_weights
from vldistill.errors import VldistillError as VldistillError
from vldistill.experts.trajectory import Trajectory
from vldistill.importers.lors import NAMES
from vldistill.importers.torchfile import read_torch_file
from vldistill.options.words import parse
from vldistill.reporting.records import read_run
from vldistill.storage.arrays import open_array
from vldistill.storage.files import read_json
from vldistill.training.recipe import Recipe
from vldistill.workbench.run_folder import Run

Target = Callable[[bytes], object]
Prepared = tuple[Target, list[bytes], bool]
TARGETS: dict[str, Callable[[Path], Prepared]] = {}


def prepare(name: str, place: Path) -> Prepared:
    """The target ``name``, reading and writing in ``place`` alone."""
    return TARGETS[name](place)


def target(function: Callable[[Path], Prepared]) -> Callable[[Path], Prepared]:
    """Register a target under its function's name."""
    TARGETS[function.__name__] = function
    return function


def photo(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small encoded picture."""
    values = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(values.astype(np.uint16)[..., 0] * 257) if mode == "I;16" else Image.fromarray(values)
    buffer = io.BytesIO()
    (picture if mode == "I;16" else picture.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def beside_photos(place: Path, name: str) -> Target:
    """Read bytes as the json ``name`` beside four photos, in every split."""
    (place / "a.jpg").write_bytes(photo("JPEG"))
    (place / "b.png").write_bytes(photo("PNG"))
    (place / "c.jpg").write_bytes(photo("JPEG", "L"))
    (place / "broken.jpg").write_bytes(b"broken")

    def read(raw: bytes) -> None:
        (place / name).write_bytes(raw)
        for split in source_summary(place)["splits"]:
            pairs = load_pairs(place, split)
            open_images(pairs, 4, place / "cache")

    return read


@target
def karpathy_json(place: Path) -> Prepared:
    """Captions in the Karpathy layout."""
    images = [
        {"filename": name, "imgid": i, "split": split, "sentences": [{"raw": "a dog", "sentid": i}], "filepath": "."}
        for i, (name, split) in enumerate(
            [("a.jpg", "train"), ("b.png", "val"), ("c.jpg", "test"), ("broken.jpg", "train")]
        )
    ]
    return beside_photos(place, "dataset.json"), [json.dumps({"images": images}).encode()], True


@target
def blip_json(place: Path) -> Prepared:
    """Captions in the BLIP layout."""
    records = [{"image": "a.jpg", "caption": "a dog", "image_id": 1}, {"image": "b.png", "caption": ["a cat", "two"]}]
    return beside_photos(place, "x_train.json"), [json.dumps(records).encode()], True


@target
def photos(place: Path) -> Prepared:
    """Encoded pictures of every format that is read."""
    frames = [Image.new("P", (9, 9), color) for color in (0, 1)]
    kinds = [photo(kind) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")]
    kinds += [photo("JPEG", "CMYK"), photo("PNG", "I;16"), photo("PNG", "1"), photo("PNG", "LA"), photo("PNG", "P")]
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds += [photo("JPEG", exif=exif), photo("TIFF", compression="tiff_lzw"), photo("JPEG", progressive=True)]
    for kind in ("GIF", "PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        kinds.append(buffer.getvalue())
    limits = PhotoLimits()
    return (lambda raw: decode(raw, "photo", 8, limits)), kinds, False


@target
def tars(place: Path) -> Prepared:
    """Archives, plain and packed."""
    examples = []
    for mode, kind in (("w", tarfile.PAX_FORMAT), ("w", tarfile.GNU_FORMAT), ("w:gz", tarfile.PAX_FORMAT)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=kind) as archive:  # type: ignore[call-overload]
            for name in ("a.jpg", "folder/" + "long" * 40 + ".txt", "é.json"):
                info = tarfile.TarInfo(name)
                info.size = 5
                archive.addfile(info, io.BytesIO(b"bytes"))
        examples.append(buffer.getvalue())
    path = place / "x.tar"

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        list(tar_members(path))

    return read, examples, False


@target
def configurations(place: Path) -> Prepared:
    """YAML given to --config, and remembered by a run."""
    path, run = place / "given.yaml", Run(place / "run")
    run.folder.mkdir()

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        config, _ = parse("distill", ["--config", str(path), "--run", str(place / "new")])
        run.config_path.write_bytes(raw)
        run.check(config)

    text = "runtime: {device: cpu}\ndata: &d\n  source: scenes\n  strict: true\nencoder:\n  setting: full\n"
    text += (
        "  image: {name: convnet, options: {width: 8}, mean: [0.5, 0.5, 0.5]}\ndistill: {pairs: 5, image_lr: 1e-3}\n"
    )
    return read, [text.encode(), b"distill:\n  <<: {pairs: 3}\n  keep: [0, 1]\n", b"a: &a [1]\nb: [*a, *a]\n"], False


@target
def yaml_values(place: Path) -> Prepared:
    """YAML alone, as plain values."""

    def read(raw: bytes) -> None:
        try:
            json.dumps(parse_yaml(raw.decode("utf-8", "replace")))
        except Exception as error:
            import yaml

            if isinstance(error, ValueError | yaml.YAMLError):
                raise VldistillError(str(error)) from None
            raise

    return read, [b"a: [1, 2.5, x]\nb: {c: null, d: 2001-01-01, <<: {e: 1}}\n", b"? !!str a\n: !!binary aGk=\n"], False


@target
def sweeps(place: Path) -> Prepared:
    """Sweep files of compare, down to their cells."""
    path = place / "sweep.yaml"

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        read_sweep(path).cells()

    sweep = {
        "pairs": [5],
        "seeds": [0],
        "settings": {"heads": {}},
        "towers": {"own": {}},
        "targets": ["random", "full"],
    }
    sweep |= {"methods": {"bilevel": {"options": {"distill.text_lr": 0.1}}}, "minutes": {"5": 1}, "set": {"data": {}}}
    sweep |= {"trials": 2, "grid": {"distill.image_lr": [0.1, 0.2]}, "trial_minutes": 1}
    return read, [json.dumps(sweep).encode()], True


def small_set() -> DistilledSet:
    """Three distilled pairs."""
    tower = {"name": "convnet", "width": 4, "fingerprint": "f", "size": 2, "mean": [0.5] * 3, "std": [0.2] * 3}
    return DistilledSet(
        images=torch.zeros(3, 3, 2, 2),
        texts=torch.zeros(3, 4),
        recipe=Recipe(),
        towers={"image": tower, "text": {"name": "hashing", "width": 4, "fingerprint": "t"}},
        setting="heads",
        similarity=torch.eye(3),
        captions=({"start": "a dog", "nearest": "a cat"},) * 3,
        info={"name": "bitraj-3-s0", "method": "bitraj", "seed": 0, "similarity_floats": 9, "data": "d"},
    )


def used(found: DistilledSet) -> object:
    """What every stage reads of a set."""
    found.check_fits(found.towers)
    return found.stored_floats, found.name, found.pixels(), found.images_for(3, (0.1,) * 3, (0.2,) * 3), found[0]


@target
def set_records(place: Path) -> Prepared:
    """set.json beside sound tensors."""
    small_set().save(place)
    record = json.dumps(read_json(place / "set.json", "set")).encode()  # without its checksum, which would refuse all

    def read(raw: bytes) -> None:
        (place / "set.json").write_bytes(raw)
        found = DistilledSet.load(place)
        used(found)
        found.save(place / "again")

    return read, [record], True


@target
def set_tensors(place: Path) -> Prepared:
    """set.safetensors whose checksum is right."""
    small_set().save(place)
    record = read_json(place / "set.json", "set")
    examples = [
        (place / "set.safetensors").read_bytes(),
        save({"images": torch.zeros(2, 4), "texts": torch.zeros(2, 4)}),
    ]

    def read(raw: bytes) -> None:
        (place / "set.safetensors").write_bytes(raw)
        (place / "set.json").write_text(json.dumps(record | {"sha256": hashlib.sha256(raw).hexdigest()}))
        used(DistilledSet.load(place))

    return read, examples, False


@target
def trajectories(place: Path) -> Prepared:
    """Experts."""
    path = place / "expert-000.safetensors"
    note = json.dumps({"format": 1, "index": 0, "losses": [1.0], "setting": "heads", "dtype": "float32"})
    tensors = {f"{epoch}/{side}/w": torch.zeros(2) for epoch in range(2) for side in ("image", "text")}

    def read(raw: bytes) -> None:
        from vldistill.commands.inspect import describe
        from vldistill.runtime.log import Reporter

        path.write_bytes(raw)
        describe(str(place), Reporter(quiet=True))
        expert = Trajectory(path)
        for epoch in expert.epochs:
            expert.snapshot(epoch)

    return read, [save(tensors, {"vldistill.trajectory": note})], False


@target
def torch_files(place: Path) -> Prepared:
    """Files of torch.save, new and old format."""
    path = place / "x.pt"
    examples = []
    for content in (dict.fromkeys(NAMES, torch.ones(2, 2)), [[[torch.ones(2)] * 2] * 2]):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            examples.append(buffer.getvalue())

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        read_torch_file(path, "published set")

    return read, examples, False


@target
def arrays(place: Path) -> Prepared:
    """.npy files of caches."""
    path = place / "x.npy"
    examples = []
    for array in (np.zeros((3, 4), np.float32), np.zeros(5, np.uint8)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        examples.append(buffer.getvalue())

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        np.asarray(open_array(path, "features")).astype(np.float32).sum()

    return read, examples, False


@target
def image_caches(place: Path) -> Prepared:
    """images.json of a decoded-image cache, and its array: decoding again is the remedy for anything."""
    karpathy_json(place)[0](
        json.dumps({"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}]}).encode()
    )
    pairs = load_pairs(place, "train")
    folder = next((place / "cache").glob("images-*"))

    def read(raw: bytes) -> None:
        number = struct.unpack("<B", raw[:1])[0] if raw else 0
        (folder / ("images.json" if number % 2 else "images.npy")).write_bytes(raw)
        open_images(pairs, 4, place / "cache")

    return read, [(folder / "images.json").read_bytes(), (folder / "images.npy").read_bytes()], True


@target
def weights(place: Path) -> Prepared:
    """Weights of a tower."""
    path = place / "x.safetensors"

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        read_weights(path, "image tower weights", {"a", "b"})

    return read, [save({"a": torch.ones(3, 2), "b": torch.zeros(1, dtype=torch.int64)}, {"format": "pt"})], False


@target
def results(place: Path) -> Prepared:
    """Results and logs that a report is made of."""
    for name in ("results", "sets/x"):
        (place / name).mkdir(parents=True)
    (place / "config.yaml").write_text("data: {source: scenes}\n")
    figures = {name: {"mean": 1.0, "std": 0.1} for name in ("mean_recall", "tr1", "tr5", "tr10", "ir1", "ir5", "ir10")}
    result = {"set": "x", "pairs": 3, "stored_floats": 5, "setting": "heads", "protocol": "last", "generic": figures}

    def read(raw: bytes) -> None:
        (place / "results" / "x.json").write_bytes(raw)
        (place / "metrics.jsonl").write_bytes(raw + b"\n" + raw)
        (place / "env.json").write_bytes(raw)
        (place / "sets" / "x" / "set.json").write_bytes(raw)
        for row in read_run(place, "run").rows:
            str(row.figures["mean_recall"])

    return read, [json.dumps(result).encode()], True
