"""Atomic files: a final name never holds half a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vldistill.errors import ArtefactError, VldistillError

if TYPE_CHECKING:
    import torch


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
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


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file of ours; ``what`` names it in the error. Raises ArtefactError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{what}: {path} does not exist.") from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{what}: {path} is not readable JSON ({error}). Delete it and make it again.") from None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically. Only tensors that share memory are copied."""
    from safetensors.torch import save_file

    ready: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != plain.nbytes
        ready[name] = plain.clone() if shared else plain
        seen.add(storage.data_ptr())
    with atomic(path) as temporary:
        save_file(ready, temporary, metadata=dict(metadata or {}))


def read_tensors(path: Path, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read every tensor and the metadata of a safetensors file. Raises ArtefactError when missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ArtefactError(f"{what}: {path} does not exist.")
    try:
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}, dict(handle.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(f"{what}: {path} is damaged ({error}). Delete it and make it again.") from None


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
