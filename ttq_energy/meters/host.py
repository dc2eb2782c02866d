"""What kind of machine this is, as far as it decides why a sensor is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cpu_vendor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """ "GenuineIntel", "AuthenticAMD", ... as the kernel names it; "" where it does not."""
    for line in _lines(cpuinfo):
        if line.startswith("vendor_id"):
            return line.partition(":")[2].strip()
    return ""


def is_virtual_machine(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether a hypervisor runs this machine (the CPUID bit that x86 kernels show as a flag)."""
    for line in _lines(cpuinfo):
        if line.startswith("flags"):
            return "hypervisor" in line.split()
    return False


def is_container() -> bool:
    """Whether this process runs in a container."""
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return True
    return any(
        word in line
        for line in _lines("/proc/1/cgroup")
        for word in ("docker", "kubepods", "containerd", "lxc")
    )


def missing_cpu_counter(what: str, remedy: str) -> tuple[str, str]:
    """Why a CPU energy counter is missing here, and what would help.

    Args:
        what: what was looked for, such as "no RAPL zone in /sys/class/powercap".
        remedy: the command that helps on bare metal.

    Returns:
        ``(reason, remedy)``; the remedy is empty where nothing run in here would help.
    """
    if not sys.platform.startswith("linux"):
        return f"{what}: only Linux has it", ""
    if is_virtual_machine():
        return (
            f"{what}: this is a virtual machine and its hypervisor exposes none; "
            "it can be read on the host only",
            "",
        )
    if is_container():
        return (
            f"{what}: this is a container that does not see the host's",
            "docker run --security-opt systempaths=unconfined "
            "--volume /sys/devices/virtual/powercap:/sys/devices/virtual/powercap:ro ...",
        )
    return what, remedy


def has_display_device(vendor: str, root: str = "/sys/bus/pci/devices") -> bool:
    """Whether a GPU of that PCI vendor (such as "0x10de") is in this machine."""
    try:
        devices = list(Path(root).iterdir())
    except OSError:
        return False
    for device in devices:
        kind, maker = _lines(str(device / "class")), _lines(str(device / "vendor"))
        if maker == [vendor] and kind and kind[0].startswith(("0x03", "0x12")):
            return True
    return False


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
