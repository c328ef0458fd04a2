"""Several processes that share one distillation or one expert, started by ``torchrun``.

They exchange JSON values (losses, stop requests, errors) and tensors; nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from vldistill.errors import ConfigError, Stopped
from vldistill.runtime.watch import Watch, is_lost

T = TypeVar("T")
PATIENCE = timedelta(hours=24)  # the others wait while rank 0 evaluates; a process that dies is seen by the watch
NUMBERS_AT_ONCE = 2**22  # elements of a variable gathered from every draw at a time


def launched() -> int:
    """The number of processes that ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@dataclass(frozen=True)
class Processes:
    """All processes that work together, and which one this process is.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        local: number of this process on its machine, from 0: the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is rank 0, which writes, evaluates and reports."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values (JSON) of all ranks, in rank order; every rank must call it."""
        if self.size == 1:
            return [value]
        raw = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = self.gather_rows(torch.tensor([len(raw)]), [1] * self.size)
        return [json.loads(bytes(part.tolist())) for part in self.gather_rows(raw, [int(n) for n in lengths])]

    def gather_rows(self, own: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
        """The tensors of all ranks, ``counts`` rows each, without gradients."""
        if self.size == 1:
            return [own]
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own.detach()
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return [part[:count] for part, count in zip(found, counts)]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any rank."""
        return any(self.gather(flag))

    def of_first(self, value: T) -> T:
        """The value of rank 0."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.gather(None)

    @torch.no_grad()
    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the ``tensors`` of rank 0 to all ranks, in place; every rank must call it with the same shapes."""
        if self.size == 1:
            return
        for tensor in tensors:
            plain = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(plain, 0)
            tensor.copy_(plain)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Run the block on rank 0 first, then on the others, which find its files."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def mean(self, own: Sequence[torch.Tensor]) -> torch.Tensor:
        """The mean over the draws of all ranks, summed in draw order: the same bits for any number of ranks.

        Args:
            own: tensors of this rank's draws; the same number on every rank, all of one shape and dtype.
        """
        count = len(own) * self.size
        if count == 1:
            return own[0]
        flat = [tensor.detach().contiguous().reshape(-1) for tensor in own]
        out = torch.empty_like(flat[0])
        for start in range(0, len(out), NUMBERS_AT_ONCE):
            parts = torch.stack([tensor[start : start + NUMBERS_AT_ONCE] for tensor in flat])
            total = torch.zeros_like(parts[0])
            for part in self.gather_rows(parts, [len(own)] * self.size):
                for row in part:
                    total += row
            out[start : start + NUMBERS_AT_ONCE] = total / count
        return out.reshape(own[0].shape)


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; :data:`ALONE` without it.

    Where each has a GPU of its own on its machine, tensors on GPUs go through NCCL, whose communicator is made at once
    and bound to that GPU; everything else goes through gloo.

    Raises:
        ConfigError: its environment variables are incomplete.
        Stopped: another process is gone.
    """
    if launched() == 1:
        yield ALONE
        return
    try:
        rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
        gpu = own_gpu(local)
        backend = "gloo" if gpu is None else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=PATIENCE, device_id=gpu)
        watch = Watch(_own_connection(), rank, launched()).start()
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')!r}, but the processes cannot find each other ({error}). "
            f"Start them with torchrun --nproc_per_node N -m vldistill.cli ..., or unset WORLD_SIZE."
        ) from None
    try:
        yield Processes(rank, launched(), local)
    except BaseException as error:
        # no destroy_process_group: it waits for the others, who may wait for this one in a collective
        if not is_lost(error):
            watch.stop(str(error).partition("\n")[0][:200] or type(error).__name__)
            raise
        watch.stop("it lost another process")
        reason = str(error).partition("\n")[0][:200]
        raise Stopped(
            f"process {rank} of {launched()}: another process is gone ({reason}). This one ends too; what was saved is "
            f"kept. Run the same command to resume."
        ) from None
    watch.stop()
    dist.destroy_process_group()


def own_gpu(local: int) -> torch.device | None:
    """The GPU of process ``local`` of this machine, made the current one; None unless every process there has one."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if max(local + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) > there:
        return None
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _own_connection() -> TCPStore:
    """A connection of its own to the store that the processes found each other by."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30))


def merged_logs(logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every logged value over the draws that have it."""
    names = dict.fromkeys(name for log in logs for name in log)
    having = {name: [log[name] for log in logs if name in log] for name in names}
    return {name: sum(values) / len(values) for name, values in having.items()}
