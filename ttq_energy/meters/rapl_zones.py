"""RAPL zones of the Linux power capping framework: found, named and told apart.

Layout: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c of the
Linux kernel. Zones are folders such as ``intel-rapl:0`` (a package, or psys) and ``intel-rapl:0:1``
(a part of it), each with ``name``, ``energy_uj`` and ``max_energy_range_uj``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONTROL_TYPES = ("intel-rapl", "intel-rapl-tpmi", "intel-rapl-mmio")
"""In order of preference: the others show the same energy once more, by another way."""
_ZONE = re.compile(r"^(intel-rapl(?:-[a-z]+)?)((?::\d+)+)$")
_PACKAGE = re.compile(r"^package-(\d+)(?:-die-(\d+))?$")
HARDWARE_COUNTER_STEPS = 2**32 - 1
"""RAPL's energy status registers are 32 bits wide (Intel SDM vol. 3B, 16.10)."""


@dataclass(frozen=True)
class Zone:
    """One zone: a folder with a counter.

    Attributes:
        path: its folder.
        control: the control type it stands under.
        key: its place, such as (0, 1) for ``intel-rapl:0:1``.
        name: as the kernel names it: "package-0", "dram", "core", "uncore", "psys", ...
        parent: the zone it is a part of; None at the top.
        range_uj: largest value of ``energy_uj``; 0 where it is not known.
    """

    path: Path
    control: str
    key: tuple[int, ...]
    name: str
    parent: Zone | None
    range_uj: int

    @property
    def energy_file(self) -> Path:
        return self.path / "energy_uj"

    @property
    def full_name(self) -> str:
        """Names from the top, which tell a zone wherever it is listed: "package-0/dram"."""
        return f"{self.parent.full_name}/{self.name}" if self.parent else self.name

    @property
    def resolution_j(self) -> float:
        """The counter's step: a 32-bit register spans the range; at least the file's 1 uJ."""
        return max(1e-6, self.range_uj * 1e-6 / HARDWARE_COUNTER_STEPS)

    @property
    def is_package(self) -> bool:
        return self.parent is None and _PACKAGE.match(self.name) is not None

    @property
    def domain_name(self) -> str:
        """A name unique on the machine: "cpu-package-0", "dram-0", "cpu-core-0", "psys"."""
        top = self.parent or self
        while top.parent:
            top = top.parent
        match = _PACKAGE.match(top.name)
        place = "" if match is None else f"-{match[1]}" + (f"-die-{match[2]}" if match[2] else "")
        if self.parent is None:
            return f"cpu-package{place}" if match else _plain(self.name)
        own = _plain(self.name)
        return f"{own}{place}" if own == "dram" else f"cpu-{own}{place}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "zone"


def find_zones(root: Path) -> list[Zone]:
    """Every RAPL zone under a powercap tree, each once, parents before their parts.

    Takes both the flat folder of links (``/sys/class/powercap``) and the nested one
    (``/sys/devices/virtual/powercap``); indices may have gaps. A zone that the MMIO or TPMI
    interface lists under the name of one already found is left out.
    """
    folders: dict[tuple[str, tuple[int, ...]], Path] = {}
    _collect(root, folders)
    zones: dict[tuple[str, tuple[int, ...]], Zone] = {}
    for control, key in sorted(folders, key=lambda item: (_rank(item[0]), item[1])):
        path = folders[control, key]
        name = _text(path / "name")
        if name is None or not (path / "energy_uj").exists():
            continue
        parent = zones.get((control, key[:-1])) if len(key) > 1 else None
        range_uj = _number(path / "max_energy_range_uj")
        zones[control, key] = Zone(path, control, key, name, parent, range_uj)
    unique: dict[str, Zone] = {}
    for zone in zones.values():
        unique.setdefault(zone.full_name, zone)
    return _distinct_names(list(unique.values()))


def _collect(folder: Path, found: dict[tuple[str, tuple[int, ...]], Path]) -> None:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    deeper = [entry for entry in entries if entry.name in CONTROL_TYPES]
    for entry in entries:
        match = _ZONE.match(entry.name)
        if match:
            key = tuple(int(index) for index in match[2][1:].split(":"))
            if (match[1], key) not in found:
                found[match[1], key] = entry
                deeper.append(entry)
    for entry in deeper:
        _collect(entry, found)


def _distinct_names(zones: list[Zone]) -> list[Zone]:
    """Only zones with names of their own: two zones of one name would be mixed up."""
    seen: set[str] = set()
    kept = []
    for zone in zones:
        if zone.domain_name not in seen:
            seen.add(zone.domain_name)
            kept.append(zone)
    return kept


def _rank(control: str) -> int:
    return CONTROL_TYPES.index(control) if control in CONTROL_TYPES else len(CONTROL_TYPES)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int:
    try:
        return int(_text(path) or 0)
    except ValueError:
        return 0
