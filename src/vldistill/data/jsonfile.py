"""Reading other people's JSON: every way in which it can be unreadable or unexpected is a DataError with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vldistill.errors import DataError
from vldistill.storage.files import human_bytes

HEAD_BYTES = 65_536
MOST_BYTES = 1_000_000_000  # parsed, a json takes several times its size in memory
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


def load_json(path: Path) -> Any:
    """Read a JSON file. Raises DataError when it is missing, too large, not UTF-8, not JSON or nested too deeply."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a file. Expected a json file.")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise DataError(
                f"{path} has {human_bytes(size)}; expected {human_bytes(MOST_BYTES)} or less. Split it into several "
                f"sources."
            )
        return json.loads(path.read_bytes())  # which finds out whether it is UTF-8, UTF-16 or UTF-32
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Give the path of a json file, or of its folder.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Expected a readable json file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}). Save the json as UTF-8.") from None
    except RecursionError:
        raise DataError(f"{path} is nested too deeply to be a caption file. Check that it is the right file.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Check that it is complete and the right file.") from None


def head_of(path: Path) -> bytes:
    """The beginning of a file, enough to see what a json is without reading it; empty where it cannot be read."""
    try:
        with path.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
    except OSError:
        return b""
    return head.decode(json.detect_encoding(head), "ignore").encode().lstrip()


def text_in(record: dict[str, Any], key: str, where: str, example: str) -> str:
    """A text of a record that is not empty. Raises DataError, with an ``example`` of one."""
    value = record.get(key)
    if isinstance(value, str) and value:
        return value
    found = "empty" if value == "" else kind(value)
    raise DataError(f"{where}: {key} is {found}; expected a text such as {example!r}.")


def identity(value: object, key: str, where: str) -> int | str:
    """The number of an image or a sentence, which some write as a text. Raises DataError."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"{where}: {key} is {kind(value)}; expected a number.")
    return value


def kind(value: object) -> str:
    """What a JSON value is, in words: ``a text``, ``a list``, ``null``."""
    return "null" if value is None else KINDS.get(type(value), type(value).__name__)


def describe(value: Any) -> str:
    """What a whole JSON file looks like, for the message that it is of the wrong kind."""
    if isinstance(value, list):
        first = value[0] if value else None
        if isinstance(first, dict) and "caption" in first and ("image" in first or "image_id" in first):
            return f"a list of {len(value):,} image-caption records (BLIP style)"
        return f"a list of {len(value):,} items" + (f", the first {kind(first)}" if value else "")
    if isinstance(value, dict):
        if "annotations" in value:
            return "a COCO-style annotation file (it has 'annotations'; coco:FILE reads captions in it)"
        keys = ", ".join(repr(key[:40]) for key in list(value)[:6])
        return f"an object with the keys {keys}" if keys else "an empty object"
    return kind(value)
