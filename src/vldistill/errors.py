"""The errors a user can cause. Every message names the value, what was expected and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VldistillError(Exception):
    """Wrong use or input: the command line prints the message and exits with 2."""


class ConfigError(VldistillError):
    """A setting, option or combination of them that cannot work."""


class MissingExtraError(VldistillError, ImportError):
    """An optional package that is not installed; the message names the command that installs it."""


class DataError(VldistillError):
    """A data source that is missing, broken, or of the wrong kind."""


class ArtefactError(VldistillError):
    """A file written by this library that is missing, damaged, or made for something else."""


class DamagedError(ArtefactError):
    """A file that is cut, or whose checksum differs: what was written is not what is there.

    Args:
        message: the whole message.
        reason: its part about the file alone.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class HubError(ConfigError):
    """What the Hugging Face hub refuses, does not hold, or does not answer."""


class InUseError(ConfigError):
    """Another process is writing the same artefact."""


class StorageError(VldistillError, OSError):
    """A disk that is full, read-only or failing.

    Args:
        message: the whole message.
        number: of the system's error.
        reason: its part about the disk alone.
    """

    def __init__(self, message: str, number: int, reason: str) -> None:
        super().__init__(message)
        self.message, self.errno, self.strerror = message, number, reason

    def __str__(self) -> str:
        return self.message


class MemoryShortError(VldistillError):
    """A device whose memory is too small, whatever is done in parts."""


class MatchingError(VldistillError):
    """A matching problem without a meaning, such as a segment of length zero."""


class DivergedError(VldistillError):
    """A distillation that kept producing non-finite or exploding numbers."""


class Stopped(Exception):
    """The user asked to stop; what was done is saved. The command line exits with 3."""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """A message for an unknown ``name``: the nearest known names first, then all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(str(name), options, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(options) or 'none'}."
