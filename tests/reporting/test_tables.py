"""The tables: what they add up, what they leave out, what they never mix."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttq_energy.errors import InputError
from ttq_energy.reporting import tables
from ttq_energy.reporting.carbon import country_factor
from ttq_energy.reporting.sections.estimated import _how_figures_are_known
from ttq_energy.reporting.tables.estimated import ratio_range
from ttq_energy.reporting.tables.gather import run_names
from ttq_energy.reporting.tables.trained import pareto_front
from ttq_energy.run import load_run


def _pick(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


# -- measured ------------------------------------------------------------------------------------


def test_energy_is_the_mean_of_valid_blocks_per_inference(counters):
    raw = _pick(counters.measurements, variant="ttq", batch_size=1, domain="cpu-package-0")
    good = raw[raw["valid"]]
    row = _pick(tables.energy(counters), variant="ttq", batch_size=1, domain="cpu-package-0").iloc[
        0
    ]
    assert row["energy_j"] == pytest.approx((good["energy_j"] / good["inferences"]).mean())
    assert (row["blocks"], row["blocks_left_out"]) == (len(good), len(raw) - len(good))
    assert row["blocks_left_out"] > 0


def test_the_sensors_own_uncertainty_does_not_shrink_with_more_blocks(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "many", ("fp32",))
    synthetic.measure(run, ("fp32",), {"cpu": 30.0}, batches=(1,), rounds=60, traces=False)
    row = tables.energy(run).iloc[0]
    half = (row["energy_high_j"] - row["energy_low_j"]) / 2
    assert half >= 0.005 * row["energy_j"] * 0.999


def test_net_energy_carries_the_idle_powers_interval(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "idle", ("fp32",))
    synthetic.measure(run, ("fp32",), {"cpu": 30.0}, batches=(1,), traces=False)
    before = tables.energy(run).iloc[0]
    rows = run.measurements.assign(idle_power_low_w=5.0, idle_power_high_w=13.0)
    run.put("measurements", rows.to_dict("records"))
    after = tables.energy(run).iloc[0]
    width = 4.0 * (rows["duration_s"] / rows["inferences"]).mean()
    assert after["net_energy_high_j"] - after["net_energy_j"] >= width
    assert after["energy_high_j"] == before["energy_high_j"]


def test_a_block_that_only_its_sensor_spoiled_still_counts_for_latency(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "spoiled", ("fp32",))
    synthetic.measure(run, ("fp32",), {"cpu": 30.0}, batches=(1,), traces=False)
    rows = run.measurements
    rows["valid"] = False
    rows["invalid_reason"] = ["sensor: too short"] * 4 + ["the package throttled"] * 2
    run.put("measurements", rows.to_dict("records"))
    assert tables.latency(run)["blocks"].tolist() == [4]
    assert tables.energy(run)["energy_j"].isna().all()


def test_the_total_stands_for_its_parts(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "total", ("fp32",))
    synthetic.measure(
        run, ("fp32",), {"cpu-package-0": 30.0, "total": 33.0}, batches=(1,), traces=False
    )
    assert set(tables.main_domains(run).values()) == {"total"}


def test_without_a_total_the_largest_domain_stands_for_the_rest(counters):
    assert set(tables.main_domains(counters).values()) == {"cpu-package-0"}


def test_traces_say_which_blocks_were_left_out(counters):
    frame = tables.traces(counters)
    refused = frame[frame["valid"].eq(False)]
    assert set(refused["variant"]) == {"ttq"}
    assert frame.loc[frame["block"] == -1, "valid"].isna().all()


def test_a_machine_without_sensors_gives_latency_and_no_energy(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "none", ("fp32", "ttq"))
    synthetic.measure(run, ("fp32", "ttq"), {"none": 1.0}, "timed", "", (1,), traces=False)
    rows = run.measurements.assign(energy_j=None, net_energy_j=None)
    run.put("measurements", rows.to_dict("records"))
    assert tables.energy(run).empty
    assert len(tables.latency(run)) == 2


# -- trained -------------------------------------------------------------------------------------


def test_one_seed_keeps_wilsons_interval(interrupted):
    chosen = interrupted.training[interrupted.training["selected"]]
    rows = tables.accuracy(interrupted)
    assert rows["accuracy_low"].tolist() == pytest.approx(chosen["accuracy_low"].tolist())
    assert rows["accuracy_high"].tolist() == pytest.approx(chosen["accuracy_high"].tolist())


def test_more_seeds_never_narrow_the_test_sets_share(counters):
    chosen = counters.training[counters.training["selected"]]
    widths = chosen.groupby("variant")[["accuracy_low", "accuracy_high"]].mean()
    for row in tables.accuracy(counters).itertuples():
        assert row.seeds == 3
        assert row.accuracy_high - row.accuracy_low >= (
            widths.loc[row.variant, "accuracy_high"] - widths.loc[row.variant, "accuracy_low"]
        )


def test_no_variant_is_given_the_accuracy_of_another(counters):
    assert set(tables.accuracy(counters)["variant"]) == {"fp32", "ttq", "twn"}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8, unique=True)
)
def test_the_pareto_front_is_what_nothing_beats(points):
    frame = pd.DataFrame(points, columns=["energy_j", "accuracy"])
    front = pareto_front(frame)
    for inside, (energy, right) in zip(front, points, strict=True):
        beaten = any(e <= energy and a >= right and (e, a) != (energy, right) for e, a in points)
        assert inside == (not beaten)


def test_break_even_is_training_energy_over_saving(counters):
    row = _pick(tables.training_cost(counters), variant="ttq").iloc[0]
    base = _pick(
        tables.energy(counters), variant="fp32", batch_size=1, domain="cpu-package-0"
    ).iloc[0]["energy_j"]
    ratio = _pick(
        counters.comparisons,
        variant="ttq",
        batch_size=1,
        quantity="gross_energy",
        domain="cpu-package-0",
    ).iloc[0]
    expected = row["energy_j"] / (base * (1 - ratio["ratio"]))
    assert row["break_even_inferences"] == pytest.approx(expected)
    assert row["break_even_low"] < expected < row["break_even_high"]


def test_there_is_no_break_even_between_different_provenances(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "mixed", ("fp32", "ttq"))
    synthetic.train(run, ("fp32", "ttq"), provenance="modelled")
    synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, "counter", traces=False)
    row = _pick(tables.training_cost(run), variant="ttq").iloc[0]
    assert math.isnan(row["break_even_inferences"])
    assert "modelled" in row["why_not"]


def test_there_is_no_break_even_without_an_established_saving(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "undecided", ("fp32", "ttq"))
    synthetic.train(run, ("fp32", "ttq"))
    synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, traces=False)
    run.put(
        "comparisons",
        run.comparisons.assign(ratio_high=1.01, verdict="undecided").to_dict("records"),
    )
    row = _pick(tables.training_cost(run), variant="ttq").iloc[0]
    assert math.isnan(row["break_even_inferences"])
    assert "no saving is established" in row["why_not"]


def test_an_ablation_needs_two_quantizers(interrupted, ablation):
    assert tables.ablation(interrupted).empty
    table = tables.ablation(ablation)
    assert _pick(table, variant="ttq-fixed")["quantizer"].item() == (
        "TTQ(threshold=0.05, learn_scales=false)"
    )


# -- estimated -----------------------------------------------------------------------------------

_energies = st.lists(st.floats(0.0, 10.0), min_size=4, max_size=4)


@given(_energies, _energies, st.integers(0, 2**32 - 1))
def test_no_draw_of_the_coefficients_leaves_the_ratios_range(ours, theirs, seed):
    names = ["arithmetic", "dram", "buffer", "decode"]
    spread = np.array([1.4, 1.6, 1.3, 2.0])
    v, b = np.array(ours), np.array(theirs) + 0.1
    low, high = ratio_range(*(_parts(names, x, spread) for x in (v, b)))
    rng = np.random.default_rng(seed)
    for _ in range(20):
        shared = spread ** rng.uniform(-1, 1, 4)
        own = spread ** rng.uniform(-1, 1, 4)
        alone = np.array([True, False, False, True])
        ratio = (v * shared).sum() / (b * np.where(alone, own, shared)).sum()
        assert low * (1 - 1e-9) <= ratio <= high * (1 + 1e-9)


def _parts(names, values, spread):
    frame = pd.DataFrame(
        {
            "energy_j": values,
            "energy_low_j": values / spread,
            "energy_high_j": values * spread,
        },
        index=names,
    )
    return frame


def test_the_same_memory_traffic_has_the_ratio_one_whatever_the_coefficients():
    parts = _parts(["dram", "buffer"], np.array([3.0, 1.0]), np.array([2.0, 1.5]))
    assert ratio_range(parts, parts) == pytest.approx((1.0, 1.0))


def test_the_energy_models_own_ratios_take_precedence(synthetic, tmp_path):
    run = synthetic.estimates_run(tmp_path / "r")
    entry = {"model": "resnet20", "target": "eyeriss-v1", "variant": "ttq", "ratio": 0.23}
    run.update(estimate_ratios=[{**entry, "ratio_low": 0.2, "ratio_high": 0.26}])
    row = _pick(tables.estimate_totals(run), target="eyeriss-v1", variant="ttq").iloc[0]
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (0.23, 0.2, 0.26)


def test_reasons_add_up_to_the_change(estimates):
    row = _pick(tables.estimate_totals(estimates), target="eyeriss-v1", variant="ttq").iloc[0]
    parts = [p.rsplit(" ", 2)[-2] for p in row["reason"].split(", ")]
    change = sum(float(p.replace("−", "-")) for p in parts)
    assert change == pytest.approx(100 * (row["ratio"] - 1), abs=1.5)


def test_unsupported_layers_are_counted_apart_not_as_zero(synthetic, tmp_path):
    run = synthetic.estimates_run(tmp_path / "r")
    rows = run.layers.to_dict("records")
    rows[0].update(supported=False, macs=None, multiplies=None, adds=None)
    run.put("layers", rows)
    totals = tables.layer_totals(run)
    assert _pick(totals, variant="fp32")["unsupported_layers"].item() == 1


def test_measured_and_modelled_rows_stay_apart(counters):
    frame = tables.measured_and_modelled(counters)
    assert set(frame.loc[frame["batch_size"] > 0, "provenance"]) == {"counter"}
    assert set(frame.loc[frame["batch_size"] == 0, "provenance"]) == {"modelled"}


# -- carbon --------------------------------------------------------------------------------------


def test_carbon_is_energy_times_codecarbons_factor(counters):
    factor = country_factor("fra")
    row = tables.carbon(counters, "FRA").iloc[0]
    assert row["carbon_g"] == pytest.approx(row["energy_j"] * 1e6 / 3.6e6 * factor.g_per_kwh)


def test_an_unknown_country_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="'FRA'"):
        country_factor("FRAN")
    with pytest.raises(InputError, match="did you mean 'DEU'"):
        country_factor("Germany")


# -- several runs --------------------------------------------------------------------------------


def test_runs_are_aligned_within_one_provenance_only(counters, modelled):
    table = tables.across_runs([counters, modelled])
    energies = _pick(table, quantity="gross_energy", variant="ttq", batch_size=1)
    assert sorted(energies["provenance"]) == ["counter", "modelled"]
    assert energies["runs"].tolist() == [1, 1]
    latency = _pick(table, quantity="latency", variant="ttq", batch_size=1)
    assert latency["runs"].tolist() == [2]


def test_runs_in_folders_of_the_same_name_are_told_apart(synthetic, tmp_path):
    runs = [synthetic.estimates_run(tmp_path / host / "run") for host in ("a", "b")]
    assert run_names(runs) == ["a/run", "b/run"]
    assert set(tables.estimate_totals(runs)["run"]) == {"a/run", "b/run"}


def test_every_table_of_an_empty_run_is_empty(synthetic, tmp_path):
    run = load_run(synthetic.begin(tmp_path / "r", "empty", ()).folder)
    for name in ("energy", "latency", "accuracy", "training_cost", "ablation", "estimate_totals"):
        assert getattr(tables, name)(run).empty


def test_how_a_targets_figures_are_known_reaches_the_report(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "known", ("fp32", "ttq"))
    figure = {"value": 4.0, "low": 2.0, "high": 8.0, "source": "JSSC 2017"}
    run.update(
        targets={
            "chip": {
                "zero_weight": "none",
                "figures": {
                    "static_w": {**figure, "evidence": "assumption"},
                    "clock_hz": {**figure, "evidence": "published"},
                },
            },
            "older": {"zero_weight": "skip"},
        }
    )
    frame = tables.target_figures(run)
    assert list(frame["target"]) == ["chip", "chip"]
    assert list(frame["evidence"]) == ["assumption", "published"]
    view = _how_figures_are_known(run)
    assert view.data.equals(frame), "exported whole"
    shown = {column.header: column.cells[0] for column in view.columns}
    assert shown["its figures"] == "1 assumption, 1 published"
    assert shown["assumed, recalled or not stated"] == "static_w"


def test_a_run_that_tells_no_figures_is_still_read(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "older", ("fp32",))
    for targets in ({"chip": {"zero_weight": "none"}}, {"chip": "a chip"}, ["chip"], None):
        run.update(targets=targets)
        assert tables.target_figures(run).empty
        assert _how_figures_are_known(run) is None
