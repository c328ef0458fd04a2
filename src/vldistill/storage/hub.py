"""The Hugging Face hub, within bounds: a look-up without an answer ends in seconds, a download has a largest size.

Only files of :data:`SAFE` kinds are fetched: none of them can run code when it is read.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeGuard

from vldistill.errors import HubError
from vldistill.storage.files import human_bytes

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
SAFE = (".safetensors", ".json", ".jsonl", ".png", ".jpg", ".jpeg", ".parquet", ".md")
PATIENCE = 3.0  # seconds for the first answer
REMEMBERED = 30.0  # seconds for which an answer, or its lack, counts
DATASET = "dataset"
SILENT = ("LocalEntryNotFoundError", "OfflineModeIsEnabled")  # errors of the hub's library without a network
SILENCE: dict[str, tuple[float, str]] = {}  # endpoint -> when it was asked, and why it is silent


@dataclass(frozen=True)
class HubName:
    """A repository of the hub: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``.

    Args:
        repo: ``OWNER/NAME``.
        revision: a branch, tag or commit; empty for the main branch.
    """

    repo: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> HubName:
        """With or without ``hf:``. Raises HubError for what cannot be a name."""
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        repo, _, revision = text.removeprefix(PREFIX).partition("@")
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise HubError(f"{text!r} is no name of the hub ({reason}). Expected OWNER/NAME.") from None
        return cls(repo, revision)

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(place: object) -> TypeGuard[str]:
    """Whether a place is written as one of the hub; ``hf:PATH`` of what is on this disk is not."""
    if not isinstance(place, str) or not place.startswith(PREFIX):
        return False
    try:
        return not Path(place.removeprefix(PREFIX).partition("?")[0]).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # no path can be written so
        return True


def why_silent() -> str:
    """Why the hub cannot be asked; empty where it answers. Takes :data:`PATIENCE` at most, and remembers the answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    asked, reason = SILENCE.get(constants.ENDPOINT, (float("-inf"), ""))
    if time.monotonic() - asked > REMEMBERED:
        reason = _ask(constants.ENDPOINT)
        SILENCE[constants.ENDPOINT] = time.monotonic(), reason
    return reason


def _ask(endpoint: str) -> str:
    """Ask for the headers of the hub's page, in a thread: a name server may keep one waiting for longer."""
    from huggingface_hub.utils import get_session

    found: list[str] = []

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=PATIENCE).status_code
            found.append(f"it answers with status {status}" if status >= 500 else "")
        except Exception as error:  # httpx or requests, whichever this version of the hub's library uses
            found.append(str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else f"no answer in {PATIENCE:g} seconds"


def silence(reason: str) -> str:
    """In words: that the hub does not answer or is not asked, and why."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT} {'is not asked' if constants.HF_HUB_OFFLINE else 'does not answer'} ({reason})"


@contextmanager
def bounded_look_up(what: str, remedy: str) -> Iterator[None]:
    """While another library looks something up on the hub: where that is silent, only its cache is read.

    Args:
        what: is read, and would fail.
        remedy: for the message.

    Raises:
        HubError: the hub is silent, and what is needed is not in the cache.
    """
    reason = why_silent()
    if not reason:
        yield
        return
    said = silence(reason)
    with _offline():
        try:
            yield
        except Exception as error:
            if not _of_silence(error):
                raise
            raise HubError(f"{what}: {said}, and its cache does not hold what is needed. {remedy}") from None


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's library without a network, as HF_HUB_OFFLINE=1 sets it."""
    import huggingface_hub
    from huggingface_hub import constants

    fresh = getattr(huggingface_hub.utils, "reset_sessions", lambda: None)  # before 1.0 a session keeps its mode
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    waits = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE / 2)  # weights that lie outside the hub are fetched without a limit in time
    fresh()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        socket.setdefaulttimeout(waits)
        fresh()


def _of_silence(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is no network; some libraries keep its name alone."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if any(name in (type(error).__name__, *re.findall(r"\w+", str(error))) for name in SILENT):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn what the hub refuses into HubError with the remedy; ``what`` begins the message."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except HubError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        remedy = {
            401: "Log in (`hf auth login`), or give a token; check the name.",
            403: "Your token has no right to this: check its scopes and the owner.",
            404: "Check the name and the revision; of a private one, log in (`hf auth login`).",
        }.get(status or 0, "Try again later.")
        raise HubError(f"{what}: the hub refuses ({_first_line(error)}). {remedy}") from None
    except LocalTokenNotFoundError:
        raise HubError(f"{what}: you are not logged in. Log in (`hf auth login`), or give a token.") from None
    except Exception as error:  # of the network, of values that the hub does not accept: its library raises many kinds
        reason = ": ".join(_first_line(one) for one in (error, error.__cause__) if isinstance(one, Exception))
        raise HubError(f"{what}: {reason}. Check the network and the values, and try again.") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300].rstrip(".") if lines else type(error).__name__


def api(token: str | None = None) -> HfApi:
    """The hub's interface, with this user's token where none is given."""
    from huggingface_hub import HfApi

    return HfApi(token=token)


def fetch(name: HubName, wanted: Sequence[str], needed: Sequence[str], most_bytes: int, token: str | None) -> Path:
    """The folder in the hub's cache with the files ``wanted`` of a data set; those that are not ``needed`` may lack.

    Sizes are those that the hub lists: they are added before anything is downloaded, and each file is compared with
    its own. Where the hub is silent, a copy in the cache is read.

    Raises:
        HubError: it is not there, too large, of another kind, or the hub is silent and the cache does not hold it.
    """
    if reason := why_silent():
        return _cached(name, needed, reason)
    with hub_errors(str(name)):
        info = api(token).dataset_info(name.repo, revision=name.revision or None, files_metadata=True, timeout=PATIENCE)
    sizes = {one.rfilename: one.size for one in info.siblings or ()}
    if lacking := [file for file in needed if file not in sizes]:
        has = ", ".join(sorted(sizes)[:5]) or "nothing"
        raise HubError(f"{name} is no distilled set: it has no {', '.join(lacking)}. It holds: {has}.")
    files = {file: sizes[file] for file in wanted if file in sizes}
    _check_sizes(name, files, most_bytes)
    with hub_errors(str(name)):
        folders = {_download(name, file, size or 0, token) for file, size in files.items()}
    if len(folders) != 1 or next(iter(folders)).name != info.sha:
        raise HubError(f"{name} was changed while it was fetched. Run the same command again.")
    return folders.pop()


def _check_sizes(name: HubName, files: dict[str, int | None], most_bytes: int) -> None:
    """Refuse files of unsafe kinds, without a listed size, or too large together. Raises HubError."""
    for file, size in files.items():
        if PurePosixPath(file).suffix.lower() not in SAFE:
            raise HubError(f"{name}: {file} is not fetched; only {', '.join(SAFE)} are, which cannot run code.")
        if size is None:
            raise HubError(f"{name}: the hub lists no size of {file}, so that its download has no bound. Try later.")
    total = sum(size or 0 for size in files.values())
    if total > most_bytes:
        raise HubError(
            f"{name} has {human_bytes(total)}; at most {human_bytes(most_bytes)} are downloaded. Raise the limit, "
            f"DistilledSet.from_hub({name.repo!r}, most_bytes={total}), or fetch it yourself (`hf download "
            f"--repo-type dataset {name.repo}`) and give its folder."
        )


def _download(name: HubName, file: str, size: int, token: str | None) -> Path:
    """Download one file of the size that was listed; returns the snapshot's folder. Raises HubError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    revision = name.revision or "main"
    url = hf_hub_url(name.repo, file, repo_type=DATASET, revision=revision)
    _check_size(name, file, size, get_hf_file_metadata(url, token=token, timeout=PATIENCE).size)
    found = hf_hub_download(name.repo, file, repo_type=DATASET, revision=revision, token=token, etag_timeout=PATIENCE)
    path = Path(found)
    _check_size(name, file, size, path.stat().st_size)
    return path.parents[len(PurePosixPath(file).parts) - 1]


def _check_size(name: HubName, file: str, listed: int, sent: int | None) -> None:
    """Refuse a file of another size than was listed. Raises HubError."""
    if sent != listed:
        raise HubError(f"{name}: {file} is listed with {listed:,} bytes and sent with {sent}. It is not used.")


def _cached(name: HubName, needed: Sequence[str], reason: str) -> Path:
    """The snapshot in the cache, of a hub that is silent. Raises HubError."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(name.repo, file, repo_type=DATASET, revision=name.revision or "main") for file in needed
    ]
    places = {Path(path).parent for path in found if isinstance(path, str)}
    if len(places) == 1 and all(isinstance(path, str) for path in found):
        return places.pop()
    raise HubError(
        f"{name}: {silence(reason)}, and the cache does not hold it. Connect, or give the folder of a set that was "
        f"fetched elsewhere."
    )


def holds(name: HubName, file: str) -> bool:
    """Whether a data set of the hub, or its copy in the cache where the hub is silent, has a file of this name."""
    from huggingface_hub import try_to_load_from_cache

    if why_silent():
        revision = name.revision or "main"
        return isinstance(try_to_load_from_cache(name.repo, file, repo_type=DATASET, revision=revision), str)
    with hub_errors(str(name)):
        return api().file_exists(name.repo, file, repo_type=DATASET, revision=name.revision or None)


def license_of(repo: str) -> str:
    """The licence that a data set of the hub says; empty where it says none or cannot be asked."""
    if why_silent():
        return ""
    with suppress(HubError), hub_errors(repo):
        data = api().dataset_info(repo, timeout=PATIENCE).card_data
        found = getattr(data, "license", None)
        return found if isinstance(found, str) else ""
    return ""
