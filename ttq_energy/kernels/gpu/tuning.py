"""The fastest measured path for a shape: timing on the device, and a cache that outlives it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath
from typing import Any

import torch

from ttq_energy.errors import InputError
from ttq_energy.files import atomic_writer
from ttq_energy.kernels.gpu.paths import Path, Problem, candidates

VARIABLE = "TTQ_ENERGY_GPU_TUNING"
"""Seconds that a process may spend on timing paths, or "off": what the cache holds runs then, or
else the likely best."""
LIMIT_S = 120.0
"""The same where the variable is not set. The cache keeps what was timed, so that the next process
goes on where this one stopped."""
FOLDER_VARIABLE = "TTQ_ENERGY_GPU_CACHE"
"""The folder of the cache, instead of the one under $XDG_CACHE_HOME."""
FINALISTS = 4
FIRST_LOOKS = 3
INTERLEAVED_LOOKS = 15
CLEARED_BYTES = 256 * 2**20
"""Overwritten before each timed run, so that weights come from memory as in a whole network."""
CLEARINGS = 2
"""Some 200 us of work in front of each timed run: the host has launched all of it by then, so that
the events frame the device's time and not the host's."""
COMPILING_THREADS = 16
PARSES_IN_THREADS = sys.version_info >= (3, 12, 3) or (3, 11, 9) <= sys.version_info < (3, 12)
"""Older Pythons fail now and then where two threads parse source (CPython issue 106905)."""

Work = Callable[[], object]
Timer = Callable[[Work], float]
Run = Callable[[Path], object]


def cache_folder() -> FilePath:
    """Where tuned paths are kept.

    $TTQ_ENERGY_GPU_CACHE, else $XDG_CACHE_HOME/ttq-energy/gpu, by default under ~/.cache.
    """
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return FilePath(own)
    base = FilePath(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        base = base.expanduser()
    except RuntimeError:  # this user has no home
        base = FilePath(tempfile.gettempdir())
    return base / "ttq-energy" / "gpu"


def device_timer(device: torch.device) -> Timer:
    """A timer of one run of some work on a CUDA device, in seconds, with a cold L2 cache."""

    def timed(work: Work) -> float:
        begin, end = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            _clear_cache(device)
            begin.record()
            work()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    return timed


def _clear_cache(device: torch.device) -> None:
    try:
        other = torch.empty(CLEARED_BYTES, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:  # candidates are then compared with a warm cache
        return
    for _ in range(CLEARINGS):
        other.zero_()


def compile_together(paths: Sequence[Path], run: Run) -> None:
    """Compile the kernels of several paths side by side; a path that fails is left to its run.

    Compilers release Python's lock for most of their time, and a shape has a dozen candidates of a
    second or two each. Needs Triton 3.5 and a Python of ``PARSES_IN_THREADS``; without them each
    path is compiled when it first runs.
    """
    if not PARSES_IN_THREADS:
        return
    try:
        from triton import AsyncCompileMode
    except ImportError:
        return
    from ttq_energy.kernels.gpu.launch import compiling_only

    threads = min(COMPILING_THREADS, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(threads) as pool,
        AsyncCompileMode(pool, ignore_errors=True),
        compiling_only(),
    ):
        for path in paths:
            if path.compiles:
                with contextlib.suppress(Exception):
                    run(path)


class TuningCache:
    """Chosen paths of one device, kept in a JSON file.

    The file's name carries the device, the versions of torch and Triton and the kernels' own
    source, so that a change of any of them starts afresh. A folder that cannot be written only
    costs the next process its time.
    """

    def __init__(self, device_name: str, folder: FilePath | None = None) -> None:
        digest = hashlib.sha256(_sources().encode()).hexdigest()[:12]
        title = "".join(c if c.isalnum() else "-" for c in device_name).strip("-").lower()
        self.file = (folder or cache_folder()) / f"{title}-{digest}.json"
        self.entries: dict[str, dict[str, Any]] = self._read()

    def get(self, key: str) -> Path | None:
        """The path chosen for a shape, or None."""
        entry = self.entries.get(key)
        try:
            return Path(**entry["path"]) if entry else None
        except (KeyError, TypeError):
            return None

    def put(self, key: str, path: Path, times_s: Mapping[str, float]) -> None:
        """Keep the choice for a shape and the times that led to it."""
        entry = {"path": path.to_dict(), "times_s": dict(times_s)}
        self.entries = {**self._read(), **self.entries, key: entry}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(self.file) as stream:
                json.dump(self.entries, stream, indent=1, sort_keys=True)
        except (InputError, OSError):
            pass

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}


def _sources() -> str:
    folder = FilePath(__file__).parent
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py"))]
    return "\n".join([torch.__version__, _triton_version(), platform.machine(), *texts])


def _triton_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


class Tuner:
    """Chooses a path for each problem: from memory, from the cache, or by timing.

    Args:
        cache: where choices are kept.
        processors: streaming multiprocessors of the device.
        timer: times one run in seconds; None where nothing can be timed (no GPU).
        prepare: is given all candidates before the first is timed.
    """

    def __init__(
        self,
        cache: TuningCache,
        processors: int,
        timer: Timer | None,
        prepare: Callable[[Sequence[Path], Run], object] | None = None,
    ) -> None:
        self.cache = cache
        self.processors = processors
        self.timer = timer
        self.prepare = prepare
        self.spent_s = 0.0
        self._chosen: dict[str, Path] = {}

    def choose(self, problem: Problem, run: Run) -> Path:
        """The fastest path measured for this problem.

        Where nothing can be timed (no timer, the time for it is up, or a CUDA graph is being
        captured) and nothing is known, the likely best runs, and is not remembered.

        Args:
            problem: the shape.
            run: runs the operator by a path; one that raises is left out.

        Raises:
            RuntimeError: no path runs.
        """
        key = problem.key
        known = self._chosen.get(key)
        if known is not None:
            return known
        paths = candidates(problem, self.processors)
        kept = self.cache.get(key)
        if kept in paths:  # a damaged file may hold anything
            self._chosen[key] = kept
            return kept
        if self.timer is None or self.spent_s >= limit_s() or _is_capturing():
            return paths[0]
        began_s = time.monotonic()
        try:
            if self.prepare is not None:
                self.prepare(paths, run)
            times = measure(paths, run, self.timer)
        finally:
            self.spent_s += time.monotonic() - began_s
        best = min(times, key=lambda path: times[path])
        self._chosen[key] = best
        self.cache.put(key, best, {str(p.to_dict()): t for p, t in times.items()})
        return best

    def timed(self, problem: Problem) -> bool:
        """Whether what :meth:`choose` gives for this problem rests on a measurement."""
        return problem.key in self._chosen


def limit_s() -> float:
    """Seconds that a process may spend on timing.

    Raises:
        InputError: TTQ_ENERGY_GPU_TUNING is neither a number nor "off".
    """
    wanted = os.environ.get(VARIABLE, "").strip().lower()
    if not wanted:
        return LIMIT_S
    if wanted == "off":
        return 0.0
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InputError(f"{VARIABLE}: expected seconds or 'off', got '{wanted}'")
    return seconds


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def measure(paths: Sequence[Path], run: Run, timer: Timer) -> dict[Path, float]:
    """Median seconds of the fastest few paths, timed in turns after a first look at all.

    Raises:
        RuntimeError: no path runs; its cause is the last failure.
    """
    first: dict[Path, float] = {}
    failure: Exception | None = None
    for path in paths:

        def work(path: Path = path) -> object:
            return run(path)

        try:
            timer(work)  # compiles
            first[path] = min(timer(work) for _ in range(FIRST_LOOKS))
        except Exception as error:
            # A tile can need more shared memory or registers than a device has, and compilers
            # refuse in many ways; what does not run is not a candidate.
            if "CUDA error" in str(error):
                raise
            failure = error
    if not first:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise RuntimeError(f"no GPU path runs for this shape: {reason}") from failure
    finalists = sorted(first, key=lambda path: first[path])[:FINALISTS]
    looks: dict[Path, list[float]] = {path: [] for path in finalists}
    for _ in range(INTERLEAVED_LOOKS):
        for path in finalists:
            looks[path].append(timer(lambda path=path: run(path)))  # type: ignore[misc]
    return {path: statistics.median(times) for path, times in looks.items()}


_TUNERS: dict[tuple[str, int], Tuner] = {}


def tuner_of(device: torch.device) -> Tuner:
    """The tuner of a device; on a CPU (Triton's interpreter) one that times nothing."""
    index = device.index if device.index is not None else 0
    key = (device.type, index)
    if key not in _TUNERS:
        if device.type == "cuda":
            facts = torch.cuda.get_device_properties(device)
            processors, timer = facts.multi_processor_count, device_timer(device)
            cache = TuningCache(f"{facts.name} {processors}")  # parts of a GPU (MIG) differ
            _TUNERS[key] = Tuner(cache, processors, timer, compile_together)
        else:
            _TUNERS[key] = Tuner(TuningCache(device.type), processors=2, timer=None)
    return _TUNERS[key]
