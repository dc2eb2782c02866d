"""Numbers: digits by the interval's width, one prefix a table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_energy.reporting import formatting as fmt


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.62, 0.588, 0.652, "0.62 [0.59, 0.65]"),
        (0.8201, 0.7996, 0.8404, "0.820 [0.800, 0.840]"),
        (28582.7, 25147.1, 32901.5, "29\u202f000 [25\u202f000, 33\u202f000]"),
        (-0.7407, -3.4581, 1.9126, "−0.7 [−3.5, 1.9]"),
        (float("nan"), 0.0, 1.0, "–"),
        (None, None, None, "–"),
        (0.123456, None, None, "0.12"),
    ],
)
def test_an_interval_decides_the_digits(value, low, high, shown):
    assert fmt.interval(value, low, high) == shown


@given(
    st.floats(1e-9, 1e9),
    st.floats(1e-4, 1.0),
)
def test_rounding_stays_within_a_third_of_the_half_width(value, share):
    half = value * share
    places = fmt.decimals_for(value, value - half, value + half)
    assert abs(round(value, places) - value) <= max(half / 3, abs(value) * 1e-4)


@given(st.floats(1e-12, 1e12))
def test_a_prefix_leaves_one_to_three_digits_before_the_point(value):
    scale = fmt.scale_for([value], "J")
    assert 1 <= value * scale.factor * (1 + 1e-9) < 1000 * (1 + 1e-9)


def test_one_prefix_serves_the_whole_table():
    assert fmt.scale_for([0.059, 0.021, 0.0017], "J") == fmt.Scale(1000.0, "mJ")
    assert fmt.scale_for([math.nan, 0.0], "J") == fmt.Scale(1.0, "J")


def test_values_without_an_interval_get_two_digits():
    assert fmt.number(0.8201) == "0.82"
    assert fmt.number(0) == "0"
    assert fmt.quantity(34359738368, "B", 3) == "34.4 GB"


def test_lists_read_as_sentences():
    assert fmt.listed(["a"]) == "a"
    assert fmt.listed(["a", "", "b", "c"]) == "a, b and c"
