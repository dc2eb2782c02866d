"""Which instruction set the native kernels use: the best the CPU has, or TTQ_ENERGY_ISA."""

from __future__ import annotations

import functools
import os
from types import ModuleType

import torch
from torch import Tensor

from ttq_energy.errors import InputError, unknown_name

VARIABLE = "TTQ_ENERGY_ISA"


@functools.cache
def native() -> ModuleType:
    """The compiled kernels, set to the instruction set in force.

    Raises:
        InputError: the extension is not built, or TTQ_ENERGY_ISA names an instruction set that
            is unknown or that this CPU lacks.
    """
    try:
        from ttq_energy.kernels import _native  # type: ignore[attr-defined]
    except ImportError as error:
        raise InputError(
            f"ttq_energy.kernels: the native extension cannot be loaded ({error});"
            " build it with `pip install .`, or see the head of CMakeLists.txt"
        ) from None
    _select(_native, os.environ.get(VARIABLE))
    module: ModuleType = _native
    return module


def _select(module: ModuleType, wanted: str | None) -> None:
    usable = list(module.available())
    if not wanted:
        module.use(usable[0])
        return
    known = list(module.known())
    if wanted not in known:
        raise unknown_name("instruction set", wanted, known, VARIABLE)
    if wanted not in usable:
        raise InputError(
            f"{VARIABLE}: this CPU or build lacks '{wanted}'; usable here: {', '.join(usable)}"
        )
    module.use(wanted)


def available() -> list[str]:
    """Instruction sets that this build holds and this CPU has, best first."""
    return list(native().available())


def active() -> str:
    """The instruction set whose kernels run."""
    return str(native().active())


def pack(matrix: Tensor) -> Tensor:
    """Pack contiguous int8 codes (rows, columns) on the CPU, as reference.pack_matrix does."""
    rows, columns = matrix.shape
    packed = torch.empty(rows * (-(-columns // 4)), dtype=torch.uint8)
    native().pack(matrix.data_ptr(), rows, columns, packed.data_ptr(), torch.get_num_threads())
    return packed
