"""Timing for the kernel benchmark: interleaved turns, hot and cold weights, measured limits."""

from __future__ import annotations

import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ttq_energy.kernels import isa

ASSUMED_CACHE_BYTES = 32 << 20
LEAST_ROTATION_BYTES = 128 << 20
HOT_CALLS = 3  # timed calls of a turn, behind one that is not timed
LEAST_TURNS = 5
READ_COLUMNS = 4096
# OpenMP's and onnxruntime's threads spin for some milliseconds after a call, on cores that the
# next contender needs.
SETTLE_S = 0.004


@dataclass
class Contender:
    """One way to do a piece of work.

    Attributes:
        name: as printed.
        call: does the work once; with cold weights, each time on the next copy of them.
        weight_bytes: read at each call.
        near_s: time of the same arithmetic on weights in the near caches; None if not known.
        ours: whether this is a packed kernel of this package.
    """

    name: str
    call: Callable[[], Any]
    weight_bytes: int
    near_s: float | None = None
    ours: bool = False


@dataclass
class Result:
    """One contender's times on one piece of work."""

    work: str
    weights: str
    threads: int
    kernel: str
    repeats: int
    median_s: float
    low_s: float
    high_s: float
    gflops: float
    weight_bytes: int
    memory_fraction: float | None
    arithmetic_fraction: float | None
    ours: bool
    speed_over: dict[str, float] = field(default_factory=dict)

    @property
    def roofline_fraction(self) -> float | None:
        """The larger of the two shares of the time that a limit explains."""
        known = [f for f in (self.memory_fraction, self.arithmetic_fraction) if f is not None]
        return max(known, default=None)


def last_level_cache_bytes() -> int:
    """The largest cache that the system shows to this machine (a virtual one may show another)."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        if text.rstrip("KMG").isdigit():
            sizes.append(int(text.rstrip("KMG")) * unit)
    if not sizes and platform.system() == "Darwin":
        for key in ("hw.perflevel0.l2cachesize", "hw.l3cachesize"):
            shown = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True)
            if shown.stdout.strip().isdigit():
                sizes.append(int(shown.stdout))
    return max(sizes, default=ASSUMED_CACHE_BYTES)


def rotation_bytes() -> int:
    """How many bytes of weights to rotate through, so that each is out of the caches again."""
    return max(4 * last_level_cache_bytes(), LEAST_ROTATION_BYTES)


def copies(bytes_each: int, cold: bool) -> int:
    """How many copies of weights of such a size :func:`rotating` makes."""
    return 2 + rotation_bytes() // bytes_each if cold else 1


def rotating(build: Callable[[], Any], bytes_each: int, cold: bool) -> Callable[[], Any]:
    """A function that gives the next of several copies; of one where weights stay hot."""
    built = [build() for _ in range(copies(bytes_each, cold))]
    state = {"next": 0}

    def take() -> Any:
        state["next"] = (state["next"] + 1) % len(built)
        return built[state["next"]]

    return take


def race(
    contenders: list[Contender], seconds: float, cold: bool, threads: int
) -> list[list[float]]:
    """Times of every contender, which take turns in an order drawn anew each round.

    A turn with hot weights starts with one call that is not timed and brings them back into the
    caches from which the other contenders pushed them; a turn with cold weights is one call.
    """
    times: list[list[float]] = [[] for _ in contenders]
    order = list(range(len(contenders)))
    shuffle = random.Random(0).shuffle
    calls = 1 if cold else HOT_CALLS
    with torch.inference_mode():
        for contender in contenders:
            contender.call()
            contender.call()
        end = time.perf_counter() + seconds * len(contenders)
        turns = 0
        while time.perf_counter() < end or turns < LEAST_TURNS:
            shuffle(order)
            turns += 1
            for i in order:
                call = contenders[i].call
                if threads > 1:
                    time.sleep(SETTLE_S)
                if not cold or threads > 1:
                    call()
                for _ in range(calls):
                    start = time.perf_counter()
                    call()
                    times[i].append(time.perf_counter() - start)
    return times


def fastest(call: Callable[[], Any], seconds: float = 0.2) -> float:
    """The least time of a call, of those that fit into some seconds."""
    least = float("inf")
    with torch.inference_mode():
        call()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            call()
            least = min(least, time.perf_counter() - start)
    return least


class Bandwidth:
    """Bytes a second that threads of this process read, measured once for each size."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], float] = {}

    def of(self, bytes_: int, cold: bool, threads: int) -> float:
        """From where ``bytes_`` of weights lie: from memory where they are cold or too many.

        The faster of two readers: one that adds integers, and a dense matrix-vector product.
        """
        size = max(bytes_, 1 << 16)
        if cold or bytes_ > last_level_cache_bytes():
            size = rotation_bytes()
        key = size, threads
        if key not in self._known:
            rows = size // (4 * READ_COLUMNS)
            memory = torch.ones(rows, READ_COLUMNS)
            x, y = torch.ones(READ_COLUMNS), torch.empty(rows)
            native, address = isa.native(), memory.data_ptr()
            readers = (
                lambda: native.read_memory(address, 4 * memory.numel(), threads),
                lambda: native.dense_gemv(
                    x.data_ptr(), address, rows, READ_COLUMNS, y.data_ptr(), threads
                ),
            )
            least = min(fastest(reader) for reader in readers)
            self._known[key] = 4 * memory.numel() / least
        return self._known[key]


def results(
    work: str,
    cold: bool,
    threads: int,
    contenders: list[Contender],
    times: list[list[float]],
    operations: float,
    bandwidth: Bandwidth,
) -> list[Result]:
    """Medians, quartiles, shares of the roofline, and how much faster each is than each other."""
    rows = []
    for contender, seconds in zip(contenders, times, strict=True):
        low, median, high = statistics.quantiles(seconds, n=4)
        rate = bandwidth.of(contender.weight_bytes, cold, threads)
        rows.append(
            Result(
                work,
                "cold" if cold else "hot",
                threads,
                contender.name,
                len(seconds),
                median,
                low,
                high,
                operations / median / 1e9,
                contender.weight_bytes,
                contender.weight_bytes / rate / median,
                None if contender.near_s is None else contender.near_s / median,
                contender.ours,
            )
        )
    for row in rows:
        row.speed_over = {other.kernel: other.median_s / row.median_s for other in rows}
    return rows
