import textwrap
import time

import pytest

from ttq_energy.measurement import EnergyMonitor
from ttq_energy.measurement.polling import CORE_SHARE, Rate
from ttq_energy.meters.base import Domain, Meter, Provenance, Reading

METER = textwrap.dedent(
    """
    import os, time
    from ttq_energy.meters.base import Domain, Meter, Provenance, Reading

    class SawTooth(Meter):
        '''100 W or 101 W in turn, fresh every 20 ms; its own process stands in its errors.'''
        name = "sawtooth"
        sampled = True
        domains = (Domain("gpu-0-power", "gpu", Provenance.INTEGRATED, "all", True, 0.02),)
        fail = False

        def start(self):
            pass

        def stop(self):
            pass

        def read(self):
            now = time.monotonic()
            if self.fail:
                return [Reading("gpu-0-power", now, error=f"lost in process {os.getpid()}")]
            return [Reading("gpu-0-power", now, power_w=100.0 + int(now / 0.02) % 2)]

        @classmethod
        def probe(cls):
            raise NotImplementedError
    """
)


@pytest.fixture
def sawtooth(tmp_path, monkeypatch):
    (tmp_path / "sawtooth_meter.py").write_text(METER)
    monkeypatch.syspath_prepend(str(tmp_path))
    import sawtooth_meter

    return sawtooth_meter.SawTooth


def test_power_is_sampled_in_a_process_of_its_own(sawtooth):
    with EnergyMonitor([sawtooth()]) as monitor:
        with monitor.window("w"):
            time.sleep(0.4)
        energy = monitor["w"]
        t_s, power_w = monitor.power_trace("gpu-0-power", 0.0, float("inf"))
    assert not monitor.messages
    assert energy.provenance is Provenance.INTEGRATED
    assert energy.energy_j == pytest.approx(100.5 * energy.duration_s, rel=0.01)
    assert energy.low_j <= 100.5 * energy.duration_s <= energy.high_j
    assert len(t_s) == len(power_w) > 10


def test_errors_of_the_sampling_process_reach_the_window(sawtooth):
    meter = sawtooth()
    meter.fail = True
    with EnergyMonitor([meter]) as monitor:
        with monitor.window("w"):
            time.sleep(0.2)
        energy = monitor["w"]
    assert energy.energy_j is None
    assert "lost in process" in energy.reason


def test_a_dead_sampling_process_is_no_zero(sawtooth):
    with EnergyMonitor([sawtooth()]) as monitor:
        monitor._samplers[0]._child.kill()
        monitor._samplers[0]._child.wait()
        with monitor.window("w"):
            time.sleep(0.1)
        energy = monitor["w"]
    assert energy.energy_j is None
    assert energy.reason


def test_a_meter_that_cannot_be_sent_is_sampled_in_a_thread_and_said_so(sawtooth):
    meter = sawtooth()
    meter.handle = lambda: None
    with EnergyMonitor([meter]) as monitor:
        with monitor.window("w"):
            time.sleep(0.4)
        energy = monitor["w"]
    assert any("in a thread" in message for message in monitor.messages)
    assert energy.energy_j == pytest.approx(100.5 * energy.duration_s, rel=0.02)


class Slow(Meter):
    name = "slow"
    sampled = True
    domains = (Domain("p", "gpu", Provenance.INTEGRATED, "", update_period_s=0.1),)

    def start(self):
        pass

    def stop(self):
        pass

    def read(self):
        return []

    @classmethod
    def probe(cls):
        raise NotImplementedError


def feed(rate, period_s, cost_s, seconds=6.0):
    t = 0.0
    while t < seconds:
        step = rate.interval_s
        t += step
        rate.saw([Reading("p", t, power_w=float(int(t / period_s)))], cost_s, step)


def test_the_rate_follows_the_sensors_real_period():
    rate = Rate(Slow())
    feed(rate, period_s=0.03, cost_s=1e-6)
    assert rate.update_period_s == pytest.approx(0.03, abs=0.011)
    assert rate.interval_s < 0.045 / 3


def test_a_costly_read_slows_the_rate_to_its_share_of_a_core():
    rate = Rate(Slow())
    feed(rate, period_s=0.03, cost_s=0.002)
    assert 0.002 / rate.interval_s <= CORE_SHARE * 1.001
