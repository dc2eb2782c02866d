"""NVIDIA boards through the real pynvml and a stand-in driver whose true energy is known."""

import csv
import gzip
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from ttq_energy.errors import InputError, SensorError
from ttq_energy.measurement import EnergyMonitor, energy_from_power
from ttq_energy.measurement.counters import counter_energy
from ttq_energy.measurement.power_sensor import sensor_of
from ttq_energy.meters import NvmlMeter, Provenance, available_meters, make_meter

TRACES = Path(__file__).parents[2] / ".." / "shared" / "data" / "power-traces"

A100 = "gpu 7 NVIDIA A100-PCIE-40GB\n"
RTX3090 = "gpu 7 NVIDIA GeForce RTX 3090\nlegacy average\n"
STEADY = "power 0 200\npower 1000 200\n"


def powers(points):
    return "".join(f"power {t:.6f} {p:.4f}\n" for t, p in points)


def energy_between(points, start_s, end_s):
    """True energy of a piecewise linear power, by fine trapezoids at its own corners."""
    t, p = np.array(points, dtype=np.float64).T
    inside = t[(t > start_s) & (t < end_s)]
    grid = np.concatenate([[start_s], inside, [end_s]])
    return float(np.trapezoid(np.interp(grid, t, p), grid))


def square(low_w, high_w, period_s, until_s):
    edge = 1e-4
    points, t, level = [(0.0, low_w)], period_s / 2, low_w
    while t < until_s:
        other = high_w if level == low_w else low_w
        points += [(t, level), (t + edge, other)]
        t, level = t + period_s / 2, other
    return [*points, (until_s, level)]


def by_domain(readings):
    return {reading.domain: reading for reading in readings}


def domain(meter, name):
    return next(d for d in meter.domains if d.name == name)


# -- what is found --------------------------------------------------------------------------------


def test_counter_and_power_are_two_domains_of_which_one_is_added(boards):
    boards.script(A100 + STEADY)
    meter = NvmlMeter(clock=boards.clock)
    counter, power = meter.domains
    assert (counter.name, counter.provenance, counter.additive) == (
        "gpu-0",
        Provenance.COUNTER,
        True,
    )
    assert (power.name, power.provenance, power.additive) == (
        "gpu-0-power",
        Provenance.INTEGRATED,
        False,
    )
    assert (power.hardware, power.driver, power.reading) == (
        "NVIDIA A100-PCIE-40GB",
        "535.54.03",
        "power.draw.instant",
    )
    assert boards.open_sessions == 0


@pytest.mark.parametrize(
    ("script", "driver", "meaning"),
    [
        (RTX3090, "535.54.03", "averaged over 1 s"),
        (RTX3090, "530.41.03", "latest sensor sample"),
        (A100, "535.54.03", "latest sensor sample"),
        ("gpu 5 Tesla V100-SXM2-16GB\n", "535.54.03", "this generation"),
        ("gpu 9 NVIDIA H100 PCIe\n", "550.54.14", "averaged over 1 s"),
    ],
)
def test_what_the_legacy_reading_shows_depends_on_architecture_and_driver(
    boards, script, driver, meaning
):
    boards.script(script + STEADY, driver)
    assert meaning in domain(NvmlMeter(reading="power.draw"), "gpu-0-power").covers


def test_an_old_driver_without_instant_power_falls_back_to_what_it_has(boards):
    boards.script(RTX3090 + "without instant\nwithout average\n" + STEADY, "525.85.12")
    assert domain(NvmlMeter(), "gpu-0-power").reading == "power.draw"
    with pytest.raises(SensorError, match=r"no 'power.draw.instant'; it has: power.draw$"):
        NvmlMeter(reading="power.draw.instant")


def test_without_a_counter_the_sampled_power_may_be_added(boards):
    boards.script("gpu 4 Tesla P40\nwithout counter\n" + STEADY)
    (power,) = NvmlMeter().domains
    assert power.additive
    assert power.provenance is Provenance.INTEGRATED


def test_a_superchip_tells_its_module_apart(boards):
    boards.script("gpu 9 NVIDIA GH200 480GB\nmodule 610\n" + STEADY)
    with NvmlMeter(clock=boards.clock) as meter:
        module = domain(meter, "gpu-0-module")
        assert (module.component, module.additive) == ("soc", False)
        assert "superchip" in domain(meter, "gpu-0").covers
        assert by_domain(meter.read())["gpu-0-module"].power_w == pytest.approx(610)


def test_mig_is_said(boards):
    boards.script(A100 + "mig\n" + STEADY)
    assert "all MIG instances" in NvmlMeter().domains[0].covers


def test_several_boards_and_those_that_cuda_sees(boards, monkeypatch):
    boards.script(3 * (A100 + STEADY))
    assert [d.name for d in NvmlMeter().domains if d.additive] == ["gpu-0", "gpu-1", "gpu-2"]
    assert [d.name for d in NvmlMeter([1]).domains] == ["gpu-1", "gpu-1-power"]
    for visible, names in {
        "2,0": ["gpu-2", "gpu-0"],
        "GPU-0001": ["gpu-1"],
        "1,-1,2": ["gpu-1"],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [d.name for d in NvmlMeter().domains if d.additive] == names
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SensorError, match="hides every GPU"):
        NvmlMeter()


def test_wrong_wishes(boards):
    boards.script(A100 + STEADY)
    with pytest.raises(InputError, match="no GPU 3; there are 1"):
        NvmlMeter([3])
    with pytest.raises(InputError, match=r"did you mean 'power.draw.instant'\?"):
        NvmlMeter(reading="power.draw.instan")


def test_a_virtual_gpu_without_sensors(boards):
    boards.script("gpu 7 GRID A100-4C\nwithout counter\nwithout instant\nwithout average\n")
    boards.script(
        "gpu 7 GRID A100-4C\nwithout counter\nwithout instant\nwithout average\nwithout legacy\n"
    )
    with pytest.raises(SensorError, match="neither energy nor power"):
        make_meter("nvml")
    status = NvmlMeter.probe()
    assert not status.readable
    assert status.reason


def test_a_driver_that_is_not_loaded_says_the_command(boards):
    with pytest.raises(SensorError, match=r"not loaded; this would help: sudo modprobe nvidia$"):
        NvmlMeter()
    status = NvmlMeter.probe()
    assert (status.found, status.readable, status.remedy) == (True, False, "sudo modprobe nvidia")


def test_the_gpu_is_among_the_meters_that_are_found(boards):
    boards.script(A100 + STEADY)
    assert "nvml" in [meter.name for meter in available_meters()]
    status = NvmlMeter.probe()
    assert status.readable
    assert "gpu-0 (NVIDIA A100-PCIE-40GB, driver 535.54.03)" in status.covers


# -- energy, against the truth --------------------------------------------------------------------


def play(boards, meter, start_s, end_s, poll_s=0.01, around_s=3.0):
    """Poll the meter on the boards' clock; gives the readings by domain."""
    series: dict[str, list] = {}
    for t in np.arange(start_s - around_s, end_s + around_s, poll_s):
        boards.at(float(t))
        for reading in meter.read():
            series.setdefault(reading.domain, []).append(reading)
    return series


def counter_result(meter, series, start_s, end_s):
    first = next(r for r in series["gpu-0"] if r.t_s >= start_s - 1e-9)
    last = next(r for r in series["gpu-0"] if r.t_s >= end_s - 1e-9)
    power = max(r.power_w for r in series["gpu-0-power"])
    return counter_energy(domain(meter, "gpu-0"), "nvml", first, last, last.t_s - first.t_s, power)


def power_result(meter, series, start_s, end_s):
    readings = series["gpu-0-power"]
    return energy_from_power(
        [r.t_s for r in readings],
        [r.power_w for r in readings],
        start_s,
        end_s,
        sensor=sensor_of(domain(meter, "gpu-0-power")),
    )


SHAPES = {
    "steady": [(0.0, 210.0), (60.0, 210.0)],
    "square": square(60.0, 240.0, 1.3, 60.0),
    "slow square": square(60.0, 320.0, 6.0, 60.0),
    "ramp": [(0.0, 50.0), (20.0, 50.0), (40.0, 300.0), (60.0, 300.0)],
    "step": [(0.0, 40.0), (25.0, 40.0), (25.001, 280.0), (60.0, 280.0)],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("board", "reading", "sensor"),
    [
        (A100, "power.draw.instant", "sensor 0.1 0.025 1\naverage 1\n"),
        (RTX3090, "power.draw.instant", "sensor 0.1 0.1 1\naverage 1.1\n"),
        (RTX3090, "power.draw", "sensor 0.1 0.1 1\naverage 1.1\n"),
    ],
)
def test_true_energy_lies_in_both_intervals(boards, board, reading, sensor, shape):
    points = SHAPES[shape]
    boards.script(board + sensor + powers(points))
    boards.at(20.0)
    start_s, end_s = 24.0, 37.0
    true_j = energy_between(points, start_s, end_s)
    with NvmlMeter(reading=reading, clock=boards.clock) as meter:
        series = play(boards, meter, start_s, end_s)
        counter = counter_result(meter, series, start_s, end_s)
        power = power_result(meter, series, start_s, end_s)
    assert counter.low_j <= true_j <= counter.high_j
    assert power.relative_low_j <= true_j <= power.relative_high_j
    if shape == "steady":
        assert counter.energy_j == pytest.approx(true_j, rel=0.01)
        assert power.energy_j == pytest.approx(true_j, rel=0.01)


@pytest.mark.parametrize("gain", [0.93, 1.07])
def test_a_boards_gain_is_inside_the_absolute_interval_only(boards, gain):
    boards.script(RTX3090 + f"sensor 0.1 0.1 {gain}\n" + STEADY)
    boards.at(20.0)
    with NvmlMeter(clock=boards.clock) as meter:
        power = power_result(meter, play(boards, meter, 24.0, 34.0), 24.0, 34.0)
    assert power.low_j <= 2000.0 <= power.high_j
    assert not power.relative_low_j <= 2000.0 <= power.relative_high_j


@pytest.mark.parametrize("recording", ["a100-pcie-40gb", "rtx3090"])
def test_a_recorded_load_played_back(boards, recording):
    """The external meter's trace is the truth, shown as the board's sensor would show it."""
    if not TRACES.is_dir():
        pytest.skip(f"{TRACES} is not there")
    with gzip.open(TRACES / f"{recording}_steps_meter.csv.gz", "rt") as file:
        table = np.array([[float(x) for x in row] for row in list(csv.reader(file))[1:]])
    bins = np.floor((table[:, 0] - table[0, 0]) / 0.005).astype(int)
    counts = np.bincount(bins)
    kept = counts > 0
    mean_w = np.bincount(bins, table[:, 1])[kept] / counts[kept]
    mean_t = np.bincount(bins, table[:, 0] - table[0, 0])[kept] / counts[kept]
    points = list(zip(mean_t + 30.0, mean_w, strict=True))
    loaded = mean_t[mean_w > (mean_w.min() + mean_w.max()) / 2] + 30.0
    start_s, end_s = float(loaded[0]) - 0.5, float(loaded[-1]) + 0.5
    true_j = energy_between(points, start_s, end_s)
    board = A100 + "sensor 0.1 0.025 1\n" if "a100" in recording else RTX3090
    boards.script(board + powers(points))
    boards.at(20.0)
    with NvmlMeter(clock=boards.clock) as meter:
        series = play(boards, meter, start_s, end_s)
        counter = counter_result(meter, series, start_s, end_s)
        power = power_result(meter, series, start_s, end_s)
    assert counter.low_j <= true_j <= counter.high_j
    assert power.low_j <= true_j <= power.high_j
    assert power.energy_j == pytest.approx(true_j, rel=0.05)


def test_a_monitor_polls_the_power_in_a_process_of_its_own(boards):
    """On the real clock: a steady board through pickling, the child process and the window."""
    boards.script(RTX3090 + "power -1e9 150\npower 1e9 150\n")
    boards.run()
    with EnergyMonitor([NvmlMeter()]) as monitor:
        with monitor.window("work"):
            time.sleep(1.5)
        energy = monitor["work"]
    assert monitor.messages == []
    for part in energy.domains.values():
        assert part.energy_j is not None, part.reason
        assert part.low_j <= 150.0 * energy.duration_s <= part.high_j
    assert energy.provenance is Provenance.COUNTER
    assert energy.energy_j == energy.domains["gpu-0"].energy_j
    assert boards.open_sessions == 0


# -- faults ---------------------------------------------------------------------------------------


def test_a_gpu_lost_in_mid_run_gives_errors_and_leaves_the_others(boards):
    boards.script(A100 + "lost 105\n" + STEADY + A100 + STEADY)
    with NvmlMeter(clock=boards.clock) as meter:
        boards.at(104.0)
        assert by_domain(meter.read())["gpu-0"].error is None
        boards.at(106.0)
        readings = by_domain(meter.read())
        for name in ("gpu-0", "gpu-0-power"):
            assert "lost" in readings[name].error
            assert readings[name].energy_j is readings[name].power_w is None
        assert readings["gpu-1"].energy_j == pytest.approx(1200.0, rel=0.02)
        assert "gpu-0-temperature_c" not in meter.conditions()


def test_a_failed_read_is_an_error_of_its_own_and_passes(boards):
    boards.script(A100 + "fail counter 102 104\nfail power 103 104\n" + STEADY)
    with NvmlMeter(clock=boards.clock) as meter:
        boards.at(102.5)
        readings = by_domain(meter.read())
        assert readings["gpu-0"].error
        assert readings["gpu-0-power"].power_w == pytest.approx(200.0)
        boards.at(103.5)
        assert by_domain(meter.read())["gpu-0-power"].error
        boards.at(105.0)
        assert by_domain(meter.read())["gpu-0"].energy_j == pytest.approx(1000.0, rel=0.03)


def test_a_counter_that_starts_again_begins_an_epoch(boards):
    boards.script(A100 + "reset 105\n" + STEADY)
    with NvmlMeter(clock=boards.clock) as meter:
        boards.at(106.0)
        assert "went back" in by_domain(meter.read())["gpu-0"].error
        assert by_domain(meter.read())["gpu-0"].epoch == 1


def test_reading_before_the_start_is_an_error(boards):
    boards.script(A100 + STEADY)
    assert all(reading.error for reading in NvmlMeter().read())


# -- conditions -----------------------------------------------------------------------------------


def test_throttling_adds_up_by_reason_beside_clocks_and_other_processes(boards):
    boards.script(
        A100
        + f"throttle 0 101 103\nthrottle 1 104 106\nprocess {os.getpid()}\nprocess 999999\n"
        + STEADY
    )
    with NvmlMeter(clock=boards.clock) as meter:
        before = meter.conditions()
        boards.at(105.0)
        after = meter.conditions()
    assert before["gpu-0-throttle_power_s"] == before["gpu-0-throttle_thermal_s"] == 0.0
    assert after["gpu-0-throttle_power_s"] == pytest.approx(2.0)
    assert after["gpu-0-throttle_thermal_s"] == pytest.approx(1.0)
    assert after["gpu-0-throttle_reliability_s"] == 0.0
    assert after["gpu-0-sm_clock_mhz"] == 1410.0
    assert after["gpu-0-temperature_c"] == 54.0
    assert after["gpu-0-power_limit_w"] == 250.0
    assert after["gpu-0-other_processes"] == 1.0


def test_a_started_meter_can_be_sent_to_another_process(boards):
    boards.script(A100 + STEADY)
    with NvmlMeter() as meter:
        copy = pickle.loads(pickle.dumps(meter))
        assert copy.domains == meter.domains
        with copy:
            assert by_domain(copy.read())["gpu-0-power"].power_w == pytest.approx(200.0)
        assert by_domain(meter.read())["gpu-0"].error is None
