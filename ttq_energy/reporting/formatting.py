"""Numbers as people should read them: digits by the interval's width, SI prefixes by the table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_PREFIXES = {
    -15: "f",
    -12: "p",
    -9: "n",
    -6: "µ",
    -3: "m",
    0: "",
    3: "k",
    6: "M",
    9: "G",
    12: "T",
}
_MOST_DIGITS = 5
DASH = "–"
MINUS = "−"
NO_INTERVAL = "no interval"


@dataclass(frozen=True)
class Scale:
    """A unit with its SI prefix: a value in the base unit times ``factor`` is in ``unit``."""

    factor: float
    unit: str


def is_number(value: object) -> bool:
    """True for a finite number; False for None, NaN, infinity and pandas' NA."""
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def scale_for(values: Iterable[float], unit: str) -> Scale:
    """One prefix for a whole table: the one that suits its median."""
    sizes = sorted(abs(float(v)) for v in values if is_number(v) and v != 0)
    if not sizes:
        return Scale(1.0, unit)
    exponent = 3 * math.floor(math.log10(sizes[len(sizes) // 2]) / 3)
    exponent = min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
    return Scale(10.0**-exponent, f"{_PREFIXES[exponent]}{unit}")


def decimals_for(value: float, low: float, high: float) -> int:
    """Decimals that the width of an interval earns: one digit of its half-width, two below 3.

    May be negative (rounding to tens or hundreds). Never more than five digits of the value.
    """
    half = (high - low) / 2
    most = _MOST_DIGITS - 1 - _exponent(value) if value else 3
    if not half > 0:
        return most
    exponent = _exponent(half)
    leading = half / 10.0**exponent
    return min(most, -exponent + (1 if leading < 2.95 else 0))


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def fixed(value: float, decimals: int) -> str:
    """Rounded to so many decimals, with thin thousands and a real minus sign."""
    rounded = round(value, decimals)
    text = f"{abs(rounded):,.{max(0, decimals)}f}".replace(",", "\u202f")
    return MINUS + text if rounded < 0 else text


def number(value: object, digits: int = 2) -> str:
    """A value that has no interval: so many significant digits; a dash where there is none."""
    if not is_number(value):
        return DASH
    x = float(value)  # type: ignore[arg-type]
    return fixed(x, digits - 1 - _exponent(x)) if x else "0"


def integer(value: object) -> str:
    """A count, with thin thousands; a dash where there is none."""
    return fixed(float(value), 0) if is_number(value) else DASH  # type: ignore[arg-type]


def interval(value: object, low: object, high: object, factor: float = 1.0) -> str:
    """``0.62 [0.59, 0.65]``, or the bare value to two digits where there is no interval.

    An interval without a bound, which is what one round leaves, is said to be none: the value's
    digits must not look as if something was known of them.
    """
    if not is_number(value):
        return DASH
    x = float(value) * factor  # type: ignore[arg-type]
    if not (is_number(low) and is_number(high)):
        return f"{number(x)} ({NO_INTERVAL})" if unbounded(low, high) else number(x)
    a, b = float(low) * factor, float(high) * factor  # type: ignore[arg-type]
    places = decimals_for(x, a, b)
    return f"{fixed(x, places)} [{fixed(a, places)}, {fixed(b, places)}]"


def unbounded(low: object, high: object) -> bool:
    """Whether an end of an interval lies at infinity; False where an end is not known."""
    try:
        return any(math.isinf(float(end)) for end in (low, high))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def ends(low: float, high: float) -> str:
    """``0.59 to 0.65``: a span that has no middle of its own."""
    places = decimals_for(high, low, high)
    return f"{fixed(low, places)} to {fixed(high, places)}"


def percent(value: object, low: object = None, high: object = None) -> str:
    """A fraction as percent, with its interval."""
    if not (is_number(low) and is_number(high)):
        return f"{number(float(value) * 100, 3)} %" if is_number(value) else DASH  # type: ignore[arg-type]
    return f"{interval(value, low, high, 100.0)} %"


def quantity(value: object, unit: str, digits: int = 2) -> str:
    """One value with a prefix of its own: ``34 GB``."""
    if not is_number(value):
        return DASH
    scale = scale_for([float(value)], unit)  # type: ignore[arg-type]
    return f"{number(float(value) * scale.factor, digits)} {scale.unit}"  # type: ignore[arg-type]


def listed(items: Iterable[str], last: str = "and") -> str:
    """``a, b and c``."""
    names = [item for item in items if item]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"
