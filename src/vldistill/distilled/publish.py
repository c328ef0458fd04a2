"""A set to the Hugging Face hub, as a data set: tensors, record, pictures, captions, and a card with the licence."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.distilled.header import entries_of, written
from vldistill.distilled.licence import CARRIED, Terms, terms
from vldistill.errors import HubError
from vldistill.storage.hub import DATASET, HubName, api, hub_errors, silence, why_silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from vldistill.distilled.distilled_set import DistilledSet

BESIDE = ("preview.png", "pairs.json")  # of a set's folder, published where they are there
CARD = "README.md"


@dataclass(frozen=True)
class Publication:
    """How a set is published.

    Args:
        license: an id of the hub such as ``cc-by-4.0``; None takes what the set or its source says.
        terms: of the source, in words or as an address.
        without_license: publish although no licence is known.
        private: only you and your organisation see it; a repository that exists stays as it is.
        message: of the commit.
        token: of the hub; by default the one that you are logged in with.
    """

    license: str | None = None
    terms: str | None = None
    without_license: bool = False
    private: bool = True
    message: str = ""
    token: str | None = None


def push(pairs: DistilledSet, name: str, how: Publication, folder: Path | None) -> str:
    """Publish a set; returns the address of the commit.

    Args:
        pairs: the set.
        name: ``OWNER/NAME``, with ``@BRANCH`` for a branch.
        how: licence, visibility, ...
        folder: of the set, if it has one: its preview and card are there.

    Raises:
        ConfigError: the licence is unknown.
        HubError: the hub does not answer or refuses.
    """
    place = HubName.parse(name)
    card = (folder / CARD).read_text(encoding="utf-8") if folder and (folder / CARD).is_file() else ""
    given = terms(pairs.info, card, how.license, how.terms, how.without_license, name=pairs.name)
    if reason := why_silent():
        raise HubError(f"{place}: {silence(reason)}. Connect and push again; the set in its folder is unchanged.")
    with tempfile.TemporaryDirectory() as temporary:
        files = _written(pairs, Path(temporary), folder, given)
        with hub_errors(f"pushing to {place}"):
            return _commit(api(how.token), place, files, how)


def _written(pairs: DistilledSet, temporary: Path, folder: Path | None, given: Terms) -> dict[str, Path]:
    """The files of a publication by their names in it."""
    pairs.save(temporary)
    for name in BESIDE:
        if folder and (folder / name).is_file():
            shutil.copyfile(folder / name, temporary / name)
    if given.file:
        (temporary / CARRIED).write_text(given.file, encoding="utf-8")
    entries, text = entries_of((temporary / CARD).read_text(encoding="utf-8"))
    head = written({**given.entries(), **entries})
    (temporary / CARD).write_text(f"{head}\n{text}\n{given.section()}", encoding="utf-8")
    found = sorted(path for path in temporary.rglob("*") if path.is_file())
    return {path.relative_to(temporary).as_posix(): path for path in found}


def _commit(hub: HfApi, place: HubName, files: dict[str, Path], how: Publication) -> str:
    """One commit with all files, without pictures of a former one that are no longer there."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    branch = place.revision or None
    hub.create_repo(place.repo, repo_type=DATASET, private=how.private, exist_ok=True)
    if branch:
        hub.create_branch(place.repo, repo_type=DATASET, branch=branch, exist_ok=True)
    there = hub.list_repo_files(place.repo, repo_type=DATASET, revision=branch)
    gone = [name for name in there if name.startswith("data/") and name not in files]
    operations = [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()),
        *(CommitOperationDelete(path_in_repo=name) for name in gone),
    ]
    message = how.message or "A set made by vldistill"
    done = hub.create_commit(place.repo, operations, commit_message=message, repo_type=DATASET, revision=branch)
    return str(done.commit_url)
