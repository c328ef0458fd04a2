"""The table at the top of docs/data.md: every row is typed as it stands, for the layout that it speaks of."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest
from tests.conftest import photo
from tests.layouts import LAYOUTS, NUMBERS

from vldistill.data.load import read_collection

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "data.md"
ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| `(?P<typed>[^`]+)` \| `(?P<reader>\w+)` \|(?: <!-- (?P<layout>\w+) -->)?$", re.MULTILINE
)
ROWS = {match["what"]: match for match in ROW.finditer(DOCUMENT.read_text(encoding="utf-8"))}
PLACE = "data"


def test_the_document_begins_with_the_table_and_every_layout_is_in_it() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.index("| what you have | what to type |") < text.index("## ")
    assert {match["layout"] for match in ROWS.values()} == {*LAYOUTS, None}, "class sets and the scenes have no layout"


def class_set(folder: Path, splits: tuple[str, ...]) -> None:
    """Photos in folders of classes, and a table of their labels."""
    lines = ["filepath,label"]
    for split, kind, number in itertools.product(splits, ("cat", "dog"), range(4)):
        path = folder / f"{split}{kind}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
        lines.append(f"{path.relative_to(folder)},{kind}")
    if splits == ("",):
        (folder / "labels.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("what", ROWS)
def test_what_is_typed_reads_every_photo_with_its_caption(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROWS[what]
    if row["layout"] is None:
        monkeypatch.chdir(tmp_path)
        class_set(Path(PLACE), ("train/", "val/", "test/") if row["typed"] == PLACE else ("",))
        assert read_collection(row["typed"].replace("COLUMN", "label")).reader == row["reader"]
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLDISTILL_CACHE", str(tmp_path / "cache"))
    LAYOUTS[row["layout"]](Path(PLACE))
    collection = read_collection(row["typed"])
    assert collection.reader == row["reader"]
    found: dict[int, bytes] = {}
    for split in collection.splits_present():
        pairs = collection.pairs(split)
        for image, text in zip(pairs.caption_image, pairs.captions):
            found[int(text.split()[1])] = pairs.images.encoded(int(image))
    assert found == {n: photo(n) for n in NUMBERS}
    shutil.rmtree(PLACE)
