import math

import pytest

from ttq_energy.errors import InputError
from ttq_energy.measurement import (
    EnergyMonitor,
    break_even_inferences,
    energy_per_correct,
    layer_energy,
)


def test_training_is_paid_back_after_its_energy_over_the_saving():
    found = break_even_inferences((1000.0, 900.0, 1100.0), (0.1, 0.08, 0.12))
    assert found.value == pytest.approx(10_000)
    assert 7_500 < found.low < 9_000
    assert 12_000 < found.high < 14_000


def test_exact_figures_have_no_interval():
    found = break_even_inferences(1000.0, 0.1)
    assert (found.low, found.value, found.high) == pytest.approx((1e4, 1e4, 1e4))


def test_a_saving_that_may_be_none_may_never_pay_back():
    found = break_even_inferences(1000.0, (0.1, -0.05, 0.25))
    assert found.high == math.inf
    assert found.low == pytest.approx(1000.0 / 0.25, rel=0.01)


def test_no_saving_never_pays_back_and_no_extra_training_does_at_once():
    assert break_even_inferences(1000.0, -0.1).value == math.inf
    assert break_even_inferences(0.0, 0.1).value == 0.0
    assert break_even_inferences(-50.0, 0.1).value == 0.0


@pytest.mark.parametrize(
    ("training", "saving", "message"),
    [
        (math.nan, 0.1, "extra_training_j"),
        (1.0, (0.1, 0.2, 0.3), "low <= value <= high"),
        (1.0, (0.1, 0.2), r"\(value, low, high\)"),
    ],
)
def test_bad_figures_are_one_clear_line(training, saving, message):
    with pytest.raises(InputError, match=message):
        break_even_inferences(training, saving)


def test_energy_per_right_answer_carries_both_errors():
    exact = energy_per_correct(2.0, 0.5)
    assert (exact.low, exact.value, exact.high) == pytest.approx((4.0, 4.0, 4.0))
    tested = energy_per_correct((2.0, 1.9, 2.1), 0.5, examples=100)
    assert tested.value == pytest.approx(4.0)
    assert tested.low < 3.5
    assert tested.high > 4.5
    with pytest.raises(InputError, match="accuracy"):
        energy_per_correct(2.0, 0.0)


def test_a_layer_is_repeated_until_its_window_is_long_enough(world, counter):
    with EnergyMonitor([counter(period_s=0.1)], clock=world.clock) as monitor:
        found = layer_energy(
            lambda: world.work(0.001, 50.0), monitor, name="conv1", idle_power_w=10.0
        )
    assert found.calls == pytest.approx(2000, rel=0.02)
    assert found.energy_j == pytest.approx(0.05, rel=0.01)
    assert found.low_j <= 0.05 <= found.high_j
    assert found.net_energy_j == pytest.approx(0.04, rel=0.02)
    assert found.latency_s == pytest.approx(0.001)
    assert found.windows == 5


def test_a_layer_without_a_sensor_has_a_latency_and_a_reason(world):
    with EnergyMonitor([], clock=world.clock) as monitor:
        found = layer_energy(lambda: world.work(0.001, 50.0), monitor)
    assert found.energy_j is None
    assert "no sensor" in found.reason
    assert found.latency_s == pytest.approx(0.001)
