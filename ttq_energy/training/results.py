"""What training gives: a record of each epoch and the accuracy of the weights that are reported."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch; the fields are the columns of training.csv.

    Attributes:
        epoch: 1 for the first; 0 for weights that were quantized without training.
        loss: mean training loss; nats a token for a language model, whose perplexity is exp(loss).
        accuracy: fraction right on the test set; of next tokens for a language model.
        accuracy_low, accuracy_high: 95 % Wilson interval.
        examples: test examples, or tokens.
        wall_s: of the epoch's training, testing not included.
        energy_j: of the same span, over all processes; None where it could not be measured.
        energy_low_j, energy_high_j: 95 % interval.
        provenance: of the energy; empty without a meter.
        zero_fraction: of the quantized weights; None where none is quantized.
        w_pos, w_neg: mean of Wp and Wn over the quantized layers.
    """

    epoch: int
    loss: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    examples: int
    wall_s: float
    energy_j: float | None = None
    energy_low_j: float | None = None
    energy_high_j: float | None = None
    provenance: str = ""
    zero_fraction: float | None = None
    w_pos: float | None = None
    w_neg: float | None = None

    def to_row(self) -> dict[str, Any]:
        """Plain data by column name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        records: every epoch in order.
        selected_epoch: whose weights the model and the checkpoint hold.
        accuracy, accuracy_low, accuracy_high, examples: of those weights, as in EpochRecord.
    """

    records: tuple[EpochRecord, ...]
    selected_epoch: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    examples: int


def result_of(records: list[EpochRecord], select: str) -> TrainResult:
    """Choose the reported epoch: the "last", or the first among the "best" by test accuracy."""
    chosen = max(records, key=lambda r: r.accuracy) if select == "best" else records[-1]
    return TrainResult(
        tuple(records),
        chosen.epoch,
        chosen.accuracy,
        chosen.accuracy_low,
        chosen.accuracy_high,
        chosen.examples,
    )


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a fraction: E. B. Wilson, JASA 22 (1927) 209, score interval.

    Args:
        correct: successes.
        total: trials; without any the interval is (0, 1).
    """
    if total == 0:
        return 0.0, 1.0
    fraction, z2 = correct / total, Z_95**2
    middle = (fraction + z2 / (2 * total)) / (1 + z2 / total)
    half = (
        Z_95 / (1 + z2 / total) * math.sqrt(fraction * (1 - fraction) / total + z2 / (4 * total**2))
    )
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == total else min(1.0, middle + half)
    return low, high
