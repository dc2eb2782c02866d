"""Which instruction set the native kernels use: the best the CPU has, or TTQ_ENERGY_ISA."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from types import ModuleType
from typing import TYPE_CHECKING

from ttq_energy.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "TTQ_ENERGY_ISA"
HUGE_PAGE_BYTES = 2 << 20


@functools.cache
def native() -> ModuleType:
    """The compiled kernels, set to the instruction set in force.

    Raises:
        InputError: the extension is not built, or TTQ_ENERGY_ISA names an instruction set that
            is unknown or that this CPU lacks.
    """
    try:
        from ttq_energy.kernels import _native
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
    if wanted == "avx512-vnni" or (wanted == "avx512" and "avx512-plain" in usable[:1]):
        # One name for AVX-512 whichever of its generations the CPU has.
        wanted = next((name for name in usable if name.startswith("avx512")), "avx512")
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
    return _pack(matrix, rows * (-(-columns // 4)))


def pack_linear(matrix: Tensor, int8: bool) -> Tensor:
    """Pack int8 codes (rows, columns) in the layout that the active linear kernels like best.

    The layouts differ in length, which is how the kernels tell them apart (src/layout.h): weights
    packed under one instruction set run under every other.
    """
    rows, columns = matrix.shape
    return _pack(matrix, native().linear_bytes(rows, columns, int8))


def conv2d_bytes(shape: tuple[int, ...], columns: int, int8: bool) -> int:
    """Bytes that the active kernels would have the weights of a convolution take.

    Args:
        shape: of the codes, (out, in/groups, kh, kw).
        columns: of its matrix in the layout of reference.pack_matrix.
        int8: whether activations are quantized.
    """
    return int(native().window_columns(0, *shape, columns, int8)[0])


def pack_conv2d(codes: Tensor, columns: int, int8: bool) -> Tensor | None:
    """Pack int8 codes (out, in/groups, kh, kw) in the wide layout that the kernels like best.

    Returns:
        The packed bytes, or None where the layout of reference.pack_matrix is the best.
    """
    import torch.nn.functional as F

    out, channels = codes.shape[:2]
    size, wide, run, pixel = native().window_columns(0, *codes.shape, columns, int8)
    if run == 0:
        return None
    # Kernel rows, pixels, channels, with zeros after the channels and after each run (layout.h).
    runs = wide // run
    padded = F.pad(codes.permute(0, 2, 3, 1), (0, pixel - channels)).reshape(out, runs, -1)
    return _pack(F.pad(padded, (0, run - padded.shape[2])).reshape(out, wide).contiguous(), size)


def unpack_conv2d(packed: Tensor, shape: tuple[int, ...], columns: int) -> Tensor:
    """The int8 codes of ``shape`` (out, in/groups, kh, kw) that :func:`pack_conv2d` packed."""
    out, channels, height, width = shape
    _, wide, run, pixel = native().window_columns(packed.numel(), *shape, columns, False)
    runs = wide // run
    padded = unpack(packed, out, wide).view(out, runs, run)[..., : height * width // runs * pixel]
    pixels = padded.reshape(out, height, width, pixel)[..., :channels]
    return pixels.permute(0, 3, 1, 2).contiguous()


def _pack(matrix: Tensor, size: int) -> Tensor:
    import torch

    packed = _empty(size)
    threads = torch.get_num_threads()
    native().pack(matrix.data_ptr(), *matrix.shape, packed.data_ptr(), size, threads)
    return packed


def _empty(size: int) -> Tensor:
    """Bytes to fill, on huge pages where the system has them and some are filled whole.

    Weights that come from memory then wait for few page walks, which cost as much as the reading
    itself, more so in a virtual machine. The tensor's storage has exactly the size asked for.
    """
    import torch

    mapped = zeros_on_huge_pages(size)
    return torch.empty(size, dtype=torch.uint8, device="cpu") if mapped is None else mapped


def zeros_on_huge_pages(size: int) -> Tensor | None:
    """Zero bytes (uint8) on huge pages; None where the system has none or none would be filled."""
    import torch

    if size < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, size + HUGE_PAGE_BYTES, flags=flags)
    offset = -torch.frombuffer(memory, dtype=torch.uint8, count=1).data_ptr() % HUGE_PAGE_BYTES
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE, offset, size // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES)
    return torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=offset)


def settled(packed: Tensor) -> Tensor:
    """Packed bytes on the CPU in memory such as packing gives them: themselves, or a copy."""
    if packed.numel() < HUGE_PAGE_BYTES or packed.data_ptr() % HUGE_PAGE_BYTES == 0:
        return packed
    return _empty(packed.numel()).copy_(packed)


def unpack(packed: Tensor, rows: int, columns: int) -> Tensor:
    """The int8 codes (rows, columns) of packed bytes, in any layout, on the CPU."""
    import torch

    packed = packed.cpu().contiguous()
    codes = torch.empty((rows, columns), dtype=torch.int8, device="cpu")
    threads = torch.get_num_threads()
    native().unpack(packed.data_ptr(), packed.numel(), rows, columns, codes.data_ptr(), threads)
    return codes
