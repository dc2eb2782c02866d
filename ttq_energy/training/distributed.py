"""Several processes, as ``torchrun`` starts them: who writes, and what is gathered from all."""

from __future__ import annotations

import atexit
import os
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


def join_processes(device: torch.device) -> Processes:
    """Join the other processes, if there are any: NCCL between GPUs, gloo elsewhere.

    The group stays until this process ends: a second one cannot be made over the rendezvous that
    ``torchrun`` keeps, and a study trains many times. A group that is there already is used.
    """
    processes = this_process()
    if processes.size > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
    return processes
