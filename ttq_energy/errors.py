"""The one exception root, each branch with the exit code that the command line gives it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """The valid name most like ``name``, or None when nothing is similar."""
    names = list(valid)
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[close[0]] if close else None


def unknown_name(kind: str, name: object, valid: Iterable[str], where: str = "") -> InputError:
    """An error for a name that is not among the valid ones, with the nearest valid name.

    Args:
        kind: what the name should be, such as "variant" or "target".
        name: what was given.
        valid: all valid names.
        where: file and key that held it, such as "study.yaml: variants"; may be empty.
    """
    names = sorted(valid)
    close = nearest(str(name), names)
    hint = f"did you mean '{close}'? " if close else ""
    prefix = f"{where}: " if where else ""
    return InputError(f"{prefix}unknown {kind} '{name}'; {hint}valid: {', '.join(names)}")
