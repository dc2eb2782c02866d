"""Update period and resolution are found from the changes that are seen."""

import pytest

from ttq_energy.meters.spot import Spot, measure_updates


class Time:
    now = 5.0

    def clock(self) -> float:
        self.now += 1e-5
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("period_s", [0.001, 0.02, 0.1])
def test_period_and_step_of_a_live_counter(period_s):
    time = Time()

    def read():
        return [int(time.now / period_s) * 61, None, 7]

    live, failing, frozen = measure_updates(
        read, limit_s=30 * period_s, pause_s=1e-4, clock=time.clock, sleep=time.sleep
    )
    assert live.update_period_s == pytest.approx(period_s, rel=0.15)
    assert live.resolution == 61
    assert failing == frozen == Spot(None, None)


def test_it_stops_as_soon_as_every_value_has_changed_enough():
    time = Time()
    measure_updates(
        lambda: [int(time.now / 0.01)],
        limit_s=60.0,
        pause_s=1e-3,
        clock=time.clock,
        sleep=time.sleep,
    )
    assert time.now < 5.2


def test_too_few_changes_give_nothing():
    time = Time()
    (spot,) = measure_updates(
        lambda: [int(time.now / 1.0)], limit_s=2.5, pause_s=1e-3, clock=time.clock, sleep=time.sleep
    )
    assert spot == Spot(None, None)
