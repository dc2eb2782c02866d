import math

import pytest

from ttq_energy.measurement.energy import DomainEnergy, Energy
from ttq_energy.measurement.idle import IdleWindow, idle_power
from ttq_energy.measurement.machine import Machine, MachineState
from ttq_energy.measurement.validity import (
    Surroundings,
    block_problems,
    device_problems,
    disagreements,
)
from ttq_energy.meters.base import Provenance


def around(before=None, after=None, conditions_before=None, conditions_after=None, gpu=None):
    return Surroundings(
        MachineState(0.0, busy_s=0.0, own_s=0.0, throttle_count=3.0, **(before or {})),
        MachineState(1.0, **{"busy_s": 1.0, "own_s": 1.0, "throttle_count": 3.0, **(after or {})}),
        conditions_before or {},
        conditions_after or {},
        gpu,
    )


def problems(seen, idle=0.0, clocks=(), cores=4):
    return block_problems(seen, idle_other_cores=idle, clocks_mhz=clocks, cores=cores)


def test_a_quiet_block_passes():
    assert problems(around()) == []


def test_other_load_counts_above_the_usual_and_above_a_limit():
    busy = around(after={"busy_s": 1.3})
    assert "other load" in problems(busy)[0]
    assert problems(busy, idle=0.3) == []
    assert problems(around(after={"busy_s": 3.0}), idle=2.0)
    assert problems(around(after={"busy_s": math.nan})) == []


@pytest.mark.parametrize(("gpu", "spoiled"), [(0, True), (1, False), (None, False)])
def test_a_gpu_that_throttled_spoils_a_block_only_where_it_ran(gpu, spoiled):
    seen = around(
        conditions_before={"nvml.gpu-0-throttle_power_s": 5.0},
        conditions_after={"nvml.gpu-0-throttle_power_s": 5.2, "nvml.gpu-1-throttle_power_s": 0.0},
        gpu=gpu,
    )
    assert any("throttled" in reason for reason in problems(seen)) == spoiled
    assert device_problems(seen, "gpu-0-power")
    assert device_problems(seen, "gpu-0")
    assert not device_problems(seen, "gpu-01")
    assert not device_problems(seen, "cpu-package-0")


def test_another_process_on_the_gpu_is_other_load():
    seen = around(conditions_after={"nvml.gpu-1-other_processes": 2.0}, gpu=0)
    assert "another process" in problems(seen)[0]  # the first GPU that the meters tell of


def test_throttling_that_did_not_go_on_is_no_problem():
    same = {"nvml.gpu-0-throttle_thermal_s": 7.0, "nvml.gpu-0-throttled": False}
    assert problems(around(conditions_before=same, conditions_after=same, gpu=0)) == []


def test_the_clock_is_that_of_the_device_that_ran():
    clocks = {"nvml.gpu-0-sm_clock_mhz": 1410.0, "nvml.gpu-0-memory_clock_mhz": 1215.0}
    on_gpu = around(after={"clock_mhz": 3000.0}, conditions_after=clocks, gpu=0)
    on_cpu = around(after={"clock_mhz": 3000.0}, conditions_after=clocks)
    assert (on_gpu.clock_mhz, on_cpu.clock_mhz) == (1410.0, 3000.0)
    assert problems(on_gpu, clocks=[1410.0] * 5) == []
    assert "clock moved" in problems(on_gpu, clocks=[1980.0] * 5)[0]


def domain(name, joules, provenance, half=1.0, component="gpu"):
    return DomainEnergy(
        name,
        10.0,
        joules,
        joules - half,
        joules + half,
        provenance,
        "nvml",
        "",
        component=component,
        relative_low_j=joules - half,
        relative_high_j=joules + half,
    )


def energy(*domains):
    return Energy("w", 10.0, 1.0, 1.0, 1.0, None, {d.domain: d for d in domains})


@pytest.mark.parametrize(("integral", "apart"), [(1040.0, False), (1100.0, True), (900.0, True)])
def test_counter_and_integral_of_one_device_must_agree(integral, apart):
    both = energy(
        domain("gpu-0", 1000.0, Provenance.COUNTER),
        domain("gpu-0-power", integral, Provenance.INTEGRATED),
        domain("gpu-1-power", 5.0, Provenance.INTEGRATED),
    )
    assert set(disagreements(both)) == ({"gpu-0", "gpu-0-power"} if apart else set())


def idle(middle_s, power_w, half=0.0):
    window = domain("cpu", 10.0 * power_w, Provenance.COUNTER, half)
    return IdleWindow(middle_s - 5.0, middle_s + 5.0, energy(window))


def test_idle_power_is_interpolated_with_its_uncertainty():
    windows = [idle(0.0, 10.0), idle(100.0, 12.0), idle(200.0, 11.0)]
    found = idle_power(windows, "cpu", 50.0)
    assert found.power_w == pytest.approx(11.0)
    assert found.low_w < 10.0 < 12.0 < found.high_w
    assert idle_power(windows, "cpu", 500.0).power_w == pytest.approx(11.0)


def test_a_coarse_sensor_makes_idle_power_uncertain():
    fine = idle_power([idle(0.0, 10.0), idle(100.0, 10.0)], "cpu", 50.0)
    coarse = idle_power([idle(0.0, 10.0, 20.0), idle(100.0, 10.0, 20.0)], "cpu", 50.0)
    assert coarse.high_w - coarse.low_w > fine.high_w - fine.low_w + 1.0


def test_no_idle_window_is_not_zero_watt():
    assert math.isnan(idle_power([], "cpu", 0.0).power_w)
    assert math.isnan(idle_power([idle(0.0, 10.0)], "dram", 0.0).power_w)


def test_the_real_machine_tells_its_own_load_from_others(tmp_path):
    for core, count in ((0, 2), (1, 5)):
        folder = tmp_path / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    machine = Machine(sysfs=tmp_path)
    before = machine.state()
    sum(range(2_000_000))
    after = machine.state()
    assert after.own_s > before.own_s
    assert after.busy_s >= before.busy_s
    assert after.throttle_count == 7
    assert math.isnan(Machine(sysfs=tmp_path / "none").state().throttle_count)
