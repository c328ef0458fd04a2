"""The licence and terms of a set's data: what is known of them, and what its card says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.distilled.header import entries_of
from vldistill.errors import ConfigError, HubError
from vldistill.storage.hub import PREFIX, HubName, is_hub_name, license_of

IDS = "https://huggingface.co/docs/hub/repositories-licenses"
FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md")
CARRIED = "SOURCE_LICENSE.md"  # beside a set: the licence file of its source
LONGEST = 200_000  # bytes of a licence file that is carried along


@dataclass(frozen=True)
class Terms:
    """Under what a set is published.

    Args:
        license: an id of the hub such as ``cc-by-4.0``; empty where the user publishes without one.
        text: the terms of the source, in words or as an address.
        file: the source's own licence file, as text.
        source: of the hub, ``OWNER/NAME``.
    """

    license: str = ""
    text: str = ""
    file: str = ""
    source: str = ""

    def entries(self) -> dict[str, Any]:
        """For the header of the card."""
        named = {"license": self.license} if self.license else {}
        other = {"license_name": "terms-of-the-source"} if self.license == "other" else {}
        if other and self.text.startswith(("https://", "http://")):
            other["license_link"] = self.text.split()[0]
        elif other:
            other["license_link"] = CARRIED if self.file else "README.md"
        return {**named, **other, **({"source_datasets": [self.source]} if self.source else {})}

    def section(self) -> str:
        """For the card: a section in Markdown."""
        said = f"Licence: `{self.license}`." if self.license else "**Published without a licence by its author.**"
        more = [self.text, f"The licence of the data is in [{CARRIED}]({CARRIED})." if self.file else ""]
        words = [
            said,
            *(part for part in more if part),
            "The terms of the data that the set was made from apply to it.",
        ]
        return "\n".join(["## Licence and terms", "", *words, ""])


def terms(
    info: Mapping[str, Any], card: str, license: str | None, text: str | None, without: bool, *, name: str
) -> Terms:
    """What the user says of licence and terms, else what the set's card, its source or the source's card say.

    Args:
        info: of the set.
        card: the README of the set's folder.
        license: an id of the hub, as the user gave it.
        text: the terms of the source, as the user gave them.
        without: the user confirms that the set is published without a licence.
        name: of the set, for messages.

    Raises:
        ConfigError: no licence is known and publishing without one is not confirmed; ``other`` without its terms.
    """
    source = str(info.get("source") or "")
    own, _ = entries_of(card)
    file = _file(source)
    found = license or _text(own.get("license")) or _of_source(source)
    if not found and not without:
        raise ConfigError(
            f"the licence of {name} is unknown: its data come from {source or 'a source that it does not name'}, which "
            f"says none. Give license=, an id such as 'cc-by-4.0' ({IDS}), or license='other' with terms=, the words "
            f"or the address of the terms of your data. To publish without, confirm it: without_license=True."
        )
    if found == "other" and not (text or file or own.get("license_link")):
        raise ConfigError(
            f"license is 'other' and the terms of {name} are unknown. Give terms=, their words or address."
        )
    kept = own.get("license_link") if found == "other" else None
    words = text or (f"Terms: {kept}" if isinstance(kept, str) and kept.startswith("http") else "")
    return Terms(found, words, file, _repository(source))


def _of_source(source: str) -> str:
    """The licence that a source says: in the header of its README, as a saved data set, or on the hub."""
    if repository := _repository(source):
        return license_of(repository)
    folder = _folder(source)
    if folder is None:
        return ""
    readme, saved = folder / "README.md", [folder / "dataset_info.json", *folder.glob("*/dataset_info.json")]
    entries, _ = entries_of(_read(readme))
    found = _text(entries.get("license"))
    for path in saved:
        try:
            found = found or _text(json.loads(_read(path) or "{}").get("license"))
        except (ValueError, AttributeError):
            continue
    return found


def _repository(source: str) -> str:
    """The data set of the hub that a source names; empty for another kind of source."""
    try:
        return HubName.parse(source.partition("?")[0]).repo if is_hub_name(source) else ""
    except HubError:
        return ""


def _file(source: str) -> str:
    """The licence file of a source; empty where there is none."""
    folder = _folder(source)
    paths = [folder / name for name in FILES] if folder else []
    return next((text for path in paths if (text := _read(path))), "")


def _folder(source: str) -> Path | None:
    """The folder of a source, or of its file."""
    path = source.removeprefix(PREFIX).partition("?")[0]
    place = Path(path).expanduser() if path and "\0" not in path else None
    if place is None or not place.exists():
        return None
    return place if place.is_dir() else place.parent


def _read(path: Path) -> str:
    """A text file of moderate size; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= LONGEST else ""
    except (OSError, ValueError):
        return ""


def _text(value: object) -> str:
    """A licence id: a text, or the first of several."""
    first = value[0] if isinstance(value, list) and value else value
    return first.strip() if isinstance(first, str) else ""
