"""Small sources of every layout that people have: each function writes one into a folder, with twelve photos.

Photo ``n`` is ``photo(n)`` and its captions begin with ``caption n``.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.conftest import add_member, photo

NUMBERS = range(12)
SPLITS = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}


def caption(number: int, letter: str = "a") -> str:
    return f"caption {number} {letter}"


def put(path: Path, raw: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())


def photos(folder: Path, numbers: Iterable[int] = NUMBERS, name: str = "{}.jpg") -> None:
    for n in numbers:
        put(folder / name.format(n), photo(n))


def split_of(number: int) -> str:
    return next(split for split, numbers in SPLITS.items() if number in numbers)


def karpathy(folder: Path, images: str = "images", *, coco: bool = False) -> None:
    entries = []
    for n in NUMBERS:
        place = {"filepath": "train2014" if n < 8 else "val2014"} if coco else {}
        entries.append(
            {"filename": f"{n}.jpg", "split": split_of(n), "imgid": n, "sentences": [{"raw": caption(n)}], **place}
        )
        put(folder / images / f"{n}.jpg", photo(n))
    put(folder / "dataset.json", json.dumps({"images": entries, "dataset": "x"}))


def merged_coco(folder: Path) -> None:
    karpathy(folder, "images", coco=True)


def lavis(folder: Path) -> None:
    for split, numbers in SPLITS.items():
        rows = [{"image": f"val2014/{n}.jpg", "caption": [caption(n)]} for n in numbers]
        put(folder / "annotations" / f"coco_karpathy_{split}.json", json.dumps(rows))
    put(folder / "annotations" / "coco_karpathy_val_gt.json", json.dumps({"annotations": [], "images": [{"id": 1}]}))
    photos(folder / "images" / "val2014")


def lors(folder: Path) -> None:
    for split, numbers in SPLITS.items():
        rows = [{"image": f"flickr30k-images/{n}.jpg", "caption": [caption(n)]} for n in numbers]
        put(folder / "Flickr30k_ann" / f"flickr30k_{split}.json", json.dumps(rows))
    photos(folder / "Flickr30k" / "flickr30k-images")


def records(folder: Path) -> None:
    photos(folder)
    rows = [{"image": f"{n}.jpg", "caption": caption(n), "image_id": f"{n:03d}"} for n in NUMBERS]
    put(folder / "captions.json", json.dumps(rows))


def llava(folder: Path) -> None:
    photos(folder / "00000")
    turns = [[{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": caption(n)}] for n in NUMBERS]
    rows = [{"id": str(n), "image": f"00000/{n}.jpg", "conversations": turns[n]} for n in NUMBERS]
    put(folder / "blip_laion.json", json.dumps(rows))


def by_name(folder: Path) -> None:
    photos(folder)
    put(folder / "captions.json", json.dumps({f"{n}.jpg": [caption(n)] for n in NUMBERS}))


def conversations(folder: Path) -> None:
    photos(folder)
    turns = [[{"role": "user", "content": "<image>"}, {"role": "assistant", "content": caption(n)}] for n in NUMBERS]
    rows = [json.dumps({"images": [f"{n}.jpg"], "messages": turns[n]}) for n in NUMBERS]
    put(folder / "chat.jsonl", "\n".join(rows))


def textcaps(folder: Path) -> None:
    photos(folder / "train", name="{:016x}.jpg")
    rows = [{"caption_str": caption(n), "image_id": f"{n:016x}", "image_path": f"train/{n:016x}"} for n in NUMBERS]
    put(folder / "TextCaps_0.1_train.json", json.dumps({"dataset_name": "textcaps", "data": rows}))


def captioned(numbers: Iterable[int], *, name: str = "{:012d}.jpg") -> dict[str, Any]:
    numbers = list(numbers)
    return {
        "info": {},
        "images": [{"id": n, "file_name": name.format(n), "height": 30, "width": 40} for n in numbers],
        "annotations": [{"id": n, "image_id": n, "caption": caption(n)} for n in numbers],
    }


def coco(folder: Path) -> None:
    """All of COCO 2017's annotation files: captions, and those without captions."""
    for split, numbers in (("train2017", range(8)), ("val2017", range(8, 12))):
        own = captioned(numbers)
        put(folder / "annotations" / f"captions_{split}.json", json.dumps(own))
        for other in ("instances", "person_keypoints", "stuff", "panoptic"):
            boxes = [{"id": n, "image_id": n, "bbox": [0, 0, 1, 1]} for n in numbers]
            put(folder / "annotations" / f"{other}_{split}.json", json.dumps({**own, "annotations": boxes}))
        photos(folder / split, numbers, "{:012d}.jpg")
    tests = {"info": {}, "images": [{"id": 99, "file_name": "99.jpg"}], "categories": []}
    put(folder / "annotations" / "image_info_test2017.json", json.dumps(tests))


def vizwiz(folder: Path) -> None:
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        own = captioned(numbers, name=f"VizWiz_{split}_{{:08d}}.jpg")
        own["annotations"] = [{**one, "is_rejected": False, "text_detected": True} for one in own["annotations"]]
        own["annotations"].append({"image_id": numbers[0], "caption": "spam", "is_rejected": True})
        put(folder / "annotations" / f"{split}.json", json.dumps(own))
        photos(folder / split, numbers, f"VizWiz_{split}_{{:08d}}.jpg")
    test = {"images": [{"id": 5, "file_name": "VizWiz_test_00000005.jpg"}], "info": {}}
    put(folder / "annotations" / "test.json", json.dumps(test))


def nocaps(folder: Path) -> None:
    own = captioned(NUMBERS, name="{:016x}.jpg")
    own["images"] = [{**one, "open_images_id": f"{one['id']:016x}", "domain": "near-domain"} for one in own["images"]]
    put(folder / "nocaps_val_4500_captions.json", json.dumps(own))
    put(folder / "nocaps_test_image_info.json", json.dumps({"images": own["images"], "info": {}}))
    photos(folder / "validation", name="{:016x}.jpg")


def table(folder: Path) -> None:
    photos(folder)
    put(folder / "pairs.csv", "filepath,title\n" + "".join(f"{n}.jpg,{caption(n)}\n" for n in NUMBERS))


def kaggle_flickr8k(folder: Path) -> None:
    photos(folder / "Images")
    put(folder / "captions.txt", "image,caption\n" + "".join(f"{n}.jpg,{caption(n)}\n" for n in NUMBERS))


def token(folder: Path) -> None:
    photos(folder / "images")
    put(folder / "Flickr8k.token.txt", "".join(f"{n}.jpg#0\t{caption(n)}\n" for n in NUMBERS))
    names = {"trainImages": "train", "devImages": "val", "testImages": "test"}
    for name, split in names.items():
        put(folder / f"Flickr_8k.{name}.txt", "".join(f"{n}.jpg\n" for n in SPLITS[split]))


def results_csv(folder: Path) -> None:
    photos(folder / "flickr30k_images")
    rows = "".join(f"{n}.jpg| 0| {caption(n)} .\n" for n in NUMBERS)
    put(folder / "results.csv", "image_name| comment_number| comment\n" + rows)


def imagefolder(folder: Path) -> None:
    for split, numbers in SPLITS.items():
        photos(folder / split, numbers)
        rows = "".join(json.dumps({"file_name": f"{n}.jpg", "text": caption(n)}) + "\n" for n in numbers)
        put(folder / split / "metadata.jsonl", rows)


def imagefolder_csv(folder: Path) -> None:
    photos(folder)
    put(folder / "metadata.csv", "file_name,text\n" + "".join(f"{n}.jpg,{caption(n)}\n" for n in NUMBERS))


def json_lines(folder: Path) -> None:
    photos(folder / "images")
    put(
        folder / "pairs.jsonl",
        "".join(json.dumps({"image": f"{n}.jpg", "caption": caption(n)}) + "\n" for n in NUMBERS),
    )


def sidecars(folder: Path) -> None:
    photos(folder)
    for n in NUMBERS:
        put(folder / f"{n}.txt", caption(n))


def kohya(folder: Path) -> None:
    photos(folder / "10_shapes")
    for n in NUMBERS:
        put(folder / "10_shapes" / f"{n}.caption", caption(n))


def img2dataset_files(folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    for n in NUMBERS:
        put(folder / "00000" / f"{n:09d}.jpg", photo(n))
        put(folder / "00000" / f"{n:09d}.txt", caption(n))
        put(folder / "00000" / f"{n:09d}.json", json.dumps({"caption": caption(n), "key": f"{n:09d}"}))
    rows = [
        {"url": "https://a.b/c.jpg", "caption": caption(n), "key": f"{n:09d}", "status": "success"} for n in NUMBERS
    ]
    rows.append({**rows[0], "key": f"{99:09d}", "status": "failed_to_download"})
    write_table(pyarrow.Table.from_pylist(rows), folder / "00000.parquet")
    put(folder / "00000_stats.json", "{}")


def img2dataset_parquet(folder: Path) -> None:
    """Every fifth download failed; twelve photos are left."""
    import pyarrow
    from pyarrow.parquet import write_table

    rows: list[dict[str, Any]] = [
        {"url": "https://a.b/c.jpg", "key": f"{n:09d}", "status": "success", "jpg": photo(n), "caption": caption(n)}
        for n in NUMBERS
    ]
    for n in (4, 9):
        failed = {"url": "https://a.b/c.jpg", "key": f"{90 + n:09d}", "status": "failed", "jpg": None, "caption": "x"}
        rows.insert(n, failed)
    folder.mkdir(parents=True)
    write_table(pyarrow.Table.from_pylist(rows), folder / "00000.parquet")
    put(folder / "00000_stats.json", "{}")


def tar_of(numbers: Iterable[int], digits: int = 5) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for n in numbers:
            add_member(archive, f"{n:0{digits}d}.jpg", photo(n))
            add_member(archive, f"{n:0{digits}d}.txt", caption(n).encode())
    return buffer.getvalue()


def shards(folder: Path) -> None:
    for number, half in enumerate((range(6), range(6, 12))):
        put(folder / f"cc-{number:04d}.tar", tar_of(half))
    put(folder / "sizes.json", json.dumps({"cc-0000.tar": 6, "cc-0001.tar": 6}))


def packed_shards(folder: Path) -> None:
    put(folder / "00000.tar.gz", gzip.compress(tar_of(NUMBERS)))


def columns(numbers: Iterable[int]) -> dict[str, Any]:
    numbers = list(numbers)
    return {"image": [{"bytes": photo(n), "path": None} for n in numbers], "text": [caption(n) for n in numbers]}


def hub_clone(folder: Path) -> None:
    """``data/*.parquet`` with the dataset_infos.json of the hub."""
    import pyarrow
    from pyarrow.parquet import write_table

    (folder / "data").mkdir(parents=True)
    write_table(pyarrow.table(columns(NUMBERS)), folder / "data" / "train-00000-of-00001.parquet")
    put(folder / "dataset_infos.json", json.dumps({"default": {"features": {"image": {"_type": "Image"}}}}))


def hub_tree(folder: Path) -> None:
    """``default/train/*.parquet``, as the hub converts data sets."""
    import pyarrow
    from pyarrow.parquet import write_table

    for split, numbers in SPLITS.items():
        (folder / "default" / split).mkdir(parents=True)
        write_table(pyarrow.table(columns(numbers)), folder / "default" / split / "0000.parquet")


def parquet_paths(folder: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    photos(folder / "images")
    rows = {"image": [f"{n}.jpg" for n in NUMBERS], "caption": [caption(n) for n in NUMBERS]}
    write_table(pyarrow.table(rows), folder / "pairs.parquet")


def saved(folder: Path, format: str | None = "torch") -> None:
    """``save_to_disk`` of a data set that is shown as tensors and of which two columns are hidden."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = datasets.Dataset.from_dict(columns(NUMBERS), features=features)
    made.with_format(format, columns=["image"]).save_to_disk(str(folder))


def saved_paths(folder: Path) -> None:
    """``save_to_disk`` of a data set that names its photos."""
    import datasets

    photos(folder / "photos")
    rows = {"image": [f"photos/{n}.jpg" for n in NUMBERS], "text": [caption(n) for n in NUMBERS]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder / "saved"))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "karpathy": karpathy,
    "merged_coco": merged_coco,
    "lavis": lavis,
    "lors": lors,
    "records": records,
    "by_name": by_name,
    "llava": llava,
    "textcaps": textcaps,
    "coco": coco,
    "vizwiz": vizwiz,
    "nocaps": nocaps,
    "table": table,
    "kaggle_flickr8k": kaggle_flickr8k,
    "token": token,
    "results_csv": results_csv,
    "imagefolder": imagefolder,
    "imagefolder_csv": imagefolder_csv,
    "json_lines": json_lines,
    "conversations": conversations,
    "sidecars": sidecars,
    "kohya": kohya,
    "img2dataset_files": img2dataset_files,
    "img2dataset_parquet": img2dataset_parquet,
    "shards": shards,
    "packed_shards": packed_shards,
    "hub_clone": hub_clone,
    "hub_tree": hub_tree,
    "parquet_paths": parquet_paths,
    "saved": saved,
    "saved_paths": saved_paths,
}
"""By name, whatever writes a source of the twelve photos."""
