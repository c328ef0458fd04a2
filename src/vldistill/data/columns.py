"""Tables with a column of images and one or more of captions: which is which, and rows gathered by image."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vldistill.data.jsonfile import kind
from vldistill.data.splits import split_named
from vldistill.errors import DataError, unknown

# Names met in published data sets, the likelier ones first.
IMAGES = (
    "filepath",
    "image",
    "img",
    "jpg",
    "png",
    "webp",
    "image_path",
    "file_name",
    "filename",
    "image_name",
    "path",
    "images",
)
CAPTIONS = (
    "captions", "caption", "title", "sentences_raw", "sentences", "text", "txt", "raw", "alt_text", "description",
    "comment", "texts", "captions_raw", "conversations", "messages",
)  # fmt: skip
NAMES = ("image_name", "filename", "file_name", "image_id", "cocoid", "imgid", "img_id", "key", "__key__", "id")
DOWNLOAD = "Download the images first, for example with img2dataset, and give the folder that it wrote."
NUMBERED = re.compile(r"(captions?|text|sentences?)_?\d+")  # caption_0, caption_1, ...
INSIDE = ("raw", "caption", "text", "assistant")  # of a caption that is an object
TURNS = (("from", "value"), ("role", "content"))  # of a turn of a conversation: who says it, and what
SPEAKERS = ("gpt", "assistant")
FIRST_ROW = object()  # stands for the picture in the first row of a name
REMEDY = "Name the right column: ?caption=COLUMN."


@dataclass(frozen=True)
class Columns:
    """What each column of a table means.

    Attributes:
        image: the column of images, or of their file names.
        captions: one or more columns.
        name: a column that names the image of a row; rows with one name belong together. Empty: every row is an image.
        split: a column with the split; empty where there is none.
    """

    image: str
    captions: tuple[str, ...]
    name: str = ""
    split: str = ""

    @property
    def texts(self) -> list[str]:
        """Every column that is read but the images'."""
        return [column for column in dict.fromkeys((*self.captions, self.name, self.split)) if column]

    def lacking(self, columns: Iterable[str]) -> str:
        """Those that are read and are none of ``columns``, joined by commas."""
        return ", ".join(sorted({self.image, *self.texts} - {*columns}))

    def about(self) -> dict[str, str]:
        """For ``inspect``: meaning -> column."""
        found = {"image": self.image, "captions": ", ".join(self.captions), "name": self.name, "split": self.split}
        return {meaning: column for meaning, column in found.items() if column}


def choose_columns(columns: Sequence[str], options: Mapping[str, str], source: str) -> Columns:
    """The columns named by the options ``image``, ``caption`` (several joined by commas), ``name`` and ``split``,
    the others guessed.

    An empty ``name`` means that no column names the images: every row is one.

    Args:
        columns: of the table.
        options: of the source.
        source: for messages.

    Raises:
        DataError: a column that does not exist, or nothing that looks like an image or a caption.
    """
    lower = {column.strip().lower(): column for column in reversed(columns)}

    def asked(option: str) -> list[str]:
        wanted = [part.strip() for part in options.get(option, "").split(",") if part.strip()]
        for column in wanted:
            if column not in columns:
                raise DataError(f"{source}: {unknown(f'column ({option}=)', column, columns)}")
        return wanted

    def guessed(candidates: Iterable[str]) -> list[str]:
        return [lower[name] for name in candidates if name in lower]

    image = asked("image") or guessed(IMAGES)[:1]
    captions = asked("caption") or guessed(CAPTIONS)[:1]
    captions = captions or [column for column in columns if NUMBERED.fullmatch(column.strip().lower())]
    for option, found in (("image", image), ("caption", captions)):
        if not found:
            have = ", ".join(columns) or "none"
            raise DataError(
                f"{source}: no column looks like {'an image' if option == 'image' else 'a caption'}; it has: {have}. "
                f"Name it: ?{option}=COLUMN." + _addresses(columns, option)
            )
    name = (
        []
        if options.get("name") == ""
        else asked("name") or [column for column in guessed(NAMES) if column not in (*image, *captions)][:1]
    )
    split = asked("split") or guessed(("split",))
    return Columns(image[0], tuple(captions), name[0] if name else "", split[0] if split else "")


def _addresses(columns: Sequence[str], option: str) -> str:
    """The advice for tables that hold the addresses of images."""
    found = [column for column in columns if "url" in column.lower()]
    if option != "image" or not found:
        return ""
    return f" {found[0]} holds addresses, it seems. {DOWNLOAD}"


def texts_of(value: object, where: str, remedy: str = REMEDY) -> list[str]:
    """The captions in a cell: a text, a list of texts, objects with ``raw``, the answers of a conversation.

    Nothing is an empty caption, which is counted as such. Raises DataError, with the ``remedy``.
    """
    if value is None or isinstance(value, str):
        return [value or ""]
    if isinstance(value, Mapping):
        for speaker, said in TURNS:
            if {speaker, said} <= value.keys():
                return texts_of(value[said], where, remedy) if value[speaker] in SPEAKERS else []
        inside = next((key for key in INSIDE if key in value), None)
        if inside is not None:
            return texts_of(value[inside], where, remedy)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        return [text for part in value for text in texts_of(part, where, remedy)]
    raise DataError(f"{where}: the caption is {kind(value)}; expected a text or a list of texts. {remedy}")


@dataclass
class Gathered:
    """Rows of a table, gathered by image in the order of their first row.

    Attributes:
        names: of the images.
        splits: of the images.
        captions: of the images.
        rows: the first row of each image.
    """

    names: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)
    _pictures: dict[str, dict[object, int]] = field(default_factory=dict)  # name in the table -> its pictures' images

    def row_of(self, name: str) -> int | None:
        """The number of an image in the lists here; None for one that is not there."""
        return self._known.get(name)

    def add_cells(
        self, row: int, cells: Mapping[str, object], columns: Columns, name: str, split: str | None, where: str,
        picture: Callable[[int], object],
    ) -> None:  # fmt: skip
        """One more row, from its cells by column; ``name`` and ``split`` hold where these are empty. As :meth:`add`.

        Rows of one name are one image only where ``picture`` gives the same for both: ids often restart.
        """
        captions = [text for column in columns.captions for text in texts_of(cells[column], where)]
        split = split_of_cell(cells.get(columns.split), split, where)
        own = cells.get(columns.name)
        given = name if own is None or own == "" else str(own)
        known = self._pictures.setdefault(given, {})
        if FIRST_ROW in known:  # pictures are only looked at where a name comes again
            index = known.pop(FIRST_ROW)
            known[picture(self.rows[index])] = index
        key = picture(row) if known else FIRST_ROW
        if key in known:
            self.add(row, self.names[known[key]], split, captions, where)
        else:
            known[key] = len(self.names)
            self.add(row, name if given in self._known else given, split, captions, where)

    def add(self, row: int, name: str, split: str, captions: list[str], where: str) -> None:
        """One more row. Raises DataError when an image is in two splits."""
        known = self._known.setdefault(name, len(self.names))
        if known == len(self.names):
            self.names.append(name)
            self.splits.append(split)
            self.captions.append(list(captions))
            self.rows.append(row)
            return
        if self.splits[known] != split:
            raise DataError(f"{where}: image {name!r} is in split {self.splits[known]} as well; expected it in one.")
        self.captions[known] += captions


def split_of_cell(value: object, usual: str | None, where: str) -> str:
    """The split of a row: its own where it names one, else ``usual``, else train."""
    if value is None or value == "":
        return usual or "train"
    return split_named(value, where)
