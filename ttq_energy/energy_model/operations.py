"""Published energies of single operations, and how they are carried to other technology nodes.

Two anchors: 45 nm at 0.9 V (M. Horowitz, "Computing's energy problem", ISSCC 2014) and 7 nm at
0.8 V (N. Jouppi et al., "Ten lessons from three generations shaped Google's TPUv4i", ISCA 2021,
Table 2). Between them each operation has its own straight line in log energy over log node;
outside them the line goes on. There is no single factor for a whole node: from 45 to 7 nm an
int8 add gains 4.3 times, an access of a small SRAM only 1.3 times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ttq_energy.errors import InputError, unknown_name

ANCHOR_45NM = 45.0
ANCHOR_7NM = 7.0
ANCHOR_VOLTAGE = {ANCHOR_45NM: 0.9, ANCHOR_7NM: 0.8}
SOURCE = "Horowitz, ISSCC 2014 (45 nm); Jouppi et al., ISCA 2021, Table 2 (7 nm)"

ENERGY_PJ: dict[str, tuple[float | None, float | None]] = {
    "int8_add": (0.03, 0.007),
    "int32_add": (0.1, 0.03),
    "bf16_add": (None, 0.11),
    "fp16_add": (0.4, 0.16),
    "fp32_add": (0.9, 0.38),
    "int8_mul": (0.2, 0.07),
    "int32_mul": (3.1, 1.48),
    "bf16_mul": (None, 0.21),
    "fp16_mul": (1.1, 0.34),
    "fp32_mul": (3.7, 1.31),
    "sram_8KiB": (10.0, 7.5),
    "sram_32KiB": (20.0, 8.5),
    "sram_1MiB": (100.0, 14.0),
    "dram_ddr": (1300.0, 1300.0),
}
"""pJ per operation, or per 64-bit access of a memory; (45 nm, 7 nm), None where not published."""

OWN_RANGE = 1.15
"""At an anchor: the published rounding and the spread between implementations, a factor each way
(an assumption; the tables give no range)."""

RANGE_PER_OCTAVE = 1.15
"""Further factor each way per doubling or halving of the node away from the nearest anchor."""


@dataclass(frozen=True)
class ScaledEnergy:
    """Energy of an operation at some node: pJ, with a range of 95 %."""

    value_pj: float
    low_pj: float
    high_pj: float
    source: str


def energy(operation: str, node_nm: float, voltage_v: float | None = None) -> ScaledEnergy:
    """Energy of one operation or one 64-bit access at a technology node.

    Args:
        operation: a key of :data:`ENERGY_PJ`, or ``int16_mul`` and ``int16_add``, which lie between
            the published 8 and 32 bit figures on a power law of the width.
        node_nm: the technology node.
        voltage_v: supply voltage; where given, the energy is scaled by its square relative to the
            voltage of the line between the anchors. DRAM is not scaled.

    Raises:
        InputError: an unknown operation, or one not published near that node.
    """
    if operation in ("int16_mul", "int16_add"):
        return _between_widths(operation, node_nm, voltage_v)
    if operation not in ENERGY_PJ:
        raise unknown_name("operation", operation, [*ENERGY_PJ, "int16_mul", "int16_add"])
    at_45, at_7 = ENERGY_PJ[operation]
    if at_45 is None or at_7 is None:
        known = ANCHOR_7NM if at_45 is None else ANCHOR_45NM
        if node_nm != known:
            raise InputError(f"operation '{operation}' is published at {known:g} nm alone")
        value = float(at_7 if at_45 is None else at_45)  # type: ignore[arg-type]
    else:
        slope = math.log(at_45 / at_7) / math.log(ANCHOR_45NM / ANCHOR_7NM)
        value = at_45 * (node_nm / ANCHOR_45NM) ** slope
    octaves = min(abs(math.log2(node_nm / a)) for a in (ANCHOR_45NM, ANCHOR_7NM))
    spread = OWN_RANGE * RANGE_PER_OCTAVE**octaves
    if voltage_v is not None and not operation.startswith("dram"):
        value *= (voltage_v / _line_voltage(node_nm)) ** 2
    how = "" if octaves == 0 else f", carried to {node_nm:g} nm on this operation's own line"
    return ScaledEnergy(value, value / spread, value * spread, f"{operation}: {SOURCE}{how}")


def _line_voltage(node_nm: float) -> float:
    """Nominal supply: linear in log node between the anchors, and on beyond them."""
    share = math.log(node_nm / ANCHOR_7NM) / math.log(ANCHOR_45NM / ANCHOR_7NM)
    low, high = ANCHOR_VOLTAGE[ANCHOR_7NM], ANCHOR_VOLTAGE[ANCHOR_45NM]
    return low + (high - low) * share


def _between_widths(operation: str, node_nm: float, voltage_v: float | None) -> ScaledEnergy:
    kind = operation.removeprefix("int16_")
    narrow = energy(f"int8_{kind}", node_nm, voltage_v)
    wide = energy(f"int32_{kind}", node_nm, voltage_v)
    value = math.sqrt(narrow.value_pj * wide.value_pj)
    spread = narrow.high_pj / narrow.value_pj * 1.1
    return ScaledEnergy(
        value,
        value / spread,
        value * spread,
        f"{operation}: geometric mean of 8 and 32 bit; {narrow.source}",
    )
