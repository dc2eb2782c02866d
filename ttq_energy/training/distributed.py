"""Several processes, as ``torchrun`` starts them: who writes, and what is gathered from all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from ttq_energy.errors import InputError


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Attributes:
        rank: 0 for the one that writes.
        size: how many there are.
        local_rank: among those on this host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process writes files and tells progress."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """This process's part of a batch.

        Raises:
            InputError: the batch cannot be divided equally.
        """
        if batch_size % self.size:
            raise InputError(
                f"training.batch_size: must be a multiple of the {self.size} processes, "
                f"got {batch_size}"
            )
        return batch_size // self.size

    def total(self, *values: float, device: torch.device) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


def this_process() -> Processes:
    """What ``torchrun`` says in the environment; one process where it does not."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Processes()
    return Processes(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Join the other processes, if there are any: NCCL between GPUs, gloo elsewhere.

    A group that is there already is used and left in place.
    """
    processes = this_process()
    if processes.size == 1 or distributed.is_initialized():
        yield processes
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield processes
    finally:
        distributed.destroy_process_group()
