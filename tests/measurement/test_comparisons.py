import math

import numpy as np
import pandas as pd
import pytest

from ttq_energy.errors import InputError
from ttq_energy.measurement import compare_measurements
from ttq_energy.run import TABLES


def measured(rounds=10, ratio=0.8, idle_w=5.0, idle_half_w=0.05, seed=0, domain="cpu-package-0"):
    """Blocks of 1 s and 20 W for the baseline; the variant infers more in the same energy."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(rounds):
        for variant, inferences in (("fp32", 1000), ("ttq", round(1000 / ratio))):
            energy = 20.0 * math.exp(0.005 * rng.standard_normal())
            rows.append(
                {
                    "model": "m",
                    "variant": variant,
                    "device": "cpu",
                    "batch_size": 1,
                    "round": number,
                    "block": len(rows),
                    "inferences": inferences,
                    "duration_s": 1.0,
                    "domain": domain,
                    "energy_j": energy,
                    "idle_power_w": idle_w,
                    "idle_power_low_w": idle_w - idle_half_w,
                    "idle_power_high_w": idle_w + idle_half_w,
                    "net_energy_j": energy - idle_w,
                    "provenance": "counter",
                    "valid": True,
                    "invalid_reason": "",
                }
            )
    return pd.DataFrame(rows)


def by_quantity(frame, **options):
    return {row["quantity"]: row for row in compare_measurements(frame, **options)}


def test_latency_gross_and_net_energy_per_inference():
    rows = by_quantity(measured())
    assert set(rows) == {"latency", "gross_energy", "net_energy"}
    for row in rows.values():
        assert set(row) == set(TABLES["comparisons"].names)
        assert row["ratio"] == pytest.approx(0.8, rel=0.01)
        assert row["ratio_low"] <= 0.801
        assert row["verdict"] == "saves"
        assert row["rounds"] == 10
        assert (row["baseline"], row["variant"]) == ("fp32", "ttq")
    assert (rows["latency"]["domain"], rows["latency"]["provenance"]) == ("time", "timed")
    assert rows["gross_energy"]["provenance"] == "counter"


def test_rounds_with_an_invalid_block_are_left_out():
    frame = measured()
    bad = frame["block"] == 4
    frame.loc[bad, ["valid", "invalid_reason"]] = [False, "throttled: gpu-0"]
    frame.loc[bad, ["energy_j", "duration_s"]] = [900.0, 50.0]
    rows = by_quantity(frame)
    assert rows["gross_energy"]["rounds"] == rows["latency"]["rounds"] == 9
    assert rows["gross_energy"]["ratio"] == pytest.approx(0.8, rel=0.01)


def test_a_failed_sensor_does_not_cost_the_latency_of_its_block():
    frame = measured()
    failed = frame["block"] == 4
    frame.loc[failed, ["valid", "invalid_reason"]] = [False, "sensor: read failed"]
    frame.loc[failed, ["energy_j", "net_energy_j"]] = np.nan
    rows = by_quantity(frame)
    assert rows["gross_energy"]["rounds"] == 9
    assert rows["latency"]["rounds"] == 10


def test_an_uncertain_idle_power_widens_the_net_ratio_only():
    # The variant's blocks take twice as long, so that a wrong idle power would move the ratio.
    sure, unsure = measured(), measured(idle_half_w=2.0)
    for frame in (sure, unsure):
        slow = frame["variant"] == "ttq"
        frame.loc[slow, "duration_s"] = 2.0
        frame.loc[slow, "net_energy_j"] = frame.loc[slow, "energy_j"] - 2.0 * 5.0
    width = {
        name: {q: r["ratio_high"] - r["ratio_low"] for q, r in by_quantity(frame).items()}
        for name, frame in (("sure", sure), ("unsure", unsure))
    }
    assert width["unsure"]["net_energy"] > 3 * width["sure"]["net_energy"]
    assert width["unsure"]["gross_energy"] == pytest.approx(width["sure"]["gross_energy"])


def test_a_net_energy_below_zero_is_undecided():
    rows = by_quantity(measured(idle_w=25.0))
    assert rows["net_energy"]["verdict"] == "undecided"
    assert math.isnan(rows["net_energy"]["ratio"])
    assert rows["gross_energy"]["verdict"] == "saves"


def test_domains_and_provenances_stay_apart():
    other = measured(domain="codecarbon-cpu", ratio=0.5)
    other["provenance"] = "modelled"
    rows = compare_measurements(pd.concat([measured(), other]))
    gross = {row["domain"]: row for row in rows if row["quantity"] == "gross_energy"}
    assert gross["cpu-package-0"]["provenance"] == "counter"
    assert gross["codecarbon-cpu"]["provenance"] == "modelled"
    assert gross["codecarbon-cpu"]["ratio"] == pytest.approx(0.5, rel=0.01)


def test_without_sensors_there_is_latency_alone():
    frame = measured(domain="none")
    frame[["energy_j", "net_energy_j"]] = np.nan
    frame["provenance"] = "timed"
    assert set(by_quantity(frame)) == {"latency"}


def test_no_valid_round_says_nothing():
    frame = measured()
    frame["valid"] = False
    frame["invalid_reason"] = "other load: 1.5 cores"
    for row in compare_measurements(frame):
        assert row["rounds"] == 0
        assert row["verdict"] == "undecided"
        assert math.isnan(row["ratio"])


def test_an_empty_table_and_an_unknown_baseline():
    assert compare_measurements(measured().iloc[:0]) == []
    with pytest.raises(InputError, match="did you mean 'fp32'"):
        compare_measurements(measured(), baseline="fp23")
