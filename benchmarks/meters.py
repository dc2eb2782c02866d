"""Cost of measuring: a window and the sampling, beside other tools on the same stub sensors.

Makes a powercap tree of a two-socket server with memory in a temporary folder and measures on it
what each tool costs: the time of an empty window, and the share of one core that its sampling
takes while nothing is measured.

    python benchmarks/meters.py [--windows N] [--seconds S]

Zeus and CodeCarbon are left out where they are not installed. The limits are those of the
project: 95 of 100 windows at most 100 us, the sampling at most 1 % of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from ttq_energy.measurement import EnergyMonitor
from ttq_energy.meters import HwmonMeter, RaplMeter

WINDOW_LIMIT_S = 100e-6
CORE_LIMIT = 0.01
RANGES_UJ = {"package": 262_143_328_850, "dram": 65_712_999_613}


@dataclass
class Cost:
    """What one tool costs: median and 95th percentile of a window, share of a core."""

    tool: str
    window_s: float | None
    window_p95_s: float | None
    core: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=2000, help="empty windows to time [2000]")
    parser.add_argument("--seconds", type=float, default=10.0, help="of sampling to watch [10]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=_memory_folder()) as folder:
        powercap, hwmon = _powercap(Path(folder)), _hwmon(Path(folder))
        costs = [_ours(powercap, options), _ours_sampled(hwmon, options)]
        for other in (_zeus, _codecarbon):
            cost = other(powercap, options)
            if cost is not None:
                costs.append(cost)
    return _print(costs)


def _print(costs: list[Cost]) -> int:
    base = costs[0]
    print(f"{'tool':<34} {'window':>12} {'95 %':>12} {'x ours':>8} {'core':>9}")
    for cost in costs:
        window, p95, ratio = "-", "-", ""
        if cost.window_s is not None and cost.window_p95_s is not None:
            window = f"{cost.window_s * 1e6:.1f} us"
            p95 = f"{cost.window_p95_s * 1e6:.1f} us"
            ratio = f"{cost.window_s / (base.window_s or 1.0):.1f}"
        print(f"{cost.tool:<34} {window:>12} {p95:>12} {ratio:>8} {cost.core:>9.3%}")
    fails = []
    if (base.window_p95_s or 0.0) > WINDOW_LIMIT_S:
        fails.append(f"one window in 20 takes more than {WINDOW_LIMIT_S * 1e6:.0f} us")
    fails += [
        f"{cost.tool}: sampling takes more than {CORE_LIMIT:.0%} of a core"
        for cost in costs[:2]
        if cost.core > CORE_LIMIT
    ]
    print("within the limits" if not fails else "\n".join(fails))
    return 1 if fails else 0


# -- the tools ------------------------------------------------------------------------------------


def _ours(root: Path, options: argparse.Namespace) -> Cost:
    with EnergyMonitor([RaplMeter(root)]) as monitor:

        def window() -> None:
            with monitor.window("empty"):
                pass

        times = _times(window, options.windows)
        monitor.forget("empty")
        core = _core_share(options.seconds)
    return _cost("ttq-energy, RAPL (4 counters)", times, core)


def _ours_sampled(root: Path, options: argparse.Namespace) -> Cost:
    with EnergyMonitor([HwmonMeter(root)]) as monitor:
        time.sleep(3.0)  # until the sampler has found its rate
        core = _core_share(options.seconds)
        for message in monitor.messages:
            print(message, file=sys.stderr)
    return Cost("ttq-energy, sampled power (10 Hz)", None, None, core)


def _zeus(root: Path, options: argparse.Namespace) -> Cost | None:
    try:
        import zeus.device.cpu.rapl as rapl
        from zeus.monitor import ZeusMonitor
    except ImportError as error:
        print(f"Zeus left out: {error}", file=sys.stderr)
        return None
    rapl.RAPL_DIR = str(root / "intel-rapl")
    logging.getLogger("zeus").setLevel(logging.ERROR)
    monitor = ZeusMonitor(gpu_indices=[])

    def window() -> None:
        monitor.begin_window("empty", sync_execution=False)
        monitor.end_window("empty", sync_execution=False)

    times = _times(window, options.windows)
    return _cost("Zeus", times, _core_share(options.seconds))


def _codecarbon(root: Path, options: argparse.Namespace) -> Cost | None:
    try:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.external.hardware import CPU
    except ImportError as error:
        print(f"CodeCarbon left out: {error}", file=sys.stderr)
        return None
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracker = OfflineEmissionsTracker(
            country_iso_code="USA", output_methods=[], log_level="critical"
        )
    tracker._ensure_hardware_ready()
    folder = str(root / "intel-rapl")
    tracker._hardware = [CPU("", "intel_rapl", "stub", 100, folder, rapl_include_dram=True)]

    def window() -> None:
        tracker.start_task("empty")
        tracker.stop_task("empty")

    times = _times(window, max(options.windows // 100, 10))
    tracker.start()
    core = _core_share(options.seconds)
    tracker.stop()
    return _cost("CodeCarbon (start_task, stop_task)", times, core)


# -- stub sensors and clocks ----------------------------------------------------------------------


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _powercap(folder: Path) -> Path:
    """A server's zones: nested folders, and links to them as in /sys/class/powercap."""
    root = folder / "powercap"
    for socket in (0, 1):
        package = root / "intel-rapl" / f"intel-rapl:{socket}"
        for zone, name, kind in (
            (package, f"package-{socket}", "package"),
            (package / f"intel-rapl:{socket}:0", "dram", "dram"),
        ):
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "max_energy_range_uj").write_text(f"{RANGES_UJ[kind]}\n")
            (zone / "energy_uj").write_text(f"{(socket + 1) * 12_345_678}\n")
            (root / zone.name).symlink_to(zone)
    return root


def _hwmon(folder: Path) -> Path:
    chip = folder / "hwmon" / "hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("ina226\n")
    (chip / "update_interval").write_text("100\n")
    (chip / "power1_input").write_text("7250000\n")
    return folder / "hwmon"


def _times(window: Callable[[], None], count: int) -> list[float]:
    for _ in range(max(count // 10, 3)):
        window()
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        window()
        times.append(time.perf_counter() - begun)
    return times


def _cost(tool: str, times: list[float], core: float) -> Cost:
    return Cost(tool, statistics.median(times), statistics.quantiles(times, n=20)[-1], core)


def _core_share(seconds: float) -> float:
    """Share of one core that this process and those it started take while this thread sleeps."""
    before = sum(_cpu_times())
    begun = time.monotonic()
    time.sleep(seconds)
    return (sum(_cpu_times()) - before) / (time.monotonic() - begun)


def _cpu_times() -> Iterator[float]:
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            yield times.user + times.system


if __name__ == "__main__":
    sys.exit(main())
