"""The reader of pairs that are given by their vectors."""

from __future__ import annotations

from pathlib import Path

from vldistill.data.embedded.collection import EmbeddedCollection
from vldistill.data.embedded.columns import parts_of_dataset
from vldistill.data.embedded.gather import gathered
from vldistill.data.embedded.recognise import is_embedded
from vldistill.data.embedded.remote import is_remote, local_copy
from vldistill.data.embedded.shards import find_parts
from vldistill.data.reader import path_reader
from vldistill.data.readers import hf
from vldistill.data.source import Source

HUB = "hf:"  # before a name on the hub; hf:// is a path there
OPTIONS = (
    "image", "text", "caption", "id", "split", "table", "images", "norms", "image_tower", "text_tower", "config",
    "revision",
)  # fmt: skip


@path_reader("embeddings", looks=is_embedded, options=OPTIONS)
def read(source: Source) -> EmbeddedCollection:
    """Vectors of both sides: img_emb/ and text_emb/ of clip-retrieval, DataComp's .npz, a.npy with b.npy, and others.

    Also .safetensors, parquet with two columns of lists, Hugging Face data sets (hf:OWNER/NAME, or save_to_disk), and
    addresses of fsspec (s3://, gs://, hf://). Options: ``image`` and ``text`` (the array, column or kind of file of
    each side), ``caption``, ``id``, ``split`` (columns), ``table`` (a table by row or key), ``images`` (the folder of
    pictures to show), ``norms`` (unit, any), ``image_tower`` and ``text_tower`` (their names).
    """
    if source.path.startswith(HUB) and not is_remote(source.path):
        plain = Source(source.text, source.kind, source.path.removeprefix(HUB), source.options)
        parts, account = parts_of_dataset(hf.loaded(plain), source)
        return gathered(parts, [account], source, Path())
    place = local_copy(source.path) if is_remote(source.path) else source.place
    if hf.is_saved(place):
        local = Source(source.text, source.kind, str(place), source.options)
        parts, account = parts_of_dataset(hf.loaded(local), source)
        return gathered(parts, [account], source, place)
    parts, account = find_parts(place, source)
    return gathered(parts, [account], source, place if place.is_dir() else place.parent)
