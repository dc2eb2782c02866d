"""From a tidy DataFrame to a table for people: columns with intervals and one prefix each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ttq_energy.reporting import formatting as fmt
from ttq_energy.reporting.document import Column, TableView

if TYPE_CHECKING:
    import pandas as pd

MakeColumn = Callable[["pd.DataFrame"], Column]

_ONCE = ("run", "model", "device", "baseline")
_MODELLED = {"saves": "less (modelled)", "costs": "more (modelled)"}
_TIMED = {"saves": "faster", "costs": "slower"}


def table(
    name: str,
    caption: str,
    frame: pd.DataFrame,
    columns: Sequence[MakeColumn],
    note: str = "",
    data: pd.DataFrame | None = None,
) -> TableView:
    """A view of ``frame``.

    Runs, models, devices and baselines get a column only where there are several; columns that
    are empty throughout are left out. ``data`` is what is exported where ``frame`` is only a part.
    """
    first = [text(k, k) for k in _ONCE if k in frame and len(frame[k].unique()) > 1]
    made = [make(frame) for make in (*first, *columns)]
    shown = tuple(c for c in made if any(cell not in ("", fmt.DASH) for cell in c.cells))
    exported = (frame if data is None else data).reset_index(drop=True)
    return TableView(name, caption, exported, shown, note)


def text(column: str, header: str, wide: bool = False) -> MakeColumn:
    def make(frame: pd.DataFrame) -> Column:
        cells = ["" if x is None or x != x else str(x) for x in frame[column].astype(object)]
        return Column(header, cells, wide=wide)

    return make


def words(column: str, header: str) -> MakeColumn:
    """Names of the schema, such as ``gross_energy``, with spaces."""

    def make(frame: pd.DataFrame) -> Column:
        return Column(header, [str(x).replace("_", " ") for x in frame[column]])

    return make


def count(column: str, header: str, zero: str = "0") -> MakeColumn:
    """Whole numbers; ``zero`` is shown for none."""

    def make(frame: pd.DataFrame) -> Column:
        values = frame[column].astype(object)
        cells = [zero if x == 0 else fmt.integer(x) for x in values]
        return Column(header, cells, True, [_key(x) for x in values])

    return make


def value(column: str, header: str, unit: str = "", digits: int = 3) -> MakeColumn:
    """Values without intervals; a unit gets the one prefix that suits the table."""

    def make(frame: pd.DataFrame) -> Column:
        scale = fmt.scale_for(frame[column], unit) if unit else fmt.Scale(1.0, "")
        cells = [
            fmt.number(float(x) * scale.factor, digits) if fmt.is_number(x) else fmt.DASH
            for x in frame[column].astype(object)
        ]
        keys = [_key(x) for x in frame[column].astype(object)]
        return Column(_with_unit(header, scale.unit), cells, True, keys)

    return make


def interval(
    column: str, header: str, unit: str = "", low: str = "", high: str = "", factor: float = 1.0
) -> MakeColumn:
    """Values with their 95 % intervals; ``low`` and ``high`` default to the usual names."""
    low, high = low or _end(column, "low"), high or _end(column, "high")

    def make(frame: pd.DataFrame) -> Column:
        prefixed = unit and unit != "%"
        scale = fmt.scale_for(frame[column], unit) if prefixed else fmt.Scale(factor, unit)
        columns = (frame[c].astype(object) for c in (column, low, high))
        cells = [fmt.interval(v, a, b, scale.factor) for v, a, b in zip(*columns, strict=True)]
        keys = [_key(x) for x in frame[column].astype(object)]
        return Column(_with_unit(header, scale.unit), cells, True, keys)

    return make


def percent(column: str, header: str) -> MakeColumn:
    """Fractions as percent, with their intervals."""
    return interval(column, header, "%", factor=100.0)


def share(column: str, header: str) -> MakeColumn:
    """Fractions as percent, without intervals."""

    def make(frame: pd.DataFrame) -> Column:
        cells = [
            fmt.number(float(x) * 100, 3) if fmt.is_number(x) else fmt.DASH
            for x in frame[column].astype(object)
        ]
        return Column(f"{header} [%]", cells, True, [_key(x) for x in frame[column].astype(object)])

    return make


def points(column: str, header: str) -> MakeColumn:
    """Differences of fractions as percentage points, with their intervals."""

    def make(frame: pd.DataFrame) -> Column:
        column_ = interval(column, header, "%", factor=100.0)(frame)
        return replace(column_, header=f"{header} [points]")

    return make


def no_interval_note(frame: pd.DataFrame, *columns: str) -> str:
    """A note where ratios have no interval, which a table must not leave to be guessed."""
    if any(
        fmt.unbounded(low, high)
        for column in columns
        for low, high in zip(frame[f"{column}_low"], frame[f"{column}_high"], strict=True)
    ):
        return "One round gives no interval, and so no verdict."
    return ""


def verdict(header: str = "verdict") -> MakeColumn:
    """What a comparison says: neither a model nor a stopwatch shows that energy is saved."""

    def make(frame: pd.DataFrame) -> Column:
        kinds = frame["provenance"] if "provenance" in frame else ["modelled"] * len(frame)
        cells = [verdict_word(v, p) for v, p in zip(frame["verdict"], kinds, strict=True)]
        return Column(header, cells)

    return make


def verdict_word(word: object, provenance: object) -> str:
    """``saves``, ``costs`` or ``undecided`` of energy that was measured, and only of that."""
    said = "" if word is None or word != word else str(word)
    words = {"modelled": _MODELLED, "timed": _TIMED}.get(str(provenance), {})
    return words.get(said, said)


def _end(column: str, end: str) -> str:
    """``energy_j`` -> ``energy_low_j``; ``ratio`` -> ``ratio_low``."""
    stem, _, unit = column.rpartition("_")
    return f"{stem}_{end}_{unit}" if unit in ("j", "s", "g", "w") and stem else f"{column}_{end}"


def _with_unit(header: str, unit: str) -> str:
    return f"{header} [{unit}]" if unit else header


def _key(x: object) -> float | str:
    return float(x) if fmt.is_number(x) else ""  # type: ignore[arg-type]
