import numpy as np
import pandas as pd
import pytest

from ttq_energy.errors import InputError
from ttq_energy.measurement import (
    EnergyMonitor,
    ProtocolInterrupted,
    Workload,
    compare_measurements,
    run_protocol,
)
from ttq_energy.run import TABLES
from ttq_energy.study import MeasurementSpec

SPEC = MeasurementSpec(
    block_s=0.5, idle_s=1.0, warmup_s=1.0, min_rounds=6, max_rounds=8, target_width=1e-9
)


class Bench:
    """Two workloads in a world: fp32 takes 10 ms at 40 W, ttq 5 ms at 30 W."""

    def __init__(self, world, machine, meters, seed=0):
        self.world, self.machine, self.meters = world, machine, meters
        self.rng = np.random.default_rng(seed)
        self.order = []
        self.events = []
        self.on_call = lambda variant: None
        self.noise = 0.002

    def workload(self, variant, seconds, power_w):
        def call():
            self.on_call(variant)
            self.world.work(seconds * np.exp(self.noise * self.rng.standard_normal()), power_w)

        return Workload(variant, call, inferences_per_call=4, kernel=f"{variant}-kernel")

    def run(self, spec=SPEC, **options):
        def on_event(stage, details):
            self.events.append((stage, details))
            if stage == "block":
                self.order.append((details["round"], details["variant"]))

        with EnergyMonitor(self.meters, clock=self.world.clock) as monitor:
            return run_protocol(
                [self.workload("fp32", 0.010, 40.0), self.workload("ttq", 0.005, 30.0)],
                model="m",
                device="cpu",
                batch_size=4,
                spec=spec,
                monitor=monitor,
                machine=self.machine,
                on_event=on_event,
                **options,
            )


@pytest.fixture
def bench(world, machine, counter):
    return Bench(world, machine, [counter()])


def test_the_ratios_are_those_of_the_world(bench):
    result = bench.run()
    rows = {r["quantity"]: r for r in compare_measurements(pd.DataFrame(result.measurements))}
    assert rows["latency"]["ratio"] == pytest.approx(0.5, rel=0.01)
    assert rows["gross_energy"]["ratio"] == pytest.approx(0.005 * 30 / (0.010 * 40), rel=0.01)
    assert rows["net_energy"]["ratio"] == pytest.approx(0.005 * 20 / (0.010 * 30), rel=0.02)
    assert all(row["verdict"] == "saves" for row in rows.values())
    assert all(row["rounds"] == 8 for row in rows.values())


def test_rows_and_traces_fit_their_tables(bench):
    result = bench.run()
    for row in result.measurements:
        assert set(row) <= set(TABLES["measurements"].names)
    for row in result.traces:
        assert set(row) == set(TABLES["traces"].names)
    first = result.measurements[0]
    assert first["idle_power_w"] == pytest.approx(10.0, rel=0.01)
    assert first["net_energy_j"] == pytest.approx(
        first["energy_j"] - first["idle_power_w"] * first["duration_s"]
    )
    assert first["idle_power_low_w"] <= 10.0 <= first["idle_power_high_w"]
    assert first["kernel"] == f"{first['variant']}-kernel"
    assert first["clock_mhz"] == 3000.0
    assert first["duration_s"] >= 0.45
    assert first["inferences"] % 4 == 0


def test_rounds_are_interleaved_and_their_order_is_random_but_repeatable(bench, world, machine):
    bench.run(seed=3)
    rounds = [bench.order[i : i + 2] for i in range(0, len(bench.order), 2)]
    for number, pair in enumerate(rounds):
        assert {variant for _, variant in pair} == {"fp32", "ttq"}
        assert {which for which, _ in pair} == {number}
    firsts = [pair[0][1] for pair in rounds]
    assert set(firsts) == {"fp32", "ttq"}
    again = Bench(world, machine, bench.meters)
    again.run(seed=3)
    assert again.order == bench.order


def test_idle_windows_stand_before_between_and_after(bench):
    bench.run()
    stages = [
        details.get("place", stage) for stage, details in bench.events if stage in ("idle", "round")
    ]
    assert stages[0] == "before"
    assert stages[-1] == "after"
    assert "between" in stages


def test_it_stops_when_every_ratio_is_precise(bench):
    result = bench.run(MeasurementSpec(**{**vars(SPEC), "target_width": 0.05, "max_rounds": 30}))
    assert result.stopped == "precise"
    assert len({row["round"] for row in result.measurements}) == 6


def test_the_budget_ends_it_and_says_so(bench):
    result = bench.run(MeasurementSpec(**{**vars(SPEC), "budget_s": 6.0, "max_rounds": 30}))
    assert result.stopped == "budget"
    assert bench.world.now - 1000.0 < 7.5
    assert any("budget" in message for message in result.messages)


def test_blocks_grow_to_twenty_update_periods(world, machine, counter):
    bench = Bench(world, machine, [counter(period_s=0.1)])
    result = bench.run(MeasurementSpec(**{**vars(SPEC), "budget_s": 1000.0}))
    assert all(row["duration_s"] >= 1.9 for row in result.measurements)
    assert any("20 update periods" in message for message in result.messages)


def test_a_block_that_came_out_too_short_is_marked_and_the_next_are_longer(world, machine, counter):
    bench = Bench(world, machine, [counter(period_s=0.1)])
    workload = bench.workload

    def faster_once_warm(variant, seconds, power_w):
        slow = workload(variant, seconds, power_w)

        def call():
            warm = any(stage == "idle" for stage, _ in bench.events)
            world.work(seconds / 2 if warm else seconds, power_w)

        return Workload(variant, call, slow.inferences_per_call, slow.kernel)

    bench.workload = faster_once_warm
    result = bench.run(MeasurementSpec(**{**vars(SPEC), "budget_s": 1000.0}))
    short = {row["round"] for row in result.measurements if not row["valid"]}
    assert short == {0}
    assert all(
        "shorter than 2 s" in row["invalid_reason"]
        for row in result.measurements
        if not row["valid"]
    )


def test_disturbed_blocks_are_kept_marked_and_left_out(bench):
    calls = {"blocks": 0}

    def disturb(variant):
        if len(bench.order) == 5:
            bench.world.busy_s += 0.01
        if len(bench.order) == 8:
            bench.machine.throttle_count += 1
        bench.machine.clock_mhz = 2000.0 if len(bench.order) == 11 else 3000.0
        calls["blocks"] += 1

    bench.on_call = disturb
    result = bench.run()
    reasons = {r["block"]: r["invalid_reason"] for r in result.measurements if not r["valid"]}
    assert set(reasons) == {5, 8, 11}
    assert "other load" in reasons[5]
    assert "throttled" in reasons[8]
    assert "clock moved" in reasons[11]
    rows = compare_measurements(pd.DataFrame(result.measurements))
    assert all(row["rounds"] == 5 for row in rows)
    assert any("left out: throttled" in message for message in result.messages)


def test_a_read_error_marks_the_joule_and_keeps_the_latency(bench):
    meter = bench.meters[0]
    bench.on_call = lambda variant: setattr(
        meter, "error", "bus fault" if len(bench.order) == 4 else None
    )
    result = bench.run()
    bad = [row for row in result.measurements if not row["valid"]]
    assert bad
    assert all(row["energy_j"] is None and "bus fault" in row["invalid_reason"] for row in bad)
    rows = {r["quantity"]: r for r in compare_measurements(pd.DataFrame(result.measurements))}
    assert rows["latency"]["rounds"] == 8
    assert rows["gross_energy"]["rounds"] < 8


def test_several_domains_get_a_total(world, machine, counter):
    dram = counter("dram-0", component="dram")
    dram.share = 0.25
    result = Bench(world, machine, [counter(), dram]).run()
    frame = pd.DataFrame(result.measurements)
    block = frame[frame["block"] == 0].set_index("domain")
    assert set(block.index) == {"cpu-package-0", "dram-0", "total"}
    assert block.loc["total", "energy_j"] == pytest.approx(
        block.loc["cpu-package-0", "energy_j"] + block.loc["dram-0", "energy_j"]
    )
    assert block.loc["total", "idle_power_w"] == pytest.approx(12.5, rel=0.01)


def test_without_sensors_latency_is_still_measured(world, machine):
    result = Bench(world, machine, []).run()
    assert {row["domain"] for row in result.measurements} == {"none"}
    assert all(row["energy_j"] is None and row["valid"] for row in result.measurements)
    assert any("no sensor" in message for message in result.messages)
    (row,) = compare_measurements(pd.DataFrame(result.measurements))
    assert row["ratio"] == pytest.approx(0.5, rel=0.01)


def test_an_interruption_carries_what_was_complete(bench):
    def interrupt(variant):
        if len(bench.order) == 7:
            raise KeyboardInterrupt

    bench.on_call = interrupt
    with pytest.raises(ProtocolInterrupted) as caught:
        bench.run()
    result = caught.value.result
    assert result.stopped == "interrupted"
    assert {row["block"] for row in result.measurements} == set(range(7))
    assert isinstance(caught.value, KeyboardInterrupt)


def test_an_unsteady_workload_warms_up_no_longer_than_allowed(bench):
    seen = {"calls": 0}

    def speed_up(variant):
        seen["calls"] += 1
        bench.world.work(0.5 / seen["calls"], 40.0)

    bench.on_call = speed_up
    bench.run(MeasurementSpec(**{**vars(SPEC), "max_rounds": 6}))
    warm_ups = [details for stage, details in bench.events if stage == "warmup"]
    assert len(warm_ups) == 2
    assert all(details["duration_s"] < 2.0 for details in warm_ups)
    assert not warm_ups[0]["steady"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "at least one"),
        (["a", "a"], {}, "stands twice"),
        (["fp32", "ttq"], {"baseline": "fp31"}, "did you mean 'fp32'"),
    ],
)
def test_bad_arguments_are_one_clear_line(bench, names, options, message):
    with (
        EnergyMonitor(bench.meters, clock=bench.world.clock) as monitor,
        pytest.raises(InputError, match=message),
    ):
        run_protocol(
            [bench.workload(name, 0.01, 20.0) for name in names],
            model="m",
            device="cpu",
            batch_size=1,
            spec=SPEC,
            monitor=monitor,
            machine=bench.machine,
            **options,
        )
