"""The fastest measured path for a shape: timing on the device, and a cache that outlives it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import torch

from ttq_energy.errors import InputError
from ttq_energy.files import atomic_writer
from ttq_energy.kernels.gpu.paths import Path, Problem, candidates

VARIABLE = "TTQ_ENERGY_GPU_TUNING"
"""Set to "off", no path is timed: what the cache holds runs, or else the likely best."""
FINALISTS = 4
FIRST_LOOKS = 3
INTERLEAVED_LOOKS = 15
CLEARED_BYTES = 256 * 2**20
"""Overwritten before each timed run, so that weights come from memory as in a whole network."""

Work = Callable[[], object]
Timer = Callable[[Work], float]


def cache_folder() -> FilePath:
    """Where tuned paths are kept: $XDG_CACHE_HOME/ttq-energy/gpu, by default under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return FilePath(base).expanduser() / "ttq-energy" / "gpu"


def device_timer(device: torch.device) -> Timer:
    """A timer of one run of some work on a CUDA device, in seconds, with a cold L2 cache."""

    def timed(work: Work) -> float:
        begin, end = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            torch.empty(CLEARED_BYTES, dtype=torch.uint8, device=device).zero_()
            begin.record()
            work()
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    return timed


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
    """

    def __init__(self, cache: TuningCache, processors: int, timer: Timer | None) -> None:
        self.cache = cache
        self.processors = processors
        self.timer = timer
        self._chosen: dict[str, Path] = {}

    def choose(self, problem: Problem, run: Callable[[Path], object]) -> Path:
        """The fastest path measured for this problem.

        Where nothing can be timed (no timer, TTQ_ENERGY_GPU_TUNING=off, or a CUDA graph is being
        captured) and nothing is known, the likely best runs, and is not remembered.

        Args:
            problem: the shape.
            run: runs the operator by a path; one that raises is left out.

        Raises:
            RuntimeError: no path runs.
        """
        key = problem.key
        known = self._chosen.get(key) or self.cache.get(key)
        if known is not None:
            self._chosen[key] = known
            return known
        paths = candidates(problem, self.processors)
        if self.timer is None or not _may_time():
            return paths[0]
        times = measure(paths, run, self.timer)
        best = min(times, key=lambda path: times[path])
        self._chosen[key] = best
        self.cache.put(key, best, {str(p.to_dict()): t for p, t in times.items()})
        return best


def _may_time() -> bool:
    if os.environ.get(VARIABLE, "").lower() == "off":
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def measure(
    paths: Sequence[Path], run: Callable[[Path], object], timer: Timer
) -> dict[Path, float]:
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
        raise RuntimeError("no GPU path runs for this shape") from failure
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
            _TUNERS[key] = Tuner(TuningCache(facts.name), processors, timer)
        else:
            _TUNERS[key] = Tuner(TuningCache(device.type), processors=2, timer=None)
    return _TUNERS[key]
