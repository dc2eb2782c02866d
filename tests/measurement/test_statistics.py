import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_energy.errors import InputError
from ttq_energy.measurement import compare

STUDIES = 200
"""A reduced run of benchmarks/coverage.py; docs/measurement.md has the one of 2,000."""


def _load(name):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


simulation = _load("coverage")
NOISES = list(simulation.SCENARIOS.items())
energies = st.lists(st.floats(1.0, 100.0), min_size=6, max_size=30)


def pairs(rounds, ratio, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    baseline = 10 * np.exp(noise * rng.standard_normal(rounds))
    return baseline, ratio * 10 * np.exp(noise * rng.standard_normal(rounds))


@pytest.mark.parametrize("noise", [n for _, n in NOISES], ids=[name for name, _ in NOISES])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(noise):
    rounds = (6, 20)
    share = np.mean([simulation.coverage(noise, n, STUDIES) for n in rounds])
    error = math.sqrt(0.95 * 0.05 / (STUDIES * len(rounds)))
    assert 0.94 - 1.5 * error <= share <= 0.98 + 1.5 * error


def test_without_a_difference_verdicts_are_rare():
    shares = [simulation.false_verdicts(simulation.REALISTIC, n, STUDIES) for n in (6, 20)]
    assert np.mean(shares) <= 0.06


def test_a_saving_of_3_percent_is_found_in_most_studies_of_20_rounds():
    assert simulation.found_savings(simulation.REALISTIC, 20, STUDIES) > 0.8


def test_stopping_when_narrow_enough_keeps_the_coverage():
    share, rounds = simulation.stopped_early(simulation.REALISTIC, 100)
    assert share >= 0.90
    assert 6 <= rounds < 30


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.8, "saves"), (1.25, "costs"), (1.0, "undecided")]
)
def test_the_verdict_is_that_of_the_interval(ratio, verdict):
    found = compare(*pairs(12, ratio))
    assert found.verdict == verdict
    assert found.low < found.ratio < found.high
    assert found.ratio == pytest.approx(ratio, rel=0.02)
    assert found.rounds == 12
    assert verdict in str(found)


@given(baseline=energies, data=st.data())
@settings(max_examples=30, deadline=None)
def test_units_do_not_matter_and_swapping_inverts(baseline, data):
    variant = data.draw(
        st.lists(st.floats(1.0, 100.0), min_size=len(baseline), max_size=len(baseline))
    )
    found = compare(baseline, variant)
    scaled = compare(np.array(baseline) * 1e-6, np.array(variant) * 1e-6)
    swapped = compare(variant, baseline)
    assert scaled.ratio == pytest.approx(found.ratio, rel=1e-6)
    assert scaled.high == pytest.approx(found.high, rel=1e-5)
    assert swapped.ratio == pytest.approx(1 / found.ratio, rel=1e-6)
    assert swapped.low == pytest.approx(1 / found.high, rel=1e-5)
    assert found.low <= found.ratio <= found.high


def test_drift_common_to_a_round_cancels():
    baseline, variant = pairs(10, 0.9)
    drift = np.linspace(1.0, 3.0, 10)
    assert compare(baseline * drift, variant * drift).high == pytest.approx(
        compare(baseline, variant).high, rel=1e-9
    )


def test_one_wild_block_changes_little():
    baseline, variant = pairs(12, 0.9)
    clean = compare(baseline, variant)
    variant[5] *= 10
    wild = compare(baseline, variant)
    assert wild.ratio == pytest.approx(clean.ratio, rel=0.01)
    assert wild.verdict == "saves"


def test_a_slow_wave_widens_the_interval():
    wave = 0.02 * np.sin(np.arange(24) / 3.0)
    shuffled = np.random.default_rng(0).permutation(wave)
    ones = np.ones(24)
    assert compare(ones, np.exp(wave)).width > 1.25 * compare(ones, np.exp(shuffled)).width


def test_exact_pairs_give_the_exact_ratio():
    found = compare([1.0, 2.0, 3.0], [0.5, 1.0, 1.5])
    assert (found.low, found.ratio, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_few_rounds_say_little():
    single = compare([2.0], [1.0])
    assert (single.ratio, single.low, single.high) == (0.5, 0.0, math.inf)
    assert single.verdict == "undecided"
    two = compare([10.0, 10.1], [9.0, 9.2])
    six = compare(*pairs(6, 0.9))
    assert two.width > six.width


def test_a_common_error_widens_the_interval_and_not_the_ratio():
    baseline, variant = pairs(12, 0.97)
    plain, wide = compare(baseline, variant), compare(baseline, variant, extra_log_sd=0.05)
    assert wide.ratio == plain.ratio
    assert plain.verdict == "saves"
    assert wide.verdict == "undecided"


@pytest.mark.parametrize(
    ("baseline", "variant", "message"),
    [
        ([1.0, 2.0], [1.0], "2 rounds and variant_j 1"),
        ([1.0, 0.0], [1.0, 1.0], r"baseline_j\[1\]"),
        ([1.0, 1.0], [1.0, -3.0], r"variant_j\[1\]"),
        ([1.0, math.nan], [1.0, 1.0], r"baseline_j\[1\]"),
        ([1.0, math.inf], [1.0, 1.0], r"baseline_j\[1\]"),
        ([[1.0], [2.0]], [1.0, 1.0], "shape"),
        (["a", "b"], [1.0, 1.0], "one number a round"),
        (["1", "2"], [1.0, 1.0], "baseline_j: expected one number a round"),
        ([1.0, 1.0], [True, True], "variant_j: expected one number a round"),
        ([1.0, 1.0], [2.0, True], "variant_j: expected one number a round"),
        ([1.0, 1.0], [2.0, np.True_], "variant_j: expected one number a round"),
        (np.array([True]), [1.0], "baseline_j: expected one number a round"),
        ([1.0], [None], r"variant_j\[0\]"),
        ([10**400], [1.0], "baseline_j: expected one number a round"),
        ([], [], "nothing to compare"),
        ([1e308] * 5, [1e-308] * 5, r"about 1e-616, beyond float64"),
        ([1e-308], [1e308], r"about 1e\+616, beyond float64"),
    ],
)
def test_bad_series_are_one_clear_line(baseline, variant, message):
    with pytest.raises(InputError, match=message):
        compare(baseline, variant)


def test_an_interval_beyond_float64_is_open():
    found = compare([1.0, 1.0], [1e-300, 1e300])
    assert found.ratio == pytest.approx(1.0)
    assert (found.low, found.high, found.verdict) == (0.0, math.inf, "undecided")


def test_ratios_of_any_size_that_float64_holds_are_exact():
    assert compare([1e-150] * 5, [1e150] * 5).ratio == pytest.approx(1e300, rel=1e-9)
    assert compare([1e150] * 5, [1e-150] * 5).high == pytest.approx(1e-300, rel=1e-9)
