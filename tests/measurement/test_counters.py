import math

from hypothesis import given
from hypothesis import strategies as st

from ttq_energy.measurement.counters import counter_energy
from ttq_energy.meters.base import Domain, Provenance, Reading

positive = st.floats(0.5, 300.0)


@given(
    period=st.sampled_from([0.001, 0.02, 0.1]),
    step=st.sampled_from([0.0, 6.1e-5, 0.5]),
    idle_w=positive,
    load_w=positive,
    begin=st.floats(0.0, 1.0),
    periods=st.floats(2.0, 400.0),
    duty=st.floats(0.05, 1.0),
)
def test_the_true_energy_lies_in_the_interval(period, step, idle_w, load_w, begin, periods, duty):
    """A counter that updates late and in steps, a load that switches at any time."""
    duration = periods * period
    switch = begin + duty * duration

    def drawn(t):
        loaded = min(max(t, begin), switch) - begin
        return idle_w * (t - loaded) + load_w * loaded

    def shown(t):
        energy = drawn(math.floor(t / period) * period)
        return math.floor(energy / step) * step if step else energy

    domain = Domain("d", "cpu", Provenance.COUNTER, "", update_period_s=period, resolution_j=step)
    first = Reading("d", begin, energy_j=shown(begin))
    last = Reading("d", begin + duration, energy_j=shown(begin + duration))
    found = counter_energy(domain, "fake", first, last, duration, max(idle_w, load_w))
    true = drawn(begin + duration) - drawn(begin)
    if found.energy_j is not None:
        assert found.low_j - 1e-9 <= true <= found.high_j + 1e-9
    elif found.minimum_s is not None:
        assert found.minimum_s > duration


def test_reads_that_take_time_widen_the_interval():
    domain = Domain("d", "cpu", Provenance.COUNTER, "", update_period_s=0.001)
    first = Reading("d", 0.0, energy_j=0.0)

    def half(outside_s):
        last = Reading("d", 1.0 + outside_s, energy_j=10.0)
        found = counter_energy(domain, "fake", first, last, 1.0)
        return (found.high_j - found.low_j) / 2

    assert half(0.05) > 10 * half(0.0)
