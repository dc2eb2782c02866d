"""Faults of a counter as they arrive in a window: a reason and no joule, never a 0 or a wrap."""

import time

import pytest

from ttq_energy.measurement import EnergyMonitor
from ttq_energy.meters import RaplMeter


@pytest.fixture
def window(server):
    """The energy of a window of half a second during which something happens to the counters.

    Time stands still but for that half second, so that the poller has nothing to add.
    """

    def measure(happens):
        now = [100.0]
        monitor = EnergyMonitor(
            [RaplMeter(server.root, clock=lambda: now[0])], clock=lambda: now[0]
        )
        with monitor:
            with monitor.window("work"):
                now[0] += 0.5
                happens()
            return monitor["work"]

    return measure


def everything_moves(server):
    for zone, uj in (("0", 6_000_000), ("0:0", 500_000), ("1", 4_000_000), ("1:0", 250_000)):
        server.add(f"intel-rapl:{zone}", uj)


def test_packages_and_memory_are_summed(window, server):
    energy = window(lambda: everything_moves(server))
    assert energy.energy_j == pytest.approx(10.75)
    assert energy.low_j <= 10.75 <= energy.high_j
    assert energy.provenance == "counter"


def vanishes(server):
    server.file("intel-rapl:1").unlink()


def goes_mad(server):
    server.set("intel-rapl:1", 200_000_000_000)


def turns_unreadable(server):
    server.set("intel-rapl:1", "")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(vanishes, "no such file"), (goes_mad, "jumped"), (turns_unreadable, "expected a number")],
)
def test_a_fault_of_one_counter_takes_the_sum_and_leaves_the_others(window, server, fault, reason):
    def happens():
        everything_moves(server)
        fault(server)

    energy = window(happens)
    assert energy.energy_j is None
    assert "cpu-package-1" in energy.reason
    assert reason in energy.domains["cpu-package-1"].reason
    assert energy.domains["cpu-package-1"].energy_j is None
    assert energy.domains["cpu-package-0"].energy_j == pytest.approx(6.0)


def test_a_frozen_counter_is_broken_and_not_idle(window, server):
    energy = window(lambda: server.add("intel-rapl:0", 6_000_000))
    assert energy.energy_j is None
    assert "stood still" in energy.domains["cpu-package-1"].reason


def test_a_reset_spoils_the_windows_across_it_and_none_after(server):
    now = [100.0]
    meter = RaplMeter(server.root, clock=lambda: now[0])
    with EnergyMonitor([meter], clock=lambda: now[0]) as monitor:
        with monitor.window("across"):
            now[0] += 0.5
            everything_moves(server)
            server.set("intel-rapl:1", 50)
        with monitor.window("after"):
            now[0] += 0.5
            everything_moves(server)
    assert monitor["across"].energy_j is None
    assert "jumped" in monitor["across"].domains["cpu-package-1"].reason
    assert monitor["after"].energy_j == pytest.approx(10.75)


def test_a_counter_that_freezes_halfway_is_no_small_figure(server):
    """Real time: the trace has to see that the counter moved, and that it no longer does."""
    with EnergyMonitor([RaplMeter(server.root)]) as monitor, monitor.window("work"):
        for _ in range(60):
            server.add("intel-rapl:0", 100_000)
            time.sleep(0.02)
        time.sleep(1.4)
    energy = monitor["work"].domains["cpu-package-0"]
    assert energy.energy_j is None
    assert "stood still" in energy.reason


def test_a_counter_of_few_steps_is_not_taken_for_a_frozen_one(server):
    with EnergyMonitor([RaplMeter(server.root)]) as monitor, monitor.window("work"):
        everything_moves(server)
        time.sleep(0.3)
    assert monitor["work"].energy_j == pytest.approx(10.75)


def test_a_wrap_inside_a_window(window, server):
    server.set("intel-rapl:1", 262_143_328_850 - 1_000_000)

    def happens():
        everything_moves(server)
        server.set("intel-rapl:1", 2_999_999)

    assert window(happens).energy_j == pytest.approx(10.75)
