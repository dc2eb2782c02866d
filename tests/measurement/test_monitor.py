import threading

import pytest

from ttq_energy.errors import InputError, SensorError
from ttq_energy.measurement import EnergyMonitor
from ttq_energy.meters.base import Provenance


def monitor_of(world, *meters):
    return EnergyMonitor(meters, clock=world.clock)


def test_a_window_has_the_energy_drawn_inside(world, counter):
    with monitor_of(world, counter()) as monitor:
        world.advance(5.0)
        with monitor.window("forward"):
            world.advance(2.0, power_w=30.0)
        world.advance(5.0)
    energy = monitor["forward"]
    assert energy.energy_j == pytest.approx(60.0)
    assert energy.low_j <= 60.0 <= energy.high_j
    assert energy.duration_s == pytest.approx(2.0)
    assert energy.provenance is Provenance.COUNTER
    assert energy.power_w == pytest.approx(30.0)
    assert energy.valid
    assert not energy.reason


def test_windows_nest_and_overlap(world, counter):
    with monitor_of(world, counter()) as monitor:
        outer = monitor.begin("outer")
        world.advance(1.0, 10.0)
        with monitor.window("inner"):
            world.advance(1.0, 20.0)
        overlapping = monitor.begin("overlapping")
        world.advance(1.0, 40.0)
        outer.end()
        world.advance(1.0, 80.0)
        overlapping.end()
    assert monitor["outer"].energy_j == pytest.approx(70.0)
    assert monitor["inner"].energy_j == pytest.approx(20.0)
    assert monitor["overlapping"].energy_j == pytest.approx(120.0)


def test_a_window_may_end_in_another_thread(world, counter):
    with monitor_of(world, counter()) as monitor:
        window = monitor.begin("shared")
        world.advance(1.0, 25.0)
        thread = threading.Thread(target=window.end)
        thread.start()
        thread.join()
        world.advance(1.0, 99.0)
        window.end()
    assert monitor["shared"].energy_j == pytest.approx(25.0)


def test_the_same_name_again_is_the_latest_and_all_are_kept(world, counter):
    with monitor_of(world, counter()) as monitor:
        for power in (10.0, 20.0):
            with monitor.window("step"):
                world.advance(1.0, power)
    assert monitor["step"].energy_j == pytest.approx(20.0)
    assert [w.energy.energy_j for w in monitor.windows("step")] == pytest.approx([10.0, 20.0])


def test_an_exception_inside_still_ends_the_window(world, counter):
    def failing():
        with monitor.window("failing"):
            world.advance(1.0, 10.0)
            raise ZeroDivisionError

    with monitor_of(world, counter()) as monitor:
        with pytest.raises(ZeroDivisionError):
            failing()
        world.advance(1.0, 50.0)
    assert monitor["failing"].energy_j == pytest.approx(10.0)


def test_a_window_too_short_says_how_long_it_would_have_to_be(world, counter):
    with monitor_of(world, counter(period_s=0.1)) as monitor, monitor.window("short"):
        world.advance(0.05, 10.0)
    energy = monitor["short"]
    assert energy.energy_j is None
    assert energy.power_w is None
    assert not energy.valid
    assert "at least 0.2 s" in energy.reason
    assert energy.domains["cpu-package-0"].minimum_s == pytest.approx(0.2)


def test_a_coarse_counter_needs_two_of_its_steps(world, counter):
    with monitor_of(world, counter(step_j=1.0)) as monitor, monitor.window("short"):
        world.advance(0.1, 15.0)
    assert monitor["short"].energy_j is None
    assert monitor["short"].domains["cpu-package-0"].minimum_s > 0.1


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_read_error_stays_an_error_with_its_place(world, counter, place):
    meter = counter()
    with monitor_of(world, meter) as monitor:
        meter.error = "No such device" if place == "start" else None
        window = monitor.begin("w")
        world.advance(1.0, 10.0)
        meter.error = "No such device" if place == "end" else None
        window.end()
        meter.error = None
    energy = monitor["w"]
    assert energy.energy_j is None
    assert place in energy.reason
    assert "No such device" in energy.reason


def test_a_counter_that_goes_backwards_gives_no_joule(world, counter):
    with monitor_of(world, counter()) as monitor, monitor.window("w"):
        world.now += 1.0
        world.energy_j -= 5.0
    assert monitor["w"].energy_j is None
    assert "backwards" in monitor["w"].reason


def test_a_frozen_counter_gives_no_zero(world, counter):
    with monitor_of(world, counter()) as monitor, monitor.window("w"):
        world.advance(1.0, 0.0)
    assert monitor["w"].energy_j is None
    assert "stood still" in monitor["w"].reason


def test_provenances_are_never_added(world, counter):
    package = counter("cpu-package-0")
    model = counter("codecarbon-cpu", provenance=Provenance.MODELLED)
    with monitor_of(world, package, model) as monitor, monitor.window("w"):
        world.advance(1.0, 10.0)
    energy = monitor["w"]
    assert energy.energy_j == pytest.approx(10.0)
    assert energy.provenance is Provenance.COUNTER
    assert energy.domains["codecarbon-cpu"].energy_j == pytest.approx(10.0)
    assert "codecarbon-cpu (modelled)" in energy.note


def test_additive_domains_are_summed_and_parts_are_not(world, counter):
    meters = counter("cpu-package-0"), counter("dram-0"), counter("cpu-core-0", additive=False)
    meters[1].share = 0.5
    with monitor_of(world, *meters) as monitor, monitor.window("w"):
        world.advance(1.0, 10.0)
    assert monitor["w"].energy_j == pytest.approx(15.0)


def test_one_failed_domain_leaves_no_partial_sum(world, counter):
    first, second = counter("cpu-package-0"), counter("cpu-package-1")
    second.error = "gone"
    with monitor_of(world, first, second) as monitor, monitor.window("w"):
        world.advance(1.0, 10.0)
    assert monitor["w"].energy_j is None
    assert "cpu-package-1" in monitor["w"].reason
    assert monitor["w"].domains["cpu-package-0"].energy_j == pytest.approx(10.0)


def test_a_gpu_counter_has_the_gain_of_its_sensor_in_its_interval(world, counter):
    gpu = counter("gpu-0", component="gpu", hardware="NVIDIA A100-PCIE-40GB", driver="535.54.03")
    with monitor_of(world, gpu) as monitor, monitor.window("w"):
        world.advance(10.0, 200.0)
    domain = monitor["w"].domains["gpu-0"]
    assert domain.low_j < 0.9 * domain.energy_j
    assert domain.relative_low_j > 0.99 * domain.energy_j


def test_without_any_meter_it_works_and_says_so(world):
    with monitor_of(world) as monitor, monitor.window("w"):
        world.advance(1.5)
    energy = monitor["w"]
    assert energy.energy_j is None
    assert energy.provenance is None
    assert energy.duration_s == pytest.approx(1.5)
    assert "no sensor" in energy.reason
    assert monitor.messages


def test_misuse_is_one_clear_line(world, counter):
    monitor = monitor_of(world, counter())
    with pytest.raises(InputError, match="not running"):
        monitor.begin("early")
    with monitor:
        monitor.begin("forward").end()
        open_window = monitor.begin("open")
        with pytest.raises(InputError, match="not ended"):
            _ = open_window.energy
        with pytest.raises(InputError, match="did you mean 'forward'"):
            monitor["forwrad"]
        with pytest.raises(InputError, match="unknown domain"):
            monitor.power_trace("nothing", 0.0, 1.0)
    with pytest.raises(InputError, match="stands in both"):
        monitor_of(world, counter(), counter())


def test_meters_are_stopped_when_one_does_not_start(world, counter):
    first, second = counter("a"), counter("b")
    stopped = []
    first.stop = lambda: stopped.append("a")

    def fail():
        raise RuntimeError("no")

    second.start = fail
    with pytest.raises(RuntimeError):
        monitor_of(world, first, second).start()
    assert stopped == ["a"]


def test_meters_are_given_by_name_as_in_a_study(monkeypatch, world, counter):
    class Wall(type(counter())):
        name = "rapl"

        def __init__(self):
            super().__init__(world, "wall")

    monkeypatch.setattr("ttq_energy.meters.registry.METERS", (Wall,))
    meters = ["rapl", counter("gpu-0")]
    with EnergyMonitor(meters, clock=world.clock) as monitor, monitor.window("w"):
        world.advance(1.0, 10.0)
    assert set(monitor["w"].domains) == {"wall", "gpu-0"}


def test_a_meter_known_by_name_that_is_not_here(monkeypatch):
    monkeypatch.setattr("ttq_energy.meters.rapl.find_zones", lambda root: [])
    with pytest.raises(SensorError, match="rapl: no RAPL zone"):
        EnergyMonitor(["rapl"])


@pytest.mark.parametrize(
    ("meters", "message"),
    [
        (["rapel"], "unknown meter 'rapel'; did you mean 'rapl'"),
        (3, r"meters: expected a sequence of meters or their names, such as \['rapl'\], got 3"),
        ("rapl", r"meters: expected a sequence .*, got 'rapl'"),
        ([None], r"meters\[0\]: expected .*, got None"),
    ],
)
def test_wrong_meters_are_one_clear_line(meters, message):
    with pytest.raises(InputError, match=message):
        EnergyMonitor(meters)


@pytest.mark.parametrize("name", [None, "", "  ", 3])
def test_a_window_needs_a_name(world, counter, name):
    with monitor_of(world, counter()) as monitor:
        with pytest.raises(InputError, match="expected a name"):
            monitor.window(name)
        with pytest.raises(InputError, match="expected a name"):
            monitor.begin(name)


def test_a_window_is_entered_once(world, counter):
    with monitor_of(world, counter()) as monitor:
        window = monitor.window("a")
        with window:
            world.advance(1.0, 10.0)
            with pytest.raises(InputError, match="window 'a' was entered before"), window:
                pass
            world.advance(1.0, 10.0)
        with pytest.raises(InputError, match="window 'a' was entered before"), window:
            pass
    assert monitor["a"].energy_j == pytest.approx(20.0)
    assert len(monitor.windows("a")) == 1


def test_a_window_decorates_a_function(world, counter):
    with monitor_of(world, counter()) as monitor:

        @monitor.window("step")
        def step(power_w):
            world.advance(1.0, power_w)

        step(10.0)
        step(20.0)
    assert [w.energy.energy_j for w in monitor.windows("step")] == pytest.approx([10.0, 20.0])


def test_a_monitor_is_entered_once_at_a_time(world, counter):
    monitor = monitor_of(world, counter())
    with monitor:
        with pytest.raises(InputError, match="in use by a 'with' already"), monitor:
            pass
        with monitor.window("w"):
            world.advance(1.0, 10.0)
    with monitor, monitor.window("again"):
        world.advance(1.0, 20.0)
    assert monitor["w"].energy_j == pytest.approx(10.0)
    assert monitor["again"].energy_j == pytest.approx(20.0)


def test_joules_of_a_model_alone_are_told_to_be_that(monkeypatch, world, counter):
    model = counter("codecarbon-cpu", provenance=Provenance.MODELLED)
    (message,) = monitor_of(world, model).messages
    assert message == "no sensor is read, as chosen: every joule is modelled by fake, not measured"
    monkeypatch.setattr("ttq_energy.meters.available_meters", lambda: [model])
    (message,) = EnergyMonitor().messages
    assert message.startswith("no sensor is readable on this machine: every joule is modelled")
    assert monitor_of(world, model, counter()).messages == []
