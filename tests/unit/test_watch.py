"""Processes that watch each other, on a store within this process: who is gone, who is done, and who only slept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed import HashStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from vldistill.runtime.watch import Watch, is_lost


class Ended(list[str]):
    """What a watch ended with."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def __call__(self, reason: str) -> None:
        self.append(reason)
        self.event.set()


def watch(store: Store, rank: int, end: Callable[[str], None], size: int = 2) -> Watch:
    return Watch(store, rank, size, end, every=0.02, silent=0.6, left=0.1).start()


def test_all_end_where_one_is_silent_and_the_message_names_it() -> None:
    store, ended, other = HashStore(), Ended(), Ended()
    first, second = watch(store, 0, ended), watch(store, 1, other)
    assert not ended.event.wait(0.8)
    second._stopped.set()  # killed: it says nothing more
    assert ended.event.wait(5) and ended[0].startswith("process 0 of 2: process 1 has been silent for")
    first.stop()
    assert other == []


def test_one_that_never_began_is_missed_too() -> None:
    ended = Ended()
    watch(HashStore(), 1, ended, size=3)
    assert ended.event.wait(5) and "process 0 has been silent" in ended[0]


def test_the_reason_of_one_that_left_is_told_and_one_that_is_done_is_not_missed() -> None:
    store, ended = HashStore(), Ended()
    mine, failed = watch(store, 0, ended), watch(store, 1, Ended())
    failed.stop("the disk is full")
    assert ended.event.wait(5) and ended == ["process 0 of 2: process 1 ended: the disk is full"]
    mine.stop()
    store, ended = HashStore(), Ended()
    mine, done = watch(store, 0, ended), watch(store, 1, Ended())
    done.stop()
    assert not ended.event.wait(1.0)
    mine.stop()


def test_a_store_that_is_gone_ends_the_process_unless_its_owner_was_done() -> None:
    class Gone(HashStore):
        lost = False

        def set(self, key: str, value: str) -> None:
            if self.lost:
                raise RuntimeError("Broken pipe\nmore")
            super().set(key, value)

    for word in ("", "done"):
        store, ended = Gone(), Ended()
        if word:
            store.set("watch/0/0", word)
        mine = watch(store, 1, ended)
        if word:
            assert not ended.event.wait(0.2)
        store.lost = True
        assert ended.event.wait(0.4) is not bool(word)
        assert word or "process 0 does not answer (Broken pipe)" in ended[0]
        mine.stop()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:1"), True),
        (dist.DistBackendError("NCCL error"), True),
        (dist.DistStoreError("wait timeout"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("connection closed by peer"), False),
    ],
)
def test_what_says_that_a_peer_is_gone(error: Exception, lost: bool) -> None:
    assert is_lost(error) is lost


def test_a_store_of_a_real_server_serves_two_connections() -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20))
    ended = Ended()
    watches = [
        watch(TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=20)), rank, ended)
        for rank in range(2)
    ]
    assert not ended.event.wait(0.8)
    for one in watches:
        one.stop()
