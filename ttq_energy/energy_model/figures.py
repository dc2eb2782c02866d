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
        evidence: "published" (read in the source), "derived" (computed from published figures),
            "recalled" (the source was not at hand: a wide range), "assumption" (no publication
            gives it), or "stated" where the file does not say.
    """

    value: float
    low: float
    high: float
    source: str = ""
    evidence: str = "stated"

    @property
    def assumption(self) -> bool:
        """Whether no publication gives it."""
        return self.evidence == "assumption"

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
        extra = f"; {data['source']}" if data.get("source") else ""
        as_published = node_nm in operations.ANCHOR_VOLTAGE and "times" not in data
        evidence = evidence_of(data, "published" if as_published else "derived")
        figure = Figure(at.value_pj, at.low_pj, at.high_pj, at.source + extra, evidence)
        return figure.scaled(float(data.get("times", 1.0)))
    value = float(data["value"])
    low, high = float(data.get("low", value)), float(data.get("high", value))
    if not low <= value <= high:
        raise InputError(
            f"expected low <= value <= high, got low {low:g}, value {value:g}, high {high:g}"
        )
    return Figure(value, low, high, str(data.get("source", "")), evidence_of(data))


def evidence_of(data: Mapping[str, Any], otherwise: str = "stated") -> str:
    """What a mapping of a target file says about how its figures are known."""
    if data.get("assumption"):
        return "assumption"
    return str(data.get("evidence", otherwise))
