"""More targets of ``benchmarks/fuzz.py``: sources that images live in, or that lie in tables."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from fuzz_targets import Prepared, Target, photo, target
from vldistill.data.cache import open_images
from vldistill.data.load import load_pairs, source_summary


def reading(place: Path, name: str, kind: str) -> Target:
    """Read bytes as the file ``name`` of a source of one kind, with three photos beside it, in every split."""
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for picture, form in (("a.jpg", "JPEG"), ("b.png", "PNG"), ("c.jpg", "JPEG")):
        (place / picture).write_bytes(photo(form))
    source = f"{kind}:{place if kind == 'folder' else path}"

    def read(raw: bytes) -> None:
        path.write_bytes(raw)
        for split in source_summary(source)["splits"]:
            open_images(load_pairs(source, split), 4, place / "cache")

    return read


@target
def coco_json(place: Path) -> Prepared:
    """COCO captions."""
    pictures = ["a.jpg", "b.png", "c.jpg"]
    record = {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": name, "width": 12, "height": 9} for i, name in enumerate(pictures)],
        "annotations": [{"id": i, "image_id": i % 3, "caption": "a dog"} for i in range(4)],
    }
    return reading(place, "captions_train2017.json", "coco"), [json.dumps(record).encode()], True


@target
def csv_tables(place: Path) -> Prepared:
    """csv and tsv."""
    examples = [b'filepath,title\na.jpg,a dog\nb.png,"a, cat"\n', b"filepath\ttitle\nc.jpg\ta dog\na.jpg\ttwo\n"]
    return reading(place, "pairs.csv", "csv"), examples, False


@target
def folder_texts(place: Path) -> Prepared:
    """Captions in a text file and in a json beside photos."""
    read_text = reading(place, "a.txt", "folder")
    (place / "b.txt").write_text("a cat")

    def read(raw: bytes) -> None:
        (place / "c.json").write_bytes(raw)
        read_text(raw)

    return read, [b"a dog\ntwo dogs\n", b'{"captions": ["a dog", "two"]}'], False


@target
def webdataset_tars(place: Path) -> Prepared:
    """Shards."""
    examples = []
    for texts in ({"txt": b"a dog"}, {"json": b'{"caption": "a dog"}'}):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for key in ("000", "001"):
                for ending, content in {"jpg": photo("JPEG"), **texts}.items():
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        examples.append(buffer.getvalue())
    return reading(place, "shard-000.tar", "wds"), examples, False


def vectors(place: Path, name: str, source: str, table: str = "") -> Target:
    """Read bytes as the file ``name`` of a source of vectors, beside one side of nine rows and perhaps a table."""
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "b.npy", np.random.default_rng(0).normal(size=(9, 3)).astype(np.float16))
    if table:
        (place / table).write_text("key,caption\n" + "".join(f"{row},text {row}\n" for row in range(9)))

    def read(raw: bytes) -> None:
        (place / name).write_bytes(raw)
        for split in source_summary(source)["splits"]:
            pairs = load_pairs(source, split)
            assert pairs.vectors is not None and pairs.fingerprint
            assert np.isfinite(pairs.vectors.image.read(np.arange(pairs.count_images))).all()

    return read


def nine(kind: type = np.float32) -> np.ndarray:
    """Nine vectors of four numbers."""
    return np.random.default_rng(1).normal(size=(9, 4)).astype(kind)


@target
def vector_arrays(place: Path) -> Prepared:
    """One side of pairs as .npy."""
    examples = []
    for array in (nine(np.float16), nine(np.float64), np.asfortranarray(nine())):
        buffer = io.BytesIO()
        np.save(buffer, array)
        examples.append(buffer.getvalue())
    return vectors(place, "a.npy", f"embeddings:{place}", "about.csv"), examples, False


@target
def vector_tables(place: Path) -> Prepared:
    """The table beside vectors."""
    np.save(place / "a.npy", nine())
    rows = "".join(f"{row},text {row},train\n" for row in range(9))
    examples = [f"key,caption,split\n{rows}".encode(), b"uid\turl\n" + b"x\thttps://example.org\n" * 9]
    return vectors(place, "about.csv", f"embeddings:{place}"), examples, False


@target
def vector_archives(place: Path) -> Prepared:
    """Both sides in a .npz file."""
    examples = []
    for write in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        write(buffer, allow_pickle=False, img=nine(), txt=nine(np.float16))
        examples.append(buffer.getvalue())
    return vectors(place, "both.npz", f"embeddings:{place / 'both.npz'}"), examples, False


@target
def vector_tensors(place: Path) -> Prepared:
    """Both sides in a .safetensors file."""
    examples = [save({"image": nine(), "text": nine(np.float16)})]
    return vectors(place, "both.safetensors", f"embeddings:{place / 'both.safetensors'}"), examples, False


@target
def vector_columns(place: Path) -> Prepared:
    """Both sides as columns of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": list(nine()), "text": list(nine()), "id": list(range(9))}), buffer)
    return vectors(place, "both.parquet", f"embeddings:{place / 'both.parquet'}"), [buffer.getvalue()], False


@target
def parquet_tables(place: Path) -> Prepared:
    """Tables with the bytes of images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: Any = pa.table({"image": [photo("JPEG"), photo("PNG")], "caption": ["a dog", "a cat"], "name": ["a", "b"]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return reading(place, "train.parquet", "parquet"), [buffer.getvalue()], False
