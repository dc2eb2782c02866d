"""NVIDIA's power readings by board, driver and reading, from published measurements.

The tables ``nvidia_sensors.csv`` and ``nvidia_gain.csv`` in this folder bear their sources.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ttq_energy.errors import InputError, unknown_name
from ttq_energy.measurement.power_sensor import Sensor
from ttq_energy.measurement.updates import ABSENT

READINGS = ("power.draw", "power.draw.instant", "power.draw.average")
SLOT_POWER_W = 75.0
"""Boards without power cables; the one in the table has an offset several times the others'."""
UNKNOWN_GAIN_SD = 0.03
"""Added in quadrature to the gain's spread where the board is not recognised."""
MODERN = frozenset({"ga10x", "ada", "hopper", "unknown"})
"""Families whose ``power.draw`` is a 1 s average, but for driver branch 530 (NVML's documentation:
"Ampere and later except GA100"; branch 530: arXiv 2312.02741)."""

_FAMILIES: tuple[tuple[str, str], ...] = (
    ("unknown", r"\b(g?b[123]00|gb10|gb20\d|thor)\b|blackwell|rtx 50\d\d"),
    ("hopper", r"\b(g?h(20|100|200|800)[a-z]*|gh200)\b"),
    ("ga100", r"\b(a100[a-z]*|a30x?|a800|170hx|pg506|pg199)\b"),
    ("ada", r"rtx 40\d\d|\bl(2|4|20|40)s?\b|\bada\b"),
    ("ga10x", r"rtx 30\d\d|rtx a\d{3,4}|\ba(2|10[gm]?|16|40)\b|rtx 2050|mx570|90hx|50hx"),
    (
        "turing",
        r"rtx 20\d\d|gtx 16\d\d|\bt4g?\b|quadro rtx|titan rtx|\bt\d{3,4}\b|mx450|rtx [3-8]000\b",
    ),
    ("volta", r"v100|titan v\b|gv100"),
    (
        "pascal",
        r"(gtx|rtx) 10\d\d|gt 10[13]0|\bp(4|6|40|100)\b|p100|titan xp|titan x \(?pascal|"
        r"quadro g?p\d|mx[123]\d0\b",
    ),
    ("maxwell-gm107", r"\bk620\b|k1200|k2200|gtx 7[45]\d|quadro m[56]\d0m?\b"),
    ("maxwell-tesla", r"\bm(4|6|10|40|60)\b"),
    ("maxwell-gm200", r"gtx 9\d\d|titan x\b|quadro m\d"),
    ("kepler-gk110", r"\bk(20|40)[a-z]*\b|gtx 780|titan( black| z)?$|quadro k6000"),
    ("kepler-gk210", r"\bk80\b"),
    ("kepler", r"\bk(1|2|10|340|520)\b|gt[xs]? [67]\d\d|quadro k\d"),
)


@dataclass(frozen=True)
class _Row:
    family: str
    reading: str
    update_period_s: float
    kernel: str
    window_s: float
    seen: float


def family_of(gpu_name: str) -> str:
    """Which family of power sensors a board belongs to; "unknown" where it is not recognised.

    Args:
        gpu_name: as NVML tells it, with spaces or underscores, in any case.
    """
    name = _plain(gpu_name)
    return next((family for family, pattern in _FAMILIES if re.search(pattern, name)), "unknown")


def nvml_sensor(gpu_name: str, driver: str | None = None, reading: str = "power.draw") -> Sensor:
    """The sensor behind one of NVML's power readings.

    Args:
        gpu_name: the board, such as "NVIDIA A100-PCIE-40GB"; underscores may stand for spaces.
        driver: its version, such as "535.54.03"; None takes a current one (535 or later).
        reading: "power.draw" (also NVML's ``nvmlDeviceGetPowerUsage``), "power.draw.instant" or
            "power.draw.average".

    Returns:
        Its model. A board that is not recognised gets a middle model with a wider spread, and
        ``known`` is False.

    Raises:
        InputError: an unknown reading, or a driver that is not a version.
    """
    kind = _reading(reading)
    branch = _branch(driver)
    family = family_of(gpu_name)
    if kind == "power.draw":
        averaged = family in MODERN and branch != 530
        wanted = "average" if averaged else "instant"
    else:
        wanted = kind.rpartition(".")[2]
    row = _rows().get((family, wanted)) or _rows()[family, "instant"]
    gain_sd, offset_sd, correlation, boards = _spread(slot_powered=_is_slot_powered(gpu_name))
    known = family != "unknown"
    return Sensor(
        name=f"{gpu_name.replace('_', ' ')}, {kind}" + (f", driver {driver}" if driver else ""),
        update_period_s=row.update_period_s,
        window_s=row.window_s,
        kernel=row.kernel,
        seen=row.seen,
        gain_sd=gain_sd if known else math.hypot(gain_sd, UNKNOWN_GAIN_SD),
        offset_sd=offset_sd,
        gain_offset_correlation=correlation,
        full_power_w=_board_power_w(gpu_name),
        boards=boards,
        model_error=0.02 if known else 0.1,
        known=known,
    )


def _plain(gpu_name: str) -> str:
    name = re.sub(r"[_\-\s]+", " ", gpu_name.lower())
    name = re.sub(r"(rtx|gtx|gts|gt)(?=a?\d)", r"\1 ", name)
    name = re.sub(r"(titan|quadro|tesla|geforce|nvidia)(?=[a-z\d])", r"\1 ", name)
    return name.replace("nvidia ", "").replace("geforce ", "").replace("tesla ", "").strip()


def _reading(reading: str) -> str:
    text = reading.lower().replace("[w]", "").strip().replace("_", ".").removesuffix(".w")
    text = {
        "instant": "power.draw.instant",
        "average": "power.draw.average",
        "power.instant": "power.draw.instant",
        "power.average": "power.draw.average",
        "power": "power.draw",
    }.get(text, text)
    if text not in READINGS:
        raise unknown_name("power reading", reading, READINGS, "reading")
    return text


def _branch(driver: str | None) -> int:
    if driver is None or str(driver).strip().strip("[]").lower() in ABSENT:
        return 535
    match = re.match(r"\s*(\d+)", str(driver))
    if match is None:
        raise InputError(f"driver: expected a version such as '535.54.03', got '{driver}'")
    return int(match.group(1))


def _table(name: str) -> list[dict[str, str]]:
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


@cache
def _rows() -> dict[tuple[str, str], _Row]:
    return {
        (row["family"], row["reading"]): _Row(
            row["family"],
            row["reading"],
            float(row["update_period_ms"]) / 1e3,
            row["kernel"],
            float(row["window_ms"]) / 1e3,
            float(row["seen"]),
        )
        for row in _table("nvidia_sensors.csv")
    }


@cache
def _boards() -> dict[str, tuple[float, float, float]]:
    """Board power, gain and offset by plain name."""
    return {
        _plain(row["gpu"]): (
            float(row["board_power_w"]),
            float(row["gain"]),
            float(row["offset_w"]),
        )
        for row in _table("nvidia_gain.csv")
    }


def _board_power_w(gpu_name: str) -> float | None:
    name = _compact(gpu_name)
    found = next((board for key, board in _boards().items() if _compact(key) == name), None)
    return found[0] if found else None


def _compact(gpu_name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _plain(gpu_name).replace("quadro ", ""))


def _is_slot_powered(gpu_name: str) -> bool:
    power = _board_power_w(gpu_name)
    return power is not None and power <= SLOT_POWER_W


@cache
def _spread(slot_powered: bool) -> tuple[float, float, float, int]:
    """Gain spread, offset spread relative to board power, their correlation, number of boards.

    The gain's spread is that of all boards. For the offset of a board with power cables, only
    such boards are asked; a gain or offset is that of the board, whatever its architecture: four
    boards an architecture show no difference between architectures beyond that between boards.
    """
    boards = list(_boards().values())
    gain_sd = statistics.stdev(gain for _, gain, _ in boards)
    asked = [b for b in boards if slot_powered or b[0] > SLOT_POWER_W]
    gains = [gain for _, gain, _ in asked]
    offsets = [offset / power for power, _, offset in asked]
    return (
        gain_sd,
        statistics.stdev(offsets),
        statistics.correlation(gains, offsets),
        len(boards),
    )
