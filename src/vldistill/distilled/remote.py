"""Sets on the Hugging Face hub: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` where a set's folder is expected."""

from __future__ import annotations

from pathlib import Path

from vldistill.errors import HubError
from vldistill.storage.hub import HubName, fetch, holds, is_hub_name

FILES = ("set.json", "set.safetensors", "README.md", "preview.png")  # what is fetched of a set
NEEDED = FILES[:2]
MOST_BYTES = 4_000_000_000  # downloaded of a set


def local_folder(place: str | Path, most_bytes: int = MOST_BYTES, token: str | None = None) -> Path:
    """The folder of a set: ``place`` itself, or where its files are after the download. Raises HubError."""
    if not is_hub_name(place):
        return Path(place)
    return fetch(HubName.parse(str(place)), FILES, NEEDED, most_bytes, token)


def is_set_on_hub(place: str) -> bool:
    """Whether ``place`` names a set on the hub, and not photos with captions, which are named in the same way."""
    if not is_hub_name(place) or "?" in place:
        return False
    try:
        name = HubName.parse(place)
    except HubError:  # the reader says what is wrong with it
        return False
    return holds(name, NEEDED[0])
