"""A figure of a target: value, range and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ttq_energy.energy_model import operations
from ttq_energy.errors import InputError

WHAT_IF = "set by the user"


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % range and where it comes from.

    Attributes:
        value, low, high: in the unit that the key's name bears.
        source: publication and table, or why it is believed.
        assumption: True where no publication gives it.
    """

    value: float
    low: float
    high: float
    source: str = ""
    assumption: bool = False

    def scaled(self, factor: float) -> Figure:
        """The same figure in another unit, or for another number of bits."""
        return replace(
            self, value=self.value * factor, low=self.low * factor, high=self.high * factor
        )


ZERO = Figure(0.0, 0.0, 0.0, "none")


def read_figure(data: Any, node_nm: float, voltage_v: float | None) -> Figure:
    """A figure from a target file: a bare number, a mapping, or ``{operation: fp32_mul}``.

    ``times`` multiplies an operation's energy (a 16-bit access is a quarter of a 64-bit one).

    Raises:
        InputError: low <= value <= high does not hold, or an unknown operation.
    """
    if not isinstance(data, Mapping):
        return Figure(float(data), float(data), float(data), WHAT_IF)
    if "operation" in data:
        at = operations.energy(str(data["operation"]), node_nm, voltage_v)
        figure = Figure(at.value_pj, at.low_pj, at.high_pj, at.source)
        extra = f"; {data['source']}" if data.get("source") else ""
        figure = replace(
            figure,
            source=figure.source + extra,
            assumption=bool(data.get("assumption", False)),
        )
        return figure.scaled(float(data.get("times", 1.0)))
    value = float(data["value"])
    low, high = float(data.get("low", value)), float(data.get("high", value))
    if not low <= value <= high:
        raise InputError(
            f"expected low <= value <= high, got low {low:g}, value {value:g}, high {high:g}"
        )
    source = str(data.get("source", ""))
    return Figure(value, low, high, source, bool(data.get("assumption", False)))
