"""Power sensors of boards: INA chips, as on Jetson modules, and supplies that tell their power.

By hwmon (Documentation/hwmon/sysfs-interface.rst of the Linux kernel): ``powerN_input`` or
``powerN_average`` in microwatt; else ``inN_input`` in millivolt times ``currN_input`` in
milliampere. Jetson kernels before 5.10 show the same chips by iio
(Documentation/ABI/testing/sysfs-bus-iio): ``in_powerN_input`` or ``in_powerN_raw`` times
``in_powerN_scale``, in milliwatt, and ``rail_name_N``.
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
IIO_ROOT = "/sys/bus/iio/devices"
NOMINAL_UPDATE_S = 0.1
SPOT_LIMIT_S = 0.3
TOTALS = re.compile(
    r"(vdd_|(pom_|vdd_)?5v_|main_)?v?in|(vdd_)?total(_power)?|system(_power)?", re.ASCII
)
"""Labels of the rail that feeds a whole board or module (NVIDIA Jetson Linux developer guide, power
monitors)."""
TOGETHER = (
    frozenset({"gpu", "cpu", "soc", "cv", "vddrq", "sys5v"}),
    frozenset({"vdd_gpu_soc", "vdd_cpu_cv", "vin_sys_5v0"}),
)
"""Rails that feed a module together where no single one does: AGX Xavier, AGX Orin (the same
guide). They stand side by side, so that they may be added."""
OTHERS = re.compile(
    r"^(amdgpu|nvidia|zenpower|amd_energy|bat\d*|ac\d*|adp\d*|ucsi.*)$", re.IGNORECASE
)
"""Chips left alone: those that a meter of their own reads, and batteries and chargers, whose power
is that of charging."""
BOARD_CHIPS = re.compile(r"^(ina\d|ltc\d|power_meter)", re.IGNORECASE)
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
            power *= float(file.read_bytes())
        return power

    @property
    def rail(self) -> str:
        """The label as rails are written in NVIDIA's guide, in lower case."""
        return self.label.lower().replace(" ", "_")


class HwmonMeter(Meter):
    """Power rails of a board, one domain a rail. Only what feeds all of it may be added."""

    name = "hwmon"
    sampled = True

    def __init__(
        self, root: str | os.PathLike[str] = ROOT, *, iio: str | os.PathLike[str] | None = None
    ) -> None:
        """Find the rails.

        Args:
            root: the hwmon folder.
            iio: the folder of iio devices; None takes the machine's where ``root`` is its too.

        Raises:
            SensorError: there is none, or none can be read.
        """
        channels = find_channels(Path(root), _iio_root(root, iio))
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
            files = " ".join(str(file) for channel in channels for file in channel.files)
            remedy = f"; sudo chmod a+r {files}" if "denied" in problem else ""
            raise SensorError(f"hwmon: {problem}{remedy}")
        self._running = False

    @property
    def domains(self) -> tuple[Domain, ...]:
        whole = _whole(self._channels)
        feeds = "it feeds the whole board" if len(whole) == 1 else "one of those that feed it all"
        return tuple(
            Domain(
                name=channel.name,
                component="system" if whole == [channel] else "soc",
                provenance=Provenance.INTEGRATED,
                covers=f"rail '{channel.label}' of {channel.chip}"
                + (f"; {feeds}" if channel in whole else ""),
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
    def probe(
        cls, root: str | os.PathLike[str] = ROOT, *, iio: str | os.PathLike[str] | None = None
    ) -> SensorStatus:
        try:
            meter = cls(root, iio=iio)
        except SensorError as error:
            reason, _, remedy = str(error).removeprefix("hwmon: ").partition("; ")
            found = bool(find_channels(Path(root), _iio_root(root, iio)))
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


def _iio_root(root: str | os.PathLike[str], iio: str | os.PathLike[str] | None) -> Path | None:
    if iio is not None:
        return Path(iio)
    return Path(IIO_ROOT) if os.fspath(root) == ROOT else None


def _whole(channels: list[Channel]) -> list[Channel]:
    """The rail, or the rails together, that feed the whole board; empty where none is known to."""
    boards = [c for c in channels if BOARD_CHIPS.match(c.chip)]
    totals = [c for c in boards if TOTALS.fullmatch(c.rail)]
    if totals:
        return totals[:1]
    rails = {c.rail for c in boards}
    for together in TOGETHER:
        if together <= rails:
            return [c for c in boards if c.rail in together]
    return boards if len(boards) == 1 else []


def find_channels(root: Path, iio: Path | None = None) -> list[Channel]:
    """The power readings under a hwmon tree, and an iio one, that no other meter reads."""
    channels: list[Channel] = []
    for folder in _folders(root):
        chip = _text(folder / "name", folder.name)
        if not OTHERS.match(chip):
            channels += _channels(folder, chip)
    for folder in _folders(iio) if iio is not None else []:
        channels += _iio_channels(folder, _text(folder / "name", folder.name))
    names = [channel.name for channel in channels]
    return [c for place, c in enumerate(channels) if c.name not in names[:place]]


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError:
        return []


def _iio_channels(folder: Path, chip: str) -> list[Channel]:
    files = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    found = []
    for number in sorted({int(m[1]) for f in files if (m := re.match(r"in_power(\d+)_", f))}):
        base = f"in_power{number}_"
        label = _text(folder / f"rail_name_{number}", _text(folder / f"{base}label", f"{number}"))
        if f"{base}input" in files:
            paths: tuple[Path, ...] = (folder / f"{base}input",)
        elif {f"{base}raw", f"{base}scale"} <= files:
            paths = (folder / f"{base}raw", folder / f"{base}scale")
        else:
            continue
        found.append(_channel(chip, label, paths, 1e-3, NOMINAL_UPDATE_S))
    return found


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
