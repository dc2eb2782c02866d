"""The ways in which an operator can run, and which of them are worth timing for a shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

FEW = 32
"""Batches up to this keep a word's codes in registers until all are used (see linear_kernel)."""
SPLIT_BELOW = 16
"""Batches up to this split the columns over programs."""
LARGEST_PARTS = 64


@dataclass(frozen=True)
class Path:
    """One way to run an operator.

    Attributes:
        kernel: "vector" (one item, plain lanes), "tile" (tensor cores on codes), "dense" (weights
            decoded to the activations' dtype, then the library's product) or, for an LSTM step,
            "step" (fused) and "linear" (the linear layer, then the cell).
        products: "signed", "both" or "rounded" (see ``pieces.accumulate``).
        block_rows, block_batch: the tile.
        unrolled: whether a word's codes are used up at one load.
        parts: programs that share the columns of a tile.
        warps, stages: of a program.
    """

    kernel: str
    products: str = "signed"
    block_rows: int = 0
    block_batch: int = 0
    unrolled: bool = False
    parts: int = 1
    warps: int = 4
    stages: int = 1

    @property
    def compiles(self) -> bool:
        """Whether it has a kernel of its own that takes long to compile."""
        return self.kernel in ("tile", "vector", "step")

    def describe(self, dtype: str, int8: bool) -> str:
        """What ran, for reports: "triton 2-bit tensor-core bfloat16, split-K 8"."""
        if self.kernel == "dense":
            library = "cuDNN/cuBLAS"
            return f"triton decode to {dtype}, then {library}"
        if self.kernel == "linear":
            return "triton 2-bit linear, then triton LSTM cell"
        unit = "vector" if self.kernel == "vector" else "tensor-core"
        kind = "int8" if int8 else ("float32 as 3 bfloat16" if dtype == "float32" else dtype)
        if self.kernel == "vector":
            kind = "float32"
        name = f"triton 2-bit {unit} {kind}"
        if self.kernel == "step":
            name += ", fused LSTM step"
        if self.products == "rounded":
            name += f", Wp and Wn rounded to {dtype}"
        return name + (f", split-K {self.parts}" if self.parts > 1 else "")

    def to_dict(self) -> dict[str, object]:
        """Plain data; ``Path(**data)`` reads it back."""
        return asdict(self)


@dataclass(frozen=True)
class Problem:
    """What decides how fast a path is.

    Attributes:
        op: "linear", "conv2d" or "lstm_step".
        dtype: of the activations, such as "bfloat16".
        int8: whether activations are quantized to 8 bits.
        batch: rows of x, or output pixels.
        rows, columns: of the weight matrix (of one group).
        group: G of the weights' layout.
        chunks: of the weights' layout.
        symmetric: one scale for both signs.
        groups: of a convolution.
        detail: what else decides, such as a convolution's geometry.
    """

    op: str
    dtype: str
    int8: bool
    batch: int
    rows: int
    columns: int
    group: int
    chunks: int
    symmetric: bool
    groups: int = 1
    detail: str = ""

    @property
    def takes_rounded(self) -> bool:
        """Whether each row's two values, rounded to the activations' type, may be multiplied."""
        return not self.symmetric and not self.int8 and self.dtype != "float32"

    @cached_property
    def key(self) -> str:
        """Names the shape in the cache; batches above 16 share the next power of two."""
        batch = self.batch if self.batch <= SPLIT_BELOW else 1 << (self.batch - 1).bit_length()
        scales = "one" if self.symmetric else "two"
        kind = "int8" if self.int8 else "float"
        shape = f"{batch}x{self.rows}x{self.columns}"
        return (
            f"{self.op} {self.dtype} {kind} {shape} groups={self.groups} G={self.group}"
            f" scales={scales}{' ' if self.detail else ''}{self.detail}"
        )


def candidates(problem: Problem, processors: int) -> list[Path]:
    """Paths worth timing, the likely best first (it runs where nothing may be timed).

    Args:
        problem: the shape.
        processors: streaming multiprocessors of the device.
    """
    exact = "signed" if problem.symmetric else "both"
    if problem.op == "lstm_step":
        steps = [] if problem.int8 else list(_steps(problem, exact))
        return [*steps, Path("linear")]
    found: list[Path] = []
    if problem.op == "linear" and problem.batch <= FEW:
        found += _few(problem, exact, processors)
    if problem.op == "linear" and problem.batch == 1 and not problem.int8:
        found += _vectors(problem, exact, processors)
    if problem.op == "conv2d" or problem.batch > SPLIT_BELOW:
        modes = [exact]
        if problem.takes_rounded:
            modes.insert(0, "rounded")
        for mode in modes:
            found += _many(problem, mode, processors)
        if not problem.int8 and problem.dtype != "float32":
            found.append(Path("dense"))  # a library's float32 may be TF32, which rounds
    return list(dict.fromkeys(found))


def _parts(problem: Problem, tiles: int, processors: int, waves: Iterable[float]) -> list[int]:
    """Numbers of parts that fill the processors about ``waves`` times; each has a chunk or more."""
    limit = min(problem.chunks, LARGEST_PARTS)
    wanted = (round(wave * processors / tiles) for wave in waves)
    even = (
        math.ceil(problem.chunks / math.ceil(problem.chunks / p)) for p in _within(wanted, limit)
    )
    return list(dict.fromkeys(even))


def _within(values: Iterable[int], limit: int) -> Iterator[int]:
    for value in values:
        yield max(1, min(value, limit))


def _few(problem: Problem, products: str, processors: int) -> Iterator[Path]:
    least = 8 if problem.batch <= 8 and not problem.int8 else 16
    widths = {least, 16} if problem.batch <= 16 else {32}
    for width in sorted(widths, reverse=True):
        for rows, warps in ((64, 4), (128, 4), (128, 8)):
            tiles = -(-problem.rows // rows) * -(-problem.batch // width)
            for parts in _parts(problem, tiles, processors, (2.0, 1.0, 4.0)):
                for stages in (3, 2) if rows == 64 else (3,):
                    yield Path("tile", products, rows, width, True, parts, warps, stages)


def _vectors(problem: Problem, products: str, processors: int) -> Iterator[Path]:
    for rows in (16, 32):
        tiles = -(-problem.rows // rows)
        for parts in _parts(problem, tiles, processors, (4.0, 8.0)):
            for warps in (2, 4):
                yield Path("vector", products, rows, 1, True, parts, warps, 3)


def _many(problem: Problem, products: str, processors: int) -> Iterator[Path]:
    # Each is compiled for a second or two. "both" keeps two sums: a tile of 128 x 256 would spill.
    tiles_of = [(128, 128, 8, 3), (128, 64, 4, 4), (64, 64, 4, 4)]
    if products != "both":
        tiles_of.insert(1, (128, 256, 8, 3))
    elif problem.takes_rounded:  # needs half the work and wins but where memory decides
        tiles_of = tiles_of[1:]
    for rows, width, warps, stages in tiles_of:
        if (rows > 64 and problem.rows <= 64) or (width > 64 and problem.batch <= width // 2):
            continue
        tiles = -(-problem.rows // rows) * -(-problem.batch // width) * problem.groups
        waves = (1.0, 2.0) if tiles < processors else (0.0,)
        for parts in _parts(problem, tiles, processors, waves):
            yield Path("tile", products, rows, width, False, parts, warps, stages)


def _steps(problem: Problem, products: str) -> Iterator[Path]:
    width = 16 if problem.batch <= 16 else 32 if problem.batch <= 32 else 64
    for units in (16, 32):
        for warps in (4, 8):
            if 4 * units >= 16 * warps:
                yield Path("step", products, units, width, True, 1, warps, 3 if width < 64 else 2)
