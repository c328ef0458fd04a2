"""Files of vectors elsewhere, by fsspec: s3://, gs://, hf://, memory://. They are copied once, to be mapped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from vldistill.config import DataConfig, expand
from vldistill.data.embedded import arrays
from vldistill.data.embedded.tables import is_table
from vldistill.errors import DataError, MissingExtraError, VldistillError
from vldistill.storage.files import atomic, digest, require_space

ADDRESS = re.compile(r"(?P<kind>[a-z][a-z0-9+.-]*)://.+")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
IDENTITY = ("size", "ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")
BLOCK = 2**24  # bytes copied at a time


def is_remote(path: str) -> bool:
    """Whether a path is an address of fsspec."""
    return ADDRESS.fullmatch(path) is not None


def local_copy(address: str) -> Path:
    """A folder with the files of vectors and tables below an address, or the copy of one file.

    Files of this machine (``file://``) are not copied. Others lie in the cache folder (``VLDISTILL_CACHE``), each
    appears there whole or not at all, and one that has its size and its identity there already is kept.

    Raises:
        DataError: there is nothing, or it cannot be read.
        MissingExtraError: the package of that kind of address is not installed.
    """
    with _reachable(address):
        system, root = _opened(address)
        protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
        if protocol in ("file", "local"):
            return Path(root)
        alone = system.isfile(root)
        found = {root: system.info(root)} if alone else system.find(root, detail=True)
        wanted = {path: about for path, about in found.items() if alone or _is_wanted(path)}
        if not wanted:
            raise DataError(f"{address} holds no file of vectors. Give the folder with them.")
        place = Path(expand(DataConfig().cache)) / "remote" / digest(address)
        sizes = sum(int(about.get("size") or 0) for about in wanted.values())
        require_space(place, sizes, f"the copy of {address}")
        copies = [_copied(system, path, about, place, "" if alone else root) for path, about in wanted.items()]
        for path in sorted(place.rglob("*")):
            if path.is_file() and path not in copies and not path.name.startswith("."):
                path.unlink()  # it is gone there
        return copies[0] if alone else place


def _opened(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    return url_to_fs(address)


def _is_wanted(path: str) -> bool:
    name = PurePosixPath(path)
    return name.suffix.lower() in (arrays.NUMPY, *arrays.WHOLE) or is_table(Path(name.name))


def _copied(system: Any, path: str, about: dict[str, Any], place: Path, root: str) -> Path:
    """One file in ``place``, copied where its identity is not that of the copy there."""
    below = PurePosixPath(path).relative_to(PurePosixPath(root)) if root else PurePosixPath(PurePosixPath(path).name)
    if ".." in below.parts or below.is_absolute():
        raise DataError(f"{path} is refused; expected files below {root}.")
    copy = place / below
    known = digest(*(str(about.get(name)) for name in IDENTITY))
    mark = copy.with_name(f".{copy.name}.{known}")
    if copy.is_file() and mark.is_file():
        return copy
    with atomic(copy) as temporary, system.open(path, "rb") as source, temporary.open("wb") as target:
        while block := source.read(BLOCK):
            target.write(block)
    for old in copy.parent.glob(f".{copy.name}.*"):
        old.unlink()
    mark.touch()
    return copy


@contextmanager
def _reachable(address: str) -> Iterator[None]:
    """Turn what fsspec and its packages raise into an error of ours."""
    kind = address.partition("://")[0]
    try:
        yield
    except VldistillError:
        raise
    except ImportError:
        package = PACKAGES.get(kind, f"of fsspec for {kind}")
        raise MissingExtraError(f"{address} needs the package {package}: pip install {package}") from None
    except Exception as error:  # of the network, of keys, of names: each package has its own
        reason = " ".join((str(error) or type(error).__name__).split())[:160]
        raise DataError(f"{address} cannot be read ({reason}). Check the address, and the keys of {kind}.") from None
