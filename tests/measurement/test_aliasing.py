import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_energy.measurement import nvml_sensor
from ttq_energy.measurement.aliasing import in_step, unseen_share

A100 = nvml_sensor("NVIDIA A100-PCIE-40GB")
"""Looks for 25 of every 103 ms."""


@pytest.mark.parametrize("whole", [1, 2])
def test_a_call_as_long_as_the_sensors_period_is_seen_at_one_phase(whole):
    call_s = A100.update_period_s / whole
    looks = A100.seen * A100.update_period_s / call_s
    assert unseen_share(call_s, 5.0, A100) == pytest.approx(1.0 - looks, abs=1e-6)
    assert "in step" in in_step(call_s, 5.0, A100)


@given(st.floats(0.001, 0.02))
def test_calls_shorter_than_a_look_are_always_seen(call_s):
    assert unseen_share(call_s, 3.0, A100) == 0.0


@given(st.floats(0.03, 0.5), st.floats(2.2, 60.0))
def test_a_longer_block_never_sees_less(call_s, duration_s):
    short, long = (unseen_share(call_s, d, A100) for d in (duration_s, 2 * duration_s))
    assert 0.0 <= long <= short + 1e-9 < 1.0


def test_a_call_out_of_step_is_seen_whole_before_long():
    assert unseen_share(0.0637, 5.0, A100) < 0.05
    assert not in_step(0.0637, 5.0, A100)


def test_a_sensor_that_looks_all_the_time_is_never_in_step():
    assert not in_step(0.1, 5.0, nvml_sensor("RTX 3090"))
