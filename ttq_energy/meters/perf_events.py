"""Linux perf events of a PMU: described in sysfs, opened by the perf_event_open system call.

Sources: ``perf_event_open(2)``, and Documentation/ABI/testing/
sysfs-bus-event_source-devices-{events,format} of the Linux kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
from dataclasses import dataclass
from pathlib import Path

SYSTEM_CALLS = {"x86_64": 298, "aarch64": 241, "i386": 336, "i686": 336}
ATTR_SIZE = 64
"""PERF_ATTR_SIZE_VER0: type, size, config and flags are all that a plain counter needs."""
FLAG_FD_CLOEXEC = 8
_TERM = re.compile(r"^config:(\d+)(?:-(\d+))?$")


@dataclass(frozen=True)
class PerfEvent:
    """One event of a PMU.

    Attributes:
        name: such as "energy-pkg".
        kind: the PMU's ``type``.
        config: what selects the event.
        scale: joules, or whatever ``unit`` says, of one count.
        unit: as the kernel gives it.
        cpus: where to open it: one CPU of each package (or core).
    """

    name: str
    kind: int
    config: int
    scale: float
    unit: str
    cpus: tuple[int, ...]


def pmu_events(pmu: Path) -> list[PerfEvent]:
    """The events of a PMU's folder; empty where there is no such PMU."""
    try:
        kind = int((pmu / "type").read_text())
        cpus = cpu_list((pmu / "cpumask").read_text())
        files = sorted((pmu / "events").iterdir())
    except (OSError, ValueError):
        return []
    events = []
    for file in files:
        if file.suffix in (".scale", ".unit", ".snapshot", ".per-pkg"):
            continue
        try:
            config = _config(file.read_text(), pmu / "format")
            scale = float(_optional(file.with_name(f"{file.name}.scale"), "1"))
        except (OSError, ValueError):
            continue
        unit = _optional(file.with_name(f"{file.name}.unit"), "")
        events.append(PerfEvent(file.name, kind, config, scale, unit, tuple(cpus)))
    return events


def cpu_list(text: str) -> list[int]:
    """The CPUs of a kernel list such as "0,18-19".

    Raises:
        ValueError: it is not one.
    """
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _config(text: str, formats: Path) -> int:
    """The config word of an event such as "event=0x02": each term put at its bits."""
    config = 0
    for term in filter(None, text.strip().split(",")):
        key, _, value = term.partition("=")
        match = _TERM.match(_optional(formats / key, "config:0-7"))
        if match is None:
            raise ValueError(f"a term '{key}' outside config")
        config |= int(value or "1", 0) << int(match[1])
    return config


def _optional(path: Path, otherwise: str) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return otherwise


class PerfCounter:
    """An open event on one CPU."""

    def __init__(self, event: PerfEvent, cpu: int) -> None:
        """Open it for the whole CPU, whatever runs there.

        Raises:
            OSError: the kernel refuses.
        """
        number = SYSTEM_CALLS.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, f"perf_event_open not known on {platform.machine()}")
        head = struct.pack("=IIQ", event.kind, ATTR_SIZE, event.config)
        attr = ctypes.create_string_buffer(head.ljust(ATTR_SIZE, b"\0"), ATTR_SIZE)
        libc = ctypes.CDLL(None, use_errno=True)
        everyone, no_group = ctypes.c_int(-1), ctypes.c_int(-1)
        self._descriptor: int = libc.syscall(
            ctypes.c_long(number),
            attr,
            everyone,
            ctypes.c_int(cpu),
            no_group,
            ctypes.c_ulong(FLAG_FD_CLOEXEC),
        )
        if self._descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def read(self) -> int:
        """The count now.

        Raises:
            OSError: it cannot be read, or the CPU went away (nothing comes back).
        """
        data = os.read(self._descriptor, 8)
        if len(data) < 8:
            raise OSError(errno.ENODEV, "the event's CPU went offline")
        return int(struct.unpack("=Q", data)[0])

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
