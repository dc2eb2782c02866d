"""What a saving means in use: inferences until training is paid back, joules per right answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ttq_energy.errors import InputError

NORMAL_95 = 1.959964

Uncertain = float | Sequence[float]
"""A number, or (value, low, high) with its 95 % interval."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; infinite where it is never reached."""

    value: float
    low: float
    high: float


def break_even_inferences(
    extra_training_j: Uncertain, saving_per_inference_j: Uncertain
) -> Interval:
    """After how many inferences the extra training energy is paid back.

    The quotient's interval is Fieller's (1954): it is exact for two normal errors, and it runs to
    infinity where the saving is not certainly above zero, instead of naming a number that the
    data do not support.

    Args:
        extra_training_j: what training the variant took beyond the baseline; J, or (value, low,
            high). Zero or less is paid back at once.
        saving_per_inference_j: baseline less variant, J, or (value, low, high).

    Returns:
        Inferences. ``value`` is infinite where the variant does not save.

    Raises:
        InputError: a number is missing or not finite, or an interval does not hold its value.
    """
    training, training_sd = _uncertain("extra_training_j", extra_training_j)
    saving, saving_sd = _uncertain("saving_per_inference_j", saving_per_inference_j)
    value = 0.0 if training <= 0 else training / saving if saving > 0 else math.inf
    # Fieller: the n with (training - n saving)^2 <= z^2 (training_sd^2 + n^2 saving_sd^2).
    a = saving**2 - (NORMAL_95 * saving_sd) ** 2
    b = -2.0 * training * saving
    c = training**2 - (NORMAL_95 * training_sd) ** 2
    if a > 0:
        root = math.sqrt(max(b * b - 4.0 * a * c, 0.0))
        low, high = (-b - root) / (2.0 * a), (-b + root) / (2.0 * a)
        if saving <= 0:
            return Interval(value, value, value)
        return Interval(value, min(max(low, 0.0), value), max(high, value))
    low = _fieller_low(a, b, c)
    return Interval(value, min(low, value), math.inf)


def _fieller_low(a: float, b: float, c: float) -> float:
    """Smallest inference count that is still possible where the largest is infinite."""
    if a == 0:
        return max(-c / b, 0.0) if b < 0 else 0.0
    root = b * b - 4.0 * a * c
    if root <= 0 or c <= 0:
        return 0.0
    ends = [(-b - math.sqrt(root)) / (2.0 * a), (-b + math.sqrt(root)) / (2.0 * a)]
    return min((end for end in ends if end >= 0), default=0.0)


def energy_per_correct(
    energy_per_inference_j: Uncertain, accuracy: float, examples: int | None = None
) -> Interval:
    """Energy per right answer: energy per inference over accuracy.

    A variant that saves energy by being wrong more often looks worse here than per inference.

    Args:
        energy_per_inference_j: J, or (value, low, high).
        accuracy: share of right answers, above 0 and at most 1.
        examples: that the accuracy was tested on, for its binomial error; None takes it as exact.

    Returns:
        J per right answer; relative errors of energy and accuracy are joined in quadrature.

    Raises:
        InputError: an accuracy outside (0, 1], or an energy that is not above zero.
    """
    energy, energy_sd = _uncertain("energy_per_inference_j", energy_per_inference_j)
    if not 0 < accuracy <= 1:
        raise InputError(f"accuracy: must be above 0 and at most 1, got {accuracy}")
    if energy <= 0:
        raise InputError(f"energy_per_inference_j: must be above 0, got {energy}")
    if examples is not None and examples < 1:
        raise InputError(f"examples: must be at least 1, got {examples}")
    low_accuracy, high_accuracy = accuracy, accuracy
    if examples is not None:
        low_accuracy, high_accuracy = wilson(round(accuracy * examples), examples)
    value = energy / accuracy
    energy_half = NORMAL_95 * energy_sd / energy
    above = math.hypot(energy_half, accuracy / max(low_accuracy, 1e-12) - 1.0)
    below = math.hypot(energy_half, 1.0 - accuracy / high_accuracy)
    return Interval(value, max(value * (1.0 - below), 0.0), value * (1.0 + above))


def wilson(right: int, examples: int) -> tuple[float, float]:
    """95 % interval of a share, Wilson (1927)."""
    z2 = NORMAL_95**2
    share = right / examples
    middle = (share + z2 / (2.0 * examples)) / (1.0 + z2 / examples)
    half = NORMAL_95 * math.sqrt(share * (1.0 - share) / examples + z2 / (4.0 * examples**2))
    half /= 1.0 + z2 / examples
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _uncertain(name: str, value: Uncertain) -> tuple[float, float]:
    """Value and standard deviation."""
    numbers = [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
    if len(numbers) not in (1, 3) or not all(math.isfinite(v) for v in numbers):
        raise InputError(f"{name}: expected a finite number or (value, low, high), got {value}")
    if len(numbers) == 1:
        return numbers[0], 0.0
    middle, low, high = numbers
    if not low <= middle <= high:
        raise InputError(f"{name}: expected low <= value <= high, got {value}")
    return middle, (high - low) / (2.0 * NORMAL_95)
