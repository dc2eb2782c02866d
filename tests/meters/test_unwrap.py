"""Raw counters made cumulative, against sums of the increments that made them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_energy.meters.unwrap import PEAK_POWER_W, SLACK_J, Unwrapper

JOULE = 1e-6


@given(
    modulus=st.integers(2_000_000_000, 2**40),
    start=st.integers(0, 2**40),
    steps=st.lists(st.tuples(st.floats(0.001, 1.5), st.floats(0.0, 1.0)), max_size=60),
)
def test_any_number_of_wraps_adds_up(modulus, start, steps):
    counter, raw, t_s, total = Unwrapper(JOULE, modulus), start % modulus, 5.0, 0
    counter.start(raw, t_s)
    for gap_s, load in steps:
        step = int(load * min(PEAK_POWER_W * gap_s / JOULE, modulus - 1))
        total, t_s = total + step, t_s + gap_s
        raw = (raw + step) % modulus
        assert counter.update(raw, t_s) == pytest.approx(total * JOULE, abs=1e-9, rel=1e-12)


@given(st.lists(st.integers(0, 10**8), min_size=1))
def test_it_never_decreases(values):
    counter = Unwrapper(JOULE, 10**8 + 1)
    counter.start(0, 0.0)
    last = 0.0
    for second, raw in enumerate(values, start=1):
        now = counter.update(raw, float(second))
        assert now >= last
        last = now


@given(st.floats(1.01, 1e4), st.floats(0.0, 5.0))
def test_more_than_any_machine_draws_begins_an_epoch_and_is_no_energy(excess, gap_s):
    counter = Unwrapper(JOULE, 2**62)
    counter.start(0, 0.0)
    raw = int(excess * (PEAK_POWER_W * gap_s + SLACK_J) / JOULE)
    jump = counter.reading("d", raw, gap_s)
    after = counter.reading("d", raw + 7, gap_s + 1.0)
    assert (jump.epoch, jump.energy_j) == (1, None)
    assert "jumped" in jump.error
    assert (after.epoch, after.energy_j) == (1, pytest.approx(7 * JOULE))
