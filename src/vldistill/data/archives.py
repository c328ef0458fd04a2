"""Archives that others made, listed and read without extracting anything.

An archive with one absolute or ``..`` member, a link, a device, or a name that no file system should get is
refused as a whole: whoever made it did not mean to ship photos. So is one that is cut off, or unpacks to far more than
it holds.
"""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from vldistill.errors import DataError
from vldistill.storage.files import atomic, digest, human_bytes

BLOCK = tarfile.BLOCKSIZE
HEADER_BYTES = 1 << 20  # the longest extended header that a tar may ask to be read at once
DIGITS = re.compile(rb"\d{256}")  # tarfile's search of extended headers takes quadratic time on such
GZIP = b"\x1f\x8b"
RATIO = 200  # unpacked bytes for each packed one; text seldom passes 20, photos stay near 1
MEMBERS = 20_000_000
BROKEN = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    OSError,
    ValueError,
    RecursionError,
    OverflowError,
    NotImplementedError,
)


class Member(NamedTuple):
    """A regular file in a tar: its name, where its bytes are, and in which of the tars that were appended."""

    name: str
    offset: int
    size: int
    part: int = 0


def why_unsafe(name: str) -> str:
    """Why a member of this name is refused; empty for a relative path of plain letters."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "an absolute path"
    if ".." in parts:
        return "a path that leads outside"
    if not name or not (name.isascii() and name.isprintable()):  # the first look is fast, for millions of names
        if any(0xD800 <= ord(letter) < 0xE000 for letter in name):
            return "a name that is not UTF-8"
        if not name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
            return "an empty name or one with control characters"
    return ""


def tar_members(path: Path) -> Iterator[Member]:
    """The regular files of an uncompressed tar, in order; ``offset`` and ``size`` give where their bytes are in it.

    Tars that were appended to each other (``cat a.tar b.tar``) are listed to the end of the last.

    Raises:
        DataError: unreadable, compressed, cut off, or with a member that is refused.
    """
    expected = "an uncompressed, complete tar: decompress it (gunzip, zstd -d), or copy it again"
    with _guarding(path, expected), _Headers(path.open("rb", buffering=0)) as headers:
        yield from _walk(path, headers, path.stat().st_size)


def open_tar_members(path: Path) -> Iterator[Member]:
    """:func:`tar_members`, of a tar that may be packed by gzip."""
    return tar_members(unpacked(path))


def unpacked(path: Path) -> Path:
    """``path``, or of a tar packed by gzip the tar that it unpacks to, kept in the cache folder. Raises DataError."""
    expected = "a complete .tar.gz: copy it again, or unpack it (gunzip)"
    with _guarding(path, expected):
        with path.open("rb") as handle:
            if handle.read(2) != GZIP:
                return path
        state = path.stat()
        name = digest(str(path.absolute()), state.st_size, state.st_mtime_ns)
        cache = Path(os.environ.get("VLDISTILL_CACHE") or "~/.cache/vldistill").expanduser() / "tars"
        target = cache / f"{name}.tar"
        if not target.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            with atomic(target) as temporary, temporary.open("wb") as handle, gzip.open(path) as packed:
                while block := packed.read(1 << 20):
                    handle.write(block)
                    if handle.tell() > max(state.st_size, BLOCK) * RATIO:
                        raise tarfile.ReadError(f"it unpacks to more than {RATIO} times its size")
        return target


def check_zip(path: Path, what: str, *, ratio: float = RATIO) -> None:
    """Refuse a zip whose members lead outside, are links, or unpack to more than ``ratio`` times the file.

    Members are checked by the archive's own list, nothing is unpacked. Raises DataError, naming ``what``.
    """
    expected = "a complete zip: download it again"
    with _guarding(path, expected, what), zipfile.ZipFile(path) as archive:
        total = 0
        for info in archive.infolist():
            kind = info.external_attr >> 28
            reason = why_unsafe(info.filename.rstrip("/")) or ("a link or device" if kind not in (0, 4, 8) else "")
            if reason:
                raise DataError(f"{what} {path} is refused: its member {info.filename!r} is {reason}.")
            total += info.file_size
        packed = path.stat().st_size
        if total > packed * ratio:
            raise DataError(
                f"{what} {path} is refused: its members unpack to {human_bytes(total)}, from {human_bytes(packed)}."
            )


@contextmanager
def _guarding(path: Path, expected: str, what: str = "tar") -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, RecursionError):
            reason = "its headers are nested without end"
        raise DataError(f"{what} {path} cannot be read ({reason}). Expected {expected}.") from None


class _Headers(BufferedReader):
    """What tarfile may read of an archive: no header of a size that nobody writes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        raw = super().read(size)
        if size > BLOCK and DIGITS.search(raw):
            raise tarfile.ReadError("a header of digits")
        return raw


def _walk(path: Path, headers: _Headers, end: int) -> Iterator[Member]:
    """Regular members, checked one by one; ``end`` is where the archive is over."""
    count, part, start = 0, 0, 0
    while start < end or not part:  # a tar, and what was appended to it
        headers.seek(start)
        at = 0
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
                count += 1
                if count > MEMBERS:
                    raise DataError(f"tar {path} is refused: more than {MEMBERS:,} members. Split it.")
                if info.size < 0 or archive.offset <= at:
                    raise tarfile.ReadError("a member with a negative size")
                at = archive.offset
                if reason := _why_refused(info):
                    raise DataError(
                        f"tar {path} is refused: its member {info.name!r} is {reason}. Make the tar again, from a "
                        f"folder of plain files with relative names (tar -h follows links)."
                    )
                if info.isdir():
                    continue
                if info.offset_data + info.size > end:
                    raise tarfile.ReadError("unexpected end of data")
                yield Member(_relative(info.name), info.offset_data, info.size, part)
            over = archive.offset
        headers.seek(over)  # tarfile takes a damaged header for the end
        if headers.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"a damaged header, or no end mark, at byte {over:,}")
        part += 1
        start = _next_block(headers, over + BLOCK, end)


def _next_block(headers: _Headers, start: int, end: int) -> int:
    """Where the next block that is not empty begins; the end where there is none."""
    headers.seek(start)
    while start < end and (raw := headers.read(BLOCK)):
        if raw.strip(b"\0"):
            return start
        start += len(raw)
    return end


def _why_refused(info: tarfile.TarInfo) -> str:
    if reason := why_unsafe(_relative(info.name) if info.isdir() else info.name):
        return reason
    if info.islnk() or info.issym():
        return "a link"
    if info.issparse():
        return "a sparse file"
    return "" if info.isdir() or info.isreg() else "a device or special file"


def _relative(name: str) -> str:
    """``./a/b`` as ``a/b``, as paths are compared."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return ("/" if name.startswith("/") else "") + "/".join(parts) or "."
