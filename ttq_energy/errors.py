"""The one exception root, each branch with the exit code that the command line gives it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SIMILAR = 0.5
"""Least likeness (difflib's ratio) of a name that is suggested."""
LONGEST_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


class TTQEnergyError(Exception):
    """Root of every error that this package raises on purpose; the message is one clear line."""

    exit_code = 1


class InputError(TTQEnergyError, ValueError):
    """What the user gave is wrong: names the file, key or argument and what was expected."""

    exit_code = 2


class SensorError(TTQEnergyError):
    """A sensor that was asked for by name is absent or unreadable."""

    exit_code = 3


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most like ``name``, or None when nothing is similar.

    Among equally similar names the one that shares the longer beginning is taken, first without
    regard to case.
    """
    wrong = name.lower()

    def likeness(candidate: str) -> tuple[float, int, int]:
        right = candidate.lower()
        ratio = difflib.SequenceMatcher(None, right, wrong).ratio()
        return ratio, _common_beginning(right, wrong), _common_beginning(candidate, name)

    best = max(valid, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= SIMILAR else None


def _common_beginning(left: str, right: str) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(left), len(right)))


def unknown_name(kind: str, name: object, valid: Iterable[str], where: str = "") -> InputError:
    """An error for a name that is not among the valid ones, with the nearest valid name.

    Args:
        kind: what the name should be, such as "variant" or "target".
        name: what was given.
        valid: all valid names.
        where: file and key that held it, such as "study.yaml: variants"; may be empty.
    """
    names = sorted(valid)
    prefix = f"{where}: " if where else ""
    listed = f"valid: {', '.join(names)}" if names else "there is none yet"
    if not isinstance(name, str):
        return InputError(f"{prefix}expected a {kind} as text, got {name!r}; {listed}")
    close = nearest(name, names)
    hint = f"did you mean '{close}'? " if close else ""
    return InputError(f"{prefix}unknown {kind} {quoted(name)}; {hint}{listed}")


def quoted(text: str) -> str:
    """Text for one line of a message: in quotes, cut where long, control characters escaped."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode()
    return f"'{text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + '...'}'"
