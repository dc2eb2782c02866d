"""What a run was made on: machine, operating system, packages, threads, command.

Everything unknown is None; nothing is guessed. Host, user and folder names are left out, since the
record is published with the results.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "ttq-energy",
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "safetensors",
    "codecarbon",
    "pyRAPL",
    "nvidia-ml-py",
    "psutil",
    "triton",
    "torchvision",
    "timm",
    "transformers",
)
"""Distributions whose versions are recorded; None where not installed."""

ISA_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "bmi2", "avx_vnni", "avxvnniint8"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512vbmi", "avx512_bf16"),
    *("avx512_fp16", "avx512_vpopcntdq", "gfni", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "fphp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "sme"),
)
"""Instruction sets that decide which kernels run, as Linux names them."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND")


def describe(command: Sequence[str] | None = None, root: str | Path = "/") -> dict[str, Any]:
    """The record that a run keeps of where it was made.

    Args:
        command: the command line; folders are cut from its paths.
        root: of /proc, /sys and /etc; another one serves tests.

    Returns:
        Plain data for JSON: timestamp, command, python, os, machine, gpus, packages, threads.
        Sizes in bytes, frequencies in Hz, power in W. It never raises for what cannot be read.
    """
    base = Path(root)
    return {
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [without_folders(word) for word in command] if command is not None else None,
        "python": {
            "implementation": platform.python_implementation(),
            "version": platform.python_version(),
        },
        "os": _operating_system(base),
        "machine": _machine(base),
        "gpus": _gpus(),
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": _threads(),
    }


def without_folders(word: str) -> str:
    """A word of a command line with absolute and home paths cut to their last part."""
    return re.sub(r"(?<![\w.~])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^/\\=,:]*[/\\])*", "", word)


# -- operating system -----------------------------------------------------------------------------


def _operating_system(root: Path) -> dict[str, Any]:
    release: dict[str, str] = {}
    for file in ("etc/os-release", "usr/lib/os-release"):
        text = _read(root / file)
        if text is not None:
            pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
            release = {key: value.strip("\"'") for key, _, value in pairs}
            break
    name, version = release.get("NAME"), release.get("VERSION_ID")
    if name is None and sys.platform == "darwin":
        name, version = "macOS", platform.mac_ver()[0] or None
    return {
        "name": name or platform.system() or None,
        "version": version,
        "kernel": _read(root / "proc/sys/kernel/osrelease") or platform.release() or None,
    }


# -- machine --------------------------------------------------------------------------------------


def _machine(root: Path) -> dict[str, Any]:
    info = _cpuinfo(root)
    cpus = root / "sys/devices/system/cpu"
    folders = sorted(cpus.glob("cpu[0-9]*"))
    flags = set((info.get("flags") or info.get("Features") or "").split())
    found = [flag for flag in ISA_FLAGS if flag in flags]
    return {
        "architecture": platform.machine() or None,
        "cpu_model": _cpu_model(info),
        "sockets": _distinct(folders, ("physical_package_id",)),
        "physical_cores": _physical_cores(root, folders),
        "logical_cores": len(folders) or os.cpu_count(),
        "usable_cores": _usable_cores(),
        "smt": _flag(cpus / "smt/active"),
        "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        "caches": _caches(cpus / "cpu0"),
        "isa": found if flags else None,
        "memory_bytes": _memory_bytes(root),
        "governor": _uniform(cpus, "cpufreq/scaling_governor"),
        "frequency_driver": _uniform(cpus, "cpufreq/scaling_driver"),
        "frequency_limits_hz": _frequency_limits(cpus / "cpu0/cpufreq"),
        "turbo": _turbo(cpus),
        "virtualization": _virtualization(root, flags),
        "container": _container(root),
        "cpu_quota_cores": _cpu_quota(root),
        "load_average": _load_average(),
    }


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entries in /proc/cpuinfo."""
    entries: dict[str, str] = {}
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            entries.setdefault(key.strip(), value.strip())
    return entries


def _cpu_model(info: dict[str, str]) -> str | None:
    if "model name" in info:
        return info["model name"]
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    implementer, part = info.get("CPU implementer"), info.get("CPU part")
    if implementer and part:
        return f"Arm implementer {implementer} part {part}"
    return None


def _distinct(folders: list[Path], keys: tuple[str, ...]) -> int | None:
    """How many different values the processors' topology files have."""
    values = {tuple(_read(folder / "topology" / key) for key in keys) for folder in folders}
    return len(values) if values and not any(None in value for value in values) else None


def _physical_cores(root: Path, folders: list[Path]) -> int | None:
    counted = _distinct(folders, ("physical_package_id", "core_id"))
    if counted is None and root == Path("/"):
        with contextlib.suppress(Exception):
            import psutil

            cores: int | None = psutil.cpu_count(logical=False)
            return cores
    return counted


def _usable_cores() -> int | None:
    """Cores that this process may run on."""
    with contextlib.suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))
    return None


def _caches(cpu: Path) -> list[dict[str, Any]] | None:
    """Level, kind and size of each cache that cpu0 uses."""
    caches = []
    for index in sorted((cpu / "cache").glob("index[0-9]*")):
        size = re.fullmatch(r"(\d+)([KMG]?)", _read(index / "size") or "")
        level = _integer(index / "level")
        if size is None or level is None:
            continue
        unit = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[size[2]]
        caches.append(
            {
                "level": level,
                "kind": (_read(index / "type") or "").lower() or None,
                "bytes": int(size[1]) * unit,
                "shared_by_cpus": _cpu_list_length(_read(index / "shared_cpu_list")),
            }
        )
    return caches or None


def _cpu_list_length(text: str | None) -> int | None:
    """Length of a kernel list such as ``0-3,8-11``."""
    if not text or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return None
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return sum(end[-1] - end[0] + 1 for end in ends)


def _memory_bytes(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo") or "", re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    if root == Path("/"):
        with contextlib.suppress(Exception):
            import psutil

            return int(psutil.virtual_memory().total)
    return None


def _uniform(cpus: Path, file: str) -> str | None:
    """A setting of all processors; several values are joined by commas."""
    values = {_read(path) for path in cpus.glob(f"cpu[0-9]*/{file}")} - {None}
    return ", ".join(sorted(v for v in values if v)) or None


def _frequency_limits(folder: Path) -> dict[str, int | None] | None:
    names = ("cpuinfo_min_freq", "cpuinfo_max_freq", "scaling_min_freq", "scaling_max_freq")
    limits = {}
    for name in names:
        khz = _integer(folder / name)
        limits[name.removesuffix("_freq")] = khz * 1000 if khz is not None else None
    return limits if any(value is not None for value in limits.values()) else None


def _turbo(cpus: Path) -> bool | None:
    off = _flag(cpus / "intel_pstate/no_turbo")
    return not off if off is not None else _flag(cpus / "cpufreq/boost")


def _virtualization(root: Path, flags: set[str]) -> str | None:
    """What a virtual machine shows of its host; "none" where the processor says it is real."""
    if "microsoft" in (_read(root / "proc/sys/kernel/osrelease") or "").lower():
        return "wsl"
    hypervisor = _read(root / "sys/hypervisor/type")
    if hypervisor:
        return hypervisor
    vendor = _read(root / "sys/class/dmi/id/sys_vendor")
    if "hypervisor" in flags:
        return f"hypervisor ({vendor})" if vendor else "hypervisor"
    if flags and platform.machine() in ("x86_64", "AMD64"):
        return "none"
    return None


def _container(root: Path) -> str | None:
    """The kind of container whose traces are seen; None where there are none."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = _read(root / "proc/1/cgroup") or ""
    for word in ("kubepods", "docker", "libpod", "lxc", "containerd"):
        if word in groups:
            return word
    return None


def _cpu_quota(root: Path) -> float | None:
    """Cores that the control group allows this process; None where it sets no limit."""
    quota = (_read(root / "sys/fs/cgroup/cpu.max") or "").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        return int(quota[0]) / int(quota[1])
    granted = _integer(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _integer(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return granted / period if granted and period and granted > 0 else None


def _load_average() -> list[float] | None:
    with contextlib.suppress(AttributeError, OSError):
        return [round(value, 2) for value in os.getloadavg()]
    return None


# -- GPUs, packages, threads ----------------------------------------------------------------------


def _gpus() -> list[dict[str, Any]] | None:
    """NVIDIA GPUs as their driver tells; None where no driver answers."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    try:
        count = pynvml.nvmlDeviceGetCount()
        return [_gpu(pynvml, index) for index in range(count)]
    except Exception:
        return None
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: str, *arguments: Any) -> Any:
        try:
            value = getattr(nvml, function)(*arguments)
        except Exception:
            return None
        return value.decode() if isinstance(value, bytes) else value

    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    limit_mw = ask("nvmlDeviceGetEnforcedPowerLimit", handle)
    default_mw = ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)
    return {
        "index": index,
        "name": ask("nvmlDeviceGetName", handle),
        "driver": ask("nvmlSystemGetDriverVersion"),
        "memory_bytes": memory.total if memory is not None else None,
        "power_limit_w": limit_mw / 1000 if limit_mw is not None else None,
        "default_power_limit_w": default_mw / 1000 if default_mw is not None else None,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if name == "ttq-energy":
            from ttq_energy import __version__

            return __version__
        return None


def _threads() -> dict[str, Any]:
    """torch's numbers where it is loaded, and the variables that decide them."""
    torch = sys.modules.get("torch")
    return {
        "torch": torch.get_num_threads() if torch is not None else None,
        "torch_interop": torch.get_num_interop_threads() if torch is not None else None,
        "environment": {name: os.environ.get(name) for name in THREAD_VARIABLES},
    }


# -- reading --------------------------------------------------------------------------------------


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _integer(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def _flag(path: Path) -> bool | None:
    value = _integer(path)
    return bool(value) if value in (0, 1) else None


def _sysctl(name: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=2)
        return done.stdout.strip() or None
    return None
