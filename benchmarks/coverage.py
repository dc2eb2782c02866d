"""How often the 95 % interval of ``compare`` holds the true ratio, by simulation.

    python benchmarks/coverage.py                 # 2,000 studies a line: the table of the docs
    python benchmarks/coverage.py --studies 200

A simulated study is a series of blocks in time: each round runs every variant once in random
order. The noise of a block is a drift over the study, an AR(1) process from block to block, white
noise, and now and then an outlier, all relative. What is estimated is the ratio of the first
variant to the baseline.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ttq_energy.measurement import compare

FloatArray = NDArray[np.float64]
ROUNDS = (6, 8, 10, 15, 20, 30)
FEWER_ROUNDS = (6, 10, 20, 30)


@dataclass(frozen=True)
class Noise:
    """What disturbs the blocks, as shares of the energy.

    Attributes:
        drift: change over the whole study, of either sign.
        correlated: standard deviation of the AR(1) process.
        correlation: of it, from one block to the next.
        white: standard deviation of white noise.
        outliers: share of the blocks that are hit.
        outlier_size: mean size of a hit (exponential, always upward: something else ran).
        variants: in each round, the baseline among them.
        own: standard deviation of an AR(1) noise that each variant has for itself, from round to
            round, which neither pairing nor random order removes.
        own_correlation: of it.
        heavy_tails: degrees of freedom of a t distribution for the white noise; 0 for a normal one.
    """

    drift: float = 0.0
    correlated: float = 0.0
    correlation: float = 0.0
    white: float = 0.01
    outliers: float = 0.0
    outlier_size: float = 0.2
    variants: int = 2
    own: float = 0.0
    own_correlation: float = 0.0
    heavy_tails: float = 0.0


ALL = Noise(drift=0.05, correlated=0.015, correlation=0.7, outliers=0.05)
OWN = Noise(own=0.015, white=0.0)
SCENARIOS: dict[str, Noise] = {
    "white noise": Noise(),
    "heavy tails (t, 3 degrees)": Noise(heavy_tails=3.0),
    "drift of 5 %": Noise(drift=0.05),
    "drift of 20 %": Noise(drift=0.2),
    "AR(0.5) from block to block": Noise(correlated=0.02, correlation=0.5),
    "AR(0.9) from block to block": Noise(correlated=0.02, correlation=0.9),
    "outliers in 5 % of blocks": Noise(outliers=0.05),
    "outliers in 10 % of blocks": Noise(outliers=0.10),
    "all together": ALL,
    "all together, 5 variants": replace(ALL, variants=5),
    "each variant its own AR(0.3)": replace(OWN, own_correlation=0.3),
    "each variant its own AR(0.5)": replace(OWN, own_correlation=0.5),
    "each variant its own AR(0.7)": replace(OWN, own_correlation=0.7),
    "own AR(0.5) and white noise": replace(OWN, own_correlation=0.5, white=0.01),
    "own AR(0.5), drift, outliers": replace(
        OWN, own_correlation=0.5, white=0.01, drift=0.05, outliers=0.05
    ),
}
"""Noise from block to block is what the protocol meets, in random order. Where each variant has a
slow noise of its own, the assumption behind interleaving fails."""
REALISTIC = ALL


def simulate(
    noise: Noise, ratio: float, rounds: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """One study: energies of the baseline's and of the variant's blocks, one a round."""
    blocks = rounds * noise.variants
    log = noise.white * _white(blocks, noise.heavy_tails, rng)
    log += noise.drift * rng.choice([-1.0, 1.0]) * np.linspace(0.0, 1.0, blocks)
    log += _ar1(blocks, noise.correlated, noise.correlation, rng)
    hit = rng.random(blocks) < noise.outliers
    log += hit * rng.exponential(noise.outlier_size, blocks)
    by_round = log.reshape(rounds, noise.variants)
    order = np.argsort(rng.random(by_round.shape), axis=1)
    shuffled = np.take_along_axis(by_round, order, axis=1)
    baseline, variant = shuffled[:, 0], shuffled[:, 1]
    if noise.own:
        baseline = baseline + _ar1(rounds, noise.own, noise.own_correlation, rng)
        variant = variant + _ar1(rounds, noise.own, noise.own_correlation, rng)
    return 10.0 * np.exp(baseline), 10.0 * ratio * np.exp(variant)


def _white(n: int, heavy_tails: float, rng: np.random.Generator) -> FloatArray:
    """Values of mean 0 and standard deviation 1."""
    if not heavy_tails:
        return rng.standard_normal(n)
    return rng.standard_t(heavy_tails, n) / np.sqrt(heavy_tails / (heavy_tails - 2.0))


def _ar1(n: int, sd: float, correlation: float, rng: np.random.Generator) -> FloatArray:
    values = np.empty(n)
    values[0] = sd * rng.standard_normal()
    fresh = sd * np.sqrt(1.0 - correlation**2) * rng.standard_normal(n)
    for index in range(1, n):
        values[index] = correlation * values[index - 1] + fresh[index]
    return values


def rate(
    noise: Noise,
    ratio: float,
    rounds: int,
    studies: int,
    hit: Callable[[float, float, str], bool],
    seed: int = 0,
) -> float:
    """Share of simulated studies whose (low, high, verdict) satisfies ``hit``."""
    rng = np.random.default_rng([seed, rounds])
    count = 0
    for _ in range(studies):
        found = compare(*simulate(noise, ratio, rounds, rng))
        count += hit(found.low, found.high, found.verdict)
    return count / studies


def coverage(noise: Noise, rounds: int, studies: int, ratio: float = 0.9) -> float:
    """Share of studies whose interval holds the true ratio."""
    return rate(noise, ratio, rounds, studies, lambda low, high, _: low <= ratio <= high)


def false_verdicts(noise: Noise, rounds: int, studies: int) -> float:
    """Share of studies without any difference that say ``saves`` or ``costs``."""
    return rate(noise, 1.0, rounds, studies, lambda _, __, verdict: verdict != "undecided", 1)


def found_savings(noise: Noise, rounds: int, studies: int, saving: float = 0.03) -> float:
    """Share of studies with a true saving that say ``saves``."""
    return rate(noise, 1.0 - saving, rounds, studies, lambda _, __, v: v == "saves", 2)


def stopped_early(noise: Noise, studies: int, target_width: float = 0.04) -> tuple[float, float]:
    """Coverage and mean rounds where rounds end once the interval is narrow enough (6 to 30)."""
    rng = np.random.default_rng(3)
    covered, used = 0, 0
    for _ in range(studies):
        baseline, variant = simulate(noise, 0.9, 30, rng)
        for rounds in range(6, 31):
            found = compare(baseline[:rounds], variant[:rounds])
            if found.width <= target_width:
                break
        covered += found.low <= 0.9 <= found.high
        used += rounds
    return covered / studies, used / studies


def main() -> None:
    """Print the coverage table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a figure")
    studies = parser.parse_args().studies
    print(f"{studies} simulated studies a figure; 95 % intervals\n")
    print(
        "coverage, %                    rounds:" + "".join(f"{n:7d}" for n in ROUNDS) + "    mean"
    )
    for name, noise in SCENARIOS.items():
        row = [100 * coverage(noise, n, studies) for n in ROUNDS]
        print(
            f"{name:38s}" + "".join(f"{x:7.1f}" for x in row) + f"{np.mean(row):8.1f}", flush=True
        )
    print("\nno difference: verdict 'saves' or 'costs', %")
    print(" " * 38 + "".join(f"{n:7d}" for n in FEWER_ROUNDS) + "    mean")
    for name, noise in SCENARIOS.items():
        row = [100 * false_verdicts(noise, n, studies) for n in FEWER_ROUNDS]
        print(
            f"{name:38s}" + "".join(f"{x:7.1f}" for x in row) + f"{np.mean(row):8.1f}", flush=True
        )
    row = [100 * found_savings(REALISTIC, n, studies) for n in ROUNDS]
    print("\na true saving of 3 %, all together: verdict 'saves', %")
    print(f"{'':38s}" + "".join(f"{x:7.1f}" for x in row))
    share, used = stopped_early(REALISTIC, studies)
    print(
        f"\nstopping at a width of 4 % (6 to 30 rounds): coverage {100 * share:.1f} %, "
        f"{used:.1f} rounds on average"
    )


if __name__ == "__main__":
    main()
