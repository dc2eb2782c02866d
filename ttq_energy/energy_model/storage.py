"""How many bits ternary (or sparse) weights take in each storage scheme, overhead included."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ttq_energy.errors import InputError, unknown_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMES = {
    "2bit": "two bits a weight",
    "trits5": "five ternary digits in a byte (3^5 = 243 of 256)",
    "bitmap": "one bit a weight for zero or not, and a sign for each nonzero",
    "run-length": "for each nonzero the zeros before it (index_bits) and its value",
    "csr": "for each nonzero its column and value, for each row a pointer",
    "entropy": "Shannon's bound for independent weights: no code needs less on average",
}
TERNARY_ONLY = ("2bit", "trits5")
POINTER_BITS = 32


@dataclass(frozen=True)
class StoredWeights:
    """Size of one layer's weights in one scheme.

    Attributes:
        scheme: see :data:`SCHEMES`.
        bits: in all, scales not included.
        bits_per_weight: ``bits`` over all weights, zeros included.
        overhead: ``bits`` over the entropy bound, less 1; infinite where that is zero.
    """

    scheme: str
    bits: float
    bits_per_weight: float
    overhead: float


def weight_storage(
    codes: Any, scheme: str, *, index_bits: int = 4, value_bits: int = 1
) -> StoredWeights:
    """Measure real ternary codes in a scheme, by encoding them.

    Args:
        codes: (out, ...) in {-1, 0, 1}: a tensor or array.
        scheme: a key of :data:`SCHEMES`.
        index_bits: of run lengths; a longer run costs an extra entry of value zero.
        value_bits: of each nonzero; 1 is the sign of a ternary weight.

    Raises:
        InputError: an unknown scheme, or values that are not ternary codes.
    """
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, SCHEMES)
    array: NDArray[Any] = np.asarray(codes)
    if array.size == 0 or not np.isin(array, (-1, 0, 1)).all():
        raise InputError("codes: expected values -1, 0 and 1, and at least one")
    rows = array.reshape(array.shape[0], -1)
    nonzeros = int(np.count_nonzero(rows))
    entropy = _entropy_bits(rows)
    bits = {
        "2bit": lambda: 2.0 * rows.size,
        "trits5": lambda: 8.0 * math.ceil(rows.size / 5),
        "bitmap": lambda: float(rows.size + value_bits * nonzeros),
        "run-length": lambda: float((index_bits + value_bits) * _entries(rows, index_bits)),
        "csr": lambda: float(
            nonzeros * (_column_bits(rows.shape[1]) + value_bits)
            + POINTER_BITS * (rows.shape[0] + 1)
        ),
        "entropy": lambda: entropy,
    }[scheme]()
    return StoredWeights(
        scheme, bits, bits / rows.size, bits / entropy - 1 if entropy else float("inf")
    )


def _entropy_bits(rows: NDArray[Any]) -> float:
    _, counts = np.unique(rows, return_counts=True)
    shares = counts / rows.size
    return float(-(counts * np.log2(shares)).sum())


def _entries(rows: NDArray[Any], index_bits: int) -> int:
    """Stored entries: nonzeros, and one for each full run of zeros before a nonzero of the row."""
    longest = 2**index_bits
    total = 0
    for row in rows:
        places = np.flatnonzero(row)
        gaps = np.diff(places, prepend=-1) - 1
        total += len(places) + int((gaps // longest).sum())
    return total


def _column_bits(columns: int) -> int:
    return max(1, math.ceil(math.log2(max(2, columns))))


def expected_bits(
    scheme: str,
    zero_fraction: Any,
    *,
    columns: int = 1 << 16,
    index_bits: int = 4,
    value_bits: float = 1.0,
    run: int = 1 << 16,
) -> Any:
    """Bits a weight in a scheme, expected where zeros fall independently; vectorised.

    Args:
        zero_fraction: 0 to 1, any shape.
        columns: weights of one row (CSR).
        run: weights after which a run of zeros starts anew (run length).
    """
    zeros = np.asarray(zero_fraction, dtype=float)
    nonzeros = 1.0 - zeros
    if scheme == "2bit":
        return np.full_like(zeros, 2.0)
    if scheme == "trits5":
        return np.full_like(zeros, 1.6)
    if scheme == "bitmap":
        return 1.0 + value_bits * nonzeros
    if scheme == "run-length":
        return (index_bits + value_bits) * run_length_entries(zeros, index_bits, run)
    if scheme == "csr":
        return nonzeros * (_column_bits(columns) + value_bits) + POINTER_BITS / columns
    if scheme == "entropy":
        with np.errstate(divide="ignore", invalid="ignore"):
            signs = np.where(nonzeros > 0, -nonzeros * np.log2(nonzeros / 2), 0.0)
            return signs + np.where(zeros > 0, -zeros * np.log2(zeros), 0.0)
    raise unknown_name("scheme", scheme, SCHEMES)


def run_length_entries(zero_fraction: Any, index_bits: int, run: int) -> Any:
    """Entries a weight: nonzeros, and the expected padding entries of runs too long for the index.

    A nonzero at place i of a run-length coded stretch of ``run`` weights needs k padding entries
    where at least k 2^index_bits zeros stand before it in that stretch, with probability
    z^(k 2^index_bits) if the stretch is that long.
    """
    zeros = np.asarray(zero_fraction, dtype=float)
    step = 2**index_bits
    nonzeros = 1.0 - zeros
    padding = np.zeros_like(zeros)
    reach = step
    while reach < run:
        term = zeros**reach * (run - reach) / run
        padding = padding + term
        if not (term > 1e-9).any():
            break
        reach += step
    return nonzeros * (1.0 + padding)
