"""Files that are whole or not there, and that show when they were changed.

Everything is written under a temporary name, synced and renamed. Every artefact carries checksums (blake2b, 64 bits),
which are verified when it is read:

- tensors: a safetensors file whose header has one checksum per tensor, and one of the header itself. Each tensor is
  checked when it is read, so that a snapshot of an expert costs what a snapshot takes.
- records: a JSON object whose last entry is ``blake2b``.
- arrays: see :mod:`vldistill.storage.arrays`.

A file without a checksum (made before there were any, or by somebody else) is read as it is.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vldistill.config.plain import Plain, Record
from vldistill.errors import ArtefactError, DamagedError, StorageError, VldistillError

if TYPE_CHECKING:
    import torch

OWN = "vldistill"  # the one key of a safetensors header of ours: several would stand in random order
WRITTEN = itertools.count()  # threads of one process may write the same file at the same time
CHECKSUM = "blake2b"  # the key of the checksum in a header or a record
RESUME = "What was written before is kept: run the same command to resume."
REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk fails",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "there is a file of that name",
    errno.EISDIR: "there is a folder of that name",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "the path is a circle of links",
}
WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)  # the others are the path's own


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what a disk refuses while ``path`` is written into StorageError; other errors pass."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        reason, other = REFUSALS[error.errno], "choose another folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"Free some space, or {other}. {RESUME}"
        elif error.errno in WRITABLE:
            remedy = f"Make its folder writable, or {other}. {RESUME}"
        else:
            remedy = "Choose another path."
        raise StorageError(f"{path} cannot be written: {reason}. {remedy}", error.errno, reason) from None


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place.

    Raises:
        StorageError: the disk is full, read-only or failing; what stood at ``path`` still does.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}-{next(WRITTEN)}.tmp")
        try:
            temporary.touch()
            usual = temporary.stat().st_mode  # by the umask; safetensors lets the owner alone read its files
            temporary.unlink()
            yield temporary
            temporary.chmod(usual)
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"\W+", "-", platform.node())[:40]


def _remove_stale(path: Path) -> None:
    """Remove what killed processes of this machine left of ``path``."""
    import psutil

    pattern = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(_host())}\.(\d+)(?:-\d+)?\.tmp")
    for entry in os.scandir(path.parent):
        found = pattern.fullmatch(entry.name)
        if found and not psutil.pid_exists(int(found[1])):
            Path(entry.path).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (POSIX only; elsewhere a no-op)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append one line; half a line that a killed process left is ended first."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as handle:
            end = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, end - 1))
            half = end > 0 and handle.read(1) != b"\n"
            handle.write(("\n" if half else "").encode() + line.encode() + b"\n")


# --- JSON ----------------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Plain) -> None:
    """Write ``value`` as readable JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_record(path: Path, value: Record) -> None:
    """Write a JSON object with a checksum, which :func:`read_json` verifies and takes out."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, {**plain, CHECKSUM: digest(plain)})


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file of ours; ``what`` names it in the error.

    Raises:
        ArtefactError: it does not exist.
        DamagedError: it is not JSON, or its checksum differs.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{what}: {path} does not exist.") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{what}: {path} is not readable JSON ({error}). Delete it and make it again.") from None
    if isinstance(value, dict) and CHECKSUM in value and value.pop(CHECKSUM) != digest(value):
        raise DamagedError(
            f"{what}: {path} was changed since it was written: its checksum differs. Restore it, or delete it and make "
            f"it again. If the change is meant, take out its line {CHECKSUM!r}."
        )
    return value


# --- tensors -------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors with checksums, atomically. Only tensors that share memory are copied.

    The same tensors and metadata give the same bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != plain.nbytes
        ready[name] = plain.clone() if shared else plain
        seen.add(storage.data_ptr())
    digests = {name: tensor_digest(name, tensor) for name, tensor in sorted(ready.items())}
    given = dict(sorted((metadata or {}).items()))
    note = json.dumps({"metadata": given, "tensors": digests, CHECKSUM: digest(given, digests)})
    with atomic(path) as temporary:
        try:
            save_file(ready, temporary, metadata={OWN: note})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), str(error)) from None


def tensor_digest(name: str, tensor: torch.Tensor) -> str:
    """The checksum of a contiguous tensor on the CPU, its name, number format and shape."""
    import torch

    state = hashlib.blake2b(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=8)
    state.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return state.hexdigest()


class TensorFile:
    """A safetensors file, opened; each tensor is checked when it is first read.

    Args:
        path: the file; one without checksums is read as it is.
        what: names it in errors.

    Raises:
        ArtefactError: it does not exist.
        DamagedError: it is cut or changed.
    """

    def __init__(self, path: Path, what: str) -> None:
        from safetensors import SafetensorError, safe_open

        self.path, self.what = path, what
        self._checked: set[str] = set()
        if not path.is_file():
            raise ArtefactError(f"{what}: {path} does not exist.")
        try:
            self._file = safe_open(path, framework="pt")
            self.metadata: dict[str, str] = dict(self._file.metadata() or {})
            self.names: list[str] = list(self._file.keys())
            self._digests: dict[str, str] | None = None
            if OWN in self.metadata:
                note = json.loads(self.metadata[OWN])
                self.metadata, self._digests = note["metadata"], note["tensors"]
                if note[CHECKSUM] != digest(self.metadata, self._digests):
                    raise ValueError("the checksum of its header differs")
                if sorted(self.names) != sorted(note["tensors"]):
                    raise ValueError("it does not hold the tensors it was written with")
            elif any(f'"{CHECKSUM}"' in value for value in self.metadata.values()):
                raise ValueError("its header was changed")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self.damaged(str(error)) from None

    def damaged(self, reason: str) -> DamagedError:
        """The error that this file is damaged."""
        return DamagedError(
            f"{self.what}: {self.path} is damaged ({reason}). Delete it and make it again.", reason=reason
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Its number format as safetensors calls it, e.g. ``F32``."""
        return self._file.get_slice(name).get_dtype()

    def read(self, name: str) -> torch.Tensor:
        """One tensor; it may be the mapped file itself. Raises DamagedError."""
        from safetensors import SafetensorError

        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise self.damaged(str(error)) from None
        if self._digests is not None and name not in self._checked:
            if tensor_digest(name, tensor) != self._digests[name]:
                raise self.damaged(f"the checksum of {name} differs")
            self._checked.add(name)
        return tensor


def read_tensors(path: Path, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read every tensor and the metadata of a safetensors file.

    Raises:
        ArtefactError: it does not exist.
        DamagedError: it is cut or changed.
    """
    file = TensorFile(path, what)
    return {name: file.read(name) for name in file.names}, file.metadata


# --- hashes and sizes ----------------------------------------------------------------------------------------------


def digest(*parts: object) -> str:
    """A 16-character hash of ``parts``: bytes as they are, everything else as canonical JSON."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()


def human_bytes(count: float) -> str:
    """``count`` bytes as text, e.g. ``1.5 GB`` (powers of 1,000, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def require_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to start when ``folder``'s disk has less than ``needed`` bytes free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise VldistillError(
            f"{what} needs {human_bytes(needed)} in {folder}, but the disk has {human_bytes(free)} free. "
            f"Free some space or choose another folder."
        )
