"""The processes that train together, as torchrun starts them, or one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
_PATIENCE = timedelta(hours=6)
"""The others wait while the first process measures; torchrun ends them if it dies."""
_left: list[dist.ProcessGroup | None] = []
"""Groups that were left. Should DDP's reducer be the last to hold one, it would join gloo's thread
while it keeps the interpreter's lock, which that thread may be waiting for, to let a tensor go."""


@dataclass(frozen=True)
class World:
    """Where this process stands among those that train together.

    Attributes:
        device: of this process.
        rank: 0 writes the files and speaks to the user.
        size: number of processes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True in the process that writes and speaks."""
        return self.rank == 0

    def all_of(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, by rank; all must call it."""
        if self.size == 1:
            return list(items)
        found: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(found, list(items))
        return [item for part in found for item in part]

    def wait(self) -> None:
        """Until all processes are here."""
        self.all_of([None])  # a barrier would be the GPUs', where there are some


def speaks() -> bool:
    """True in the process that speaks to the user, also before the processes have met."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Meet the other processes, if torchrun started this one; leave them at the end.

    Args:
        device: that was asked for; of several GPUs on a machine each process takes its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # Objects go over the CPU: each step tells what was bad, and over NCCL that would wait for the
    # GPU to finish the step before.
    backends = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backends, timeout=_PATIENCE)
    try:
        yield World(device, dist.get_rank(), dist.get_world_size())
    finally:
        _left.append(dist.group.WORLD)
        dist.destroy_process_group()
