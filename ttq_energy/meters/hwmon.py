"""Power sensors of boards by hwmon: INA chips, as on Jetson modules, and supplies that tell power.

Layout: Documentation/hwmon/sysfs-interface.rst of the Linux kernel: ``powerN_input`` or
``powerN_average`` in microwatt; else ``inN_input`` in millivolt times ``currN_input`` in
milliampere.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ttq_energy.errors import SensorError
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading, SensorStatus
from ttq_energy.meters.spot import measure_updates

ROOT = "/sys/class/hwmon"
NOMINAL_UPDATE_S = 0.1
SPOT_LIMIT_S = 0.3
TOTALS = re.compile(r"(^|_)(v?in|vdd_in|pom_5v_in|vdd_total|total|system|sys5v|vin_sys_5v0)(_|$)")
"""Labels of the rail that feeds a whole board (NVIDIA Jetson developer guide, INA3221 rails)."""
OTHERS = re.compile(
    r"^(amdgpu|nvidia|zenpower|amd_energy|bat\d*|ac\d*|adp\d*|ucsi.*)$", re.IGNORECASE
)
"""Chips left alone: those that a meter of their own reads, and batteries and chargers, whose power
is that of charging."""
BOARD_CHIPS = re.compile(r"^(ina\d|ltc\d|power_meter)")
"""Chips that are built to measure a supply: one alone measures what feeds the board."""


@dataclass(frozen=True)
class Channel:
    """One power reading: files whose product, times ``unit_w``, is its power."""

    name: str
    chip: str
    label: str
    files: tuple[Path, ...]
    unit_w: float
    update_period_s: float

    def read(self) -> float:
        """Power in W.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        power = self.unit_w
        for file in self.files:
            power *= int(file.read_bytes())
        return power

    @property
    def is_total(self) -> bool:
        return TOTALS.search(self.label.lower().replace(" ", "_")) is not None


class HwmonMeter(Meter):
    """Power rails of a board, one domain a rail. Only the one that feeds all may be added."""

    name = "hwmon"
    sampled = True

    def __init__(self, root: str | os.PathLike[str] = ROOT) -> None:
        """Find the rails.

        Args:
            root: the hwmon folder.

        Raises:
            SensorError: there is none, or none can be read.
        """
        channels = find_channels(Path(root))
        if not channels:
            raise SensorError(f"hwmon: no power sensor in {root}")
        self._channels, problem = [], ""
        for channel in channels:
            try:
                channel.read()
                self._channels.append(channel)
            except OSError as error:
                problem = f"{channel.files[0]}: {(error.strerror or str(error)).lower()}"
            except ValueError as error:
                problem = f"{channel.files[0]}: {error}"
        if not self._channels:
            remedy = f"; sudo chmod a+r {Path(root)}/*/power*" if "denied" in problem else ""
            raise SensorError(f"hwmon: {problem}{remedy}")
        self._running = False

    @property
    def domains(self) -> tuple[Domain, ...]:
        boards = [c for c in self._channels if BOARD_CHIPS.match(c.chip)]
        whole = [c for c in boards if c.is_total][:1] or (boards if len(boards) == 1 else [])
        return tuple(
            Domain(
                name=channel.name,
                component="system" if channel in whole else "soc",
                provenance=Provenance.INTEGRATED,
                covers=f"rail '{channel.label}' of {channel.chip}"
                + ("; it feeds the whole board" if channel in whole else ""),
                additive=channel in whole,
                update_period_s=channel.update_period_s,
                hardware=channel.chip,
            )
            for channel in self._channels
        )

    def start(self) -> None:
        self._running = True

    def read(self) -> list[Reading]:
        return [self._read_one(channel) for channel in self._channels]

    def _read_one(self, channel: Channel) -> Reading:
        if not self._running:
            return Reading(channel.name, time.monotonic(), error="the meter is not started")
        try:
            power_w = channel.read()
            return Reading(channel.name, time.monotonic(), power_w=power_w)
        except (OSError, ValueError) as error:
            return Reading(channel.name, time.monotonic(), error=str(error))

    def stop(self) -> None:
        self._running = False

    @classmethod
    def probe(cls, root: str | os.PathLike[str] = ROOT) -> SensorStatus:
        try:
            meter = cls(root)
        except SensorError as error:
            reason, _, remedy = str(error).removeprefix("hwmon: ").partition("; ")
            found = bool(find_channels(Path(root)))
            return SensorStatus(
                cls.name, found, False, Provenance.INTEGRATED, reason=reason, remedy=remedy
            )
        meter.start()
        spots = measure_updates(
            lambda: [reading.power_w for reading in meter.read()], SPOT_LIMIT_S, pause_s=0.002
        )
        meter.stop()
        periods = [s.update_period_s for s in spots if s.update_period_s is not None]
        return SensorStatus(
            cls.name,
            True,
            True,
            Provenance.INTEGRATED,
            ", ".join(f"{domain.name} ({domain.covers})" for domain in meter.domains),
            update_period_s=min(periods) if periods else None,
        )


def find_channels(root: Path) -> list[Channel]:
    """The power readings under a hwmon tree that no other meter reads."""
    channels: list[Channel] = []
    try:
        chips = sorted(root.iterdir())
    except OSError:
        return []
    for folder in chips:
        chip = _text(folder / "name", folder.name)
        if not OTHERS.match(chip):
            channels += _channels(folder, chip)
    names = [channel.name for channel in channels]
    return [c for place, c in enumerate(channels) if c.name not in names[:place]]


def _channels(folder: Path, chip: str) -> list[Channel]:
    files = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    period_s = float(_text(folder / "update_interval", "0") or 0) / 1000.0 or NOMINAL_UPDATE_S
    found = []
    for number in sorted({int(m[1]) for f in files if (m := re.match(r"power(\d+)_", f))}):
        for kind in ("input", "average"):
            if f"power{number}_{kind}" in files:
                label = _text(folder / f"power{number}_label", f"power{number}")
                paths: tuple[Path, ...] = (folder / f"power{number}_{kind}",)
                found.append(_channel(chip, label, paths, 1e-6, period_s))
                break
    if found:
        return found
    for number in sorted({int(m[1]) for f in files if (m := re.match(r"curr(\d+)_input", f))}):
        if f"in{number}_input" in files:
            label = _text(folder / f"in{number}_label", f"rail{number}")
            paths = (folder / f"in{number}_input", folder / f"curr{number}_input")
            found.append(_channel(chip, label, paths, 1e-6, period_s))
    return found


def _channel(
    chip: str, label: str, files: tuple[Path, ...], unit_w: float, period_s: float
) -> Channel:
    plain = re.sub(r"[^a-z0-9]+", "-", f"{chip}-{label}".lower()).strip("-")
    return Channel(f"board-{plain}", chip, label, files, unit_w, period_s)


def _text(path: Path, otherwise: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return otherwise
