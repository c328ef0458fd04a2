"""Random seeds from names instead of a running generator, so that a resumed run draws the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*parts: object) -> int:
    """A 63-bit seed from a hash of ``parts``, e.g. ``seed_of(seed, "segment", iteration)``."""
    raw = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded from ``parts``."""
    return torch.Generator().manual_seed(seed_of(*parts))


@contextmanager
def seeded(device: torch.device, *parts: object) -> Iterator[None]:
    """Seed torch's global generators from ``parts`` within the context, and restore them afterwards."""
    seed = seed_of(*parts)
    if device.type == "cuda":
        with torch.cuda.device(device), torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every other GPU as well
            torch.cuda.manual_seed(seed)
            yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield
