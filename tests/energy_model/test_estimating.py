"""Estimates: they add up, they answer to what the target can do, and their ranges hold."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ttq_energy import models
from ttq_energy.energy_model import (
    compare_estimates,
    count,
    estimate,
    estimate_rows,
    explain,
    price_axes,
    sweep,
    targets,
)
from ttq_energy.energy_model.explaining import with_sparsity
from ttq_energy.energy_model.geometry import Geometry
from ttq_energy.energy_model.mapping import Widths, find_mapping, tile_sizes
from ttq_energy.energy_model.pricing import coefficients, setting, totals
from ttq_energy.energy_model.storage import SCHEMES, expected_bits, weight_storage
from ttq_energy.energy_model.workload import layers_of
from ttq_energy.errors import InputError
from ttq_energy.run import TABLES


@pytest.fixture(scope="module")
def resnet():
    model, x = models.build("resnet20"), models.example_input("resnet20", 1)
    return {
        "fp32": count(model, x),
        "int8": count(model, x, variant="int8"),
        "ttq": count(model, x, variant="ttq", sparsity=0.5),
    }


@pytest.mark.parametrize("name", targets.available())
def test_layers_components_and_total_add_up_on_every_target(resnet, name):
    result = estimate(resnet["ttq"], name)
    layers, parts = result.layers, result.components
    by_layer = parts.groupby("layer", sort=False)["energy_j"].sum()
    assert by_layer.to_numpy() == pytest.approx(layers.set_index("layer")["energy_j"].to_numpy())
    assert layers["energy_j"].sum() == pytest.approx(result.total.energy_j)
    assert layers["latency_s"].sum() == pytest.approx(result.total.latency_s)
    for table in (layers, parts):
        assert (table["energy_low_j"] <= table["energy_j"]).all()
        assert (table["energy_j"] <= table["energy_high_j"]).all()
    total = result.total
    assert 0 < total.energy_low_j < total.energy_j < total.energy_high_j
    assert layers["active_units"].max() <= result.target.units
    products = layers["macs"] > 0
    assert (layers.loc[products, "latency_s"] > 0).all()


@pytest.mark.parametrize("name", ["generic-45nm", "eyeriss-v1", "eie", "tpu-v1-like"])
def test_explanations_add_up(resnet, name):
    base, variant = estimate(resnet["fp32"], name), estimate(resnet["ttq"], name)
    found = explain(base, variant)
    saved = base.total.energy_j - variant.total.energy_j
    scale = base.total.energy_j
    assert sum(p.energy_j for p in found.savings) == pytest.approx(saved, abs=1e-9 * scale)
    assert sum(p.energy_j for p in found.remaining) == pytest.approx(variant.total.energy_j)


def test_a_target_without_ternary_support_is_told_so(resnet):
    found = explain(estimate(resnet["fp32"], "eyeriss-v1"), estimate(resnet["ttq"], "eyeriss-v1"))
    assert found.ratio.ratio == pytest.approx(1)
    assert found.ratio.verdict == "undecided"
    assert "cannot use ternary weights" in found.verdict
    assert found.break_even_activation_bits is None
    assert found.break_even_sparsity is None


def test_widths_that_pay_are_all_named_where_only_narrow_ones_do(resnet):
    found = explain(estimate(resnet["fp32"], "braintta"), estimate(resnet["ttq"], "braintta"))
    assert found.paying_activation_bits == (2,)
    assert found.break_even_activation_bits is None
    assert "with activations of 2 bits" in found.verdict


def test_narrow_weights_are_a_use_of_ternary_ones(resnet):
    found = explain(estimate(resnet["fp32"], "unpu"), estimate(resnet["ttq"], "unpu"))
    assert found.ratio.ratio < 1
    assert "can use ternary weights (it multiplies them as 2-bit weights)" in found.verdict


def test_gating_saves_energy_and_skipping_saves_cycles_too(resnet):
    results = {}
    for what in ("none", "gate", "skip"):
        target = targets.load("generic-45nm", {"zeros.weight": what})
        results[what] = estimate(resnet["ttq"], target).total
    assert results["gate"].energy_j < results["none"].energy_j
    assert results["gate"].latency_s == results["none"].latency_s
    assert results["skip"].latency_s < results["gate"].latency_s


def test_the_break_even_sparsity_is_where_energies_meet():
    """Where Wp and Wn cost 300 pJ an output, zeros among its 144 adds must make up for it."""
    layer = nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)])
    x = torch.randn(1, 16, 16, 16)
    free = {"levels.dram.read_pj": 0, "levels.buffer.read_pj": 0, "levels.registers.read_pj": 0}
    target = targets.load("generic-45nm", {"modes.ternary-fp32.scale_pj": 300, **free})
    base = estimate(count(layer, x), target)
    found = explain(base, estimate(count(layer, x, variant="ttq"), target))
    point = found.break_even_sparsity
    assert point is not None
    assert 0 < point < 1
    own = estimate(count(layer, x, variant="ttq"), target).prepared

    def ratio(sparsity):
        events = with_sparsity(own, sparsity).events()
        return float(totals(events, coefficients(own.target))) / base.total.energy_j

    assert ratio(point) == pytest.approx(1, abs=1e-3)
    assert ratio(point + 2e-4) < 1 < ratio(point - 2e-4)


def test_the_tile_search_misses_no_cheaper_tiling():
    """DRAM words against every whole number of filters, rows and channels at a time."""
    conv, x = nn.Conv2d(12, 20, 3, padding=1), torch.randn(1, 12, 9, 9)
    counts = count(conv, x)
    target = targets.load("generic-45nm", {"levels.buffer.size_bytes": 3000})
    layer = layers_of(counts, None)[0]
    own = setting(target, layer, 0.0, 0.0)
    g, widths = layer.geometry, own.widths
    found = find_mapping(g, target, widths, None)
    least = float("inf")
    for m, e, c in itertools.product(range(1, 21), range(1, 10), range(1, 13)):
        rows = min(e + 2, 9)
        bits = rows * 9 * c * widths.input + 9 * m * c * widths.weight
        if bits + m * e * 9 * widths.accumulator > 3000 * 8:
            continue
        tiles_e, tiles_m, tiles_c = -(-9 // e), -(-20 // m), -(-12 // c)
        again = tiles_e * rows / 9 if e < 9 else 1
        inputs, spill = g.inputs * again, 2 * g.outputs * (tiles_c - 1) * widths.accumulator
        once = tiles_c == 1
        least = min(
            least,
            g.weights * (1 if once and tiles_m == 1 else tiles_e) * widths.weight
            + inputs * (1 if once else tiles_m) * widths.dram_input,
            g.weights * tiles_e * widths.weight + inputs * widths.dram_input + spill,
            g.weights * widths.weight + inputs * tiles_m * widths.dram_input + spill,
        )
    moved = (
        found.dram_weight * widths.weight
        + found.dram_input * widths.dram_input
        + found.dram_partial * widths.accumulator
    )
    assert moved == pytest.approx(least)


def test_activation_zeros_gate_energy_on_eyeriss_but_not_time():
    layer, x = nn.Conv2d(32, 32, 3), torch.randn(1, 32, 16, 16)
    counts = count(layer, x)
    name = counts["layer"][0]
    full = estimate(counts, "eyeriss-v1", activation_zeros={name: 0.0})
    sparse = estimate(counts, "eyeriss-v1", activation_zeros={name: 0.8})

    def on_chip(result):
        parts = result.components.set_index("component")["energy_j"]
        return parts["arithmetic"]

    assert on_chip(sparse) == pytest.approx(0.2 * on_chip(full))
    assert sparse.layers["dram_bytes"][0] < full.layers["dram_bytes"][0]


def test_ratios_use_the_same_draws_for_both_sides(resnet):
    base = estimate(resnet["fp32"], "generic-7nm", seed=3)
    again = estimate(resnet["fp32"], "generic-7nm", seed=3)
    same = compare_estimates(base, again)
    assert (same.low, same.ratio, same.high, same.verdict) == (1, 1, 1, "undecided")
    ratio = compare_estimates(base, estimate(resnet["ttq"], "generic-7nm", seed=3))
    independent = (
        estimate(resnet["ttq"], "generic-7nm").total.energy_high_j / base.total.energy_low_j
    )
    assert ratio.low < ratio.ratio < ratio.high < independent
    assert ratio.verdict == "saves"
    with pytest.raises(InputError, match="same target"):
        compare_estimates(base, estimate(resnet["ttq"], "generic-45nm"))


def test_a_batch_spreads_weight_traffic(resnet):
    one = estimate(resnet["fp32"], "generic-45nm", batch_size=1).total
    many = estimate(resnet["fp32"], "generic-45nm", batch_size=32).total
    assert one.energy_j < many.energy_j < 32 * one.energy_j
    model = models.build("resnet20")
    counted = count(model, models.example_input("resnet20", 4))
    assert estimate(counted, "eyeriss-v1").total.energy_j == pytest.approx(
        estimate(resnet["fp32"], "eyeriss-v1", batch_size=4).total.energy_j
    )


def test_rows_of_a_run_are_of_one_inference(resnet):
    result = estimate(resnet["fp32"], "generic-45nm", batch_size=8)
    rows = estimate_rows("resnet20", "fp32", "generic-45nm", result)
    assert set(rows[0]) == set(TABLES["estimates"].names)
    assert sum(row["energy_j"] for row in rows) == pytest.approx(result.total.energy_j / 8)
    assert "dram" in {row["component"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation_zeros": {"conv": 0.5}}, "unknown layer 'conv'"),
        ({"activation_zeros": {"fc": 1.5}}, "from 0 to 1"),
        ({"batch_size": 0}, "from 1 to"),
        ({"samples": 1}, "at least 2"),
        ({"mapping": {"fc": {"m": 1}}}, "only row-stationary"),
    ],
)
def test_wrong_arguments_are_told(resnet, arguments, message):
    with pytest.raises(InputError, match=message):
        estimate(resnet["fp32"], "generic-45nm", **arguments)


@given(st.integers(1, 5000))
def test_tile_sizes_give_every_number_of_tiles_once(extent):
    sizes = tile_sizes(extent)
    numbers = [-(-extent // int(s)) for s in sizes]
    assert len(set(numbers)) == len(numbers)
    wanted = {-(-extent // size) for size in range(1, extent + 1)}
    assert set(numbers) == wanted


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 4),
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    kernel=st.sampled_from([1, 3, 5]),
    size=st.integers(1, 30),
    name=st.sampled_from(["eyeriss-v1", "generic-45nm", "tpu-v1-like", "a100-like"]),
)
def test_no_mapping_moves_less_than_each_tensor_once_or_computes_faster_than_its_units(
    batch, channels, filters, kernel, size, name
):
    target = targets.load(name)
    pad = size + kernel - 1
    g = Geometry(batch, 1, channels, filters, kernel, kernel, kernel, kernel, 1, 1, pad, pad)
    g = Geometry(**{**vars(g), "out_h": size, "out_w": size})
    found = find_mapping(g, target, Widths(16, 16, 16, 16, 16, 16), None)
    assert found.dram_weight >= g.weights
    assert found.dram_input >= g.inputs * (1 - 1e-9)
    assert found.dram_output >= g.outputs
    assert found.cycles * target.units >= g.macs * (1 - 1e-9)
    assert found.active_units <= target.units


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 99),
    scheme=st.sampled_from(sorted(SCHEMES)),
)
def test_no_scheme_beats_the_entropy_bound(rows, columns, zeros, seed, scheme):
    rng = np.random.default_rng(seed)
    codes = rng.choice(
        [-1, 0, 1], size=(rows, columns), p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2]
    )
    stored = weight_storage(codes, scheme, index_bits=4)
    bound = weight_storage(codes, "entropy").bits
    # A run-length row leaves out its last zeros, and so may pass below the bound of its symbols.
    if scheme not in ("run-length", "csr"):
        assert stored.bits >= bound - 1e-9
    assert stored.bits_per_weight == pytest.approx(stored.bits / codes.size)


def test_schemes_by_hand():
    codes = torch.tensor([[1, 0, 0, -1, 0, 0, 0, 0, 0, 1]])
    bits = {s: weight_storage(codes, s, index_bits=2).bits for s in SCHEMES if s != "entropy"}
    # Runs of 0, 2 and 5 zeros; 5 needs one padding entry of 4: four entries of 2 + 1 bit.
    assert bits == {
        "2bit": 20,
        "trits5": 16,
        "bitmap": 13,
        "run-length": 12,
        "csr": 3 * (4 + 1) + 2 * 32,
    }
    with pytest.raises(InputError, match="did you mean '2bit'"):
        weight_storage(codes, "2bits")
    with pytest.raises(InputError, match="expected values"):
        weight_storage(codes * 2, "2bit")


@pytest.mark.parametrize("scheme", ["2bit", "trits5", "bitmap", "run-length"])
@pytest.mark.parametrize("zeros", [0.3, 0.9, 0.97])
def test_expected_storage_is_that_of_random_codes(scheme, zeros):
    rng = np.random.default_rng(0)
    codes = rng.choice([-1, 0, 1], size=(500, 64), p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2])
    real = float((codes == 0).mean())
    expected = float(expected_bits(scheme, real, run=64))
    assert weight_storage(codes, scheme).bits_per_weight == pytest.approx(expected, rel=0.04)


def test_skipping_waits_as_a_simulated_queue_does():
    """EIE's 64 queues of 8, simulated entry by entry, against the closed form."""
    from ttq_energy.energy_model.estimating import prepare

    rows, columns, density, units, depth = 16, 3000, 0.25, 64, 8
    rng = np.random.default_rng(0)
    work = rng.binomial(rows, density, size=(columns, units))
    done = np.zeros((columns, units))
    sent = 0.0
    for column in range(columns):
        if column >= depth:
            sent = max(sent, done[column - depth].max())
        before = done[column - 1] if column else np.zeros(units)
        done[column] = np.maximum(before, sent) + work[column]
    simulated = done[-1].max() / work.mean(axis=1).sum()
    layer = nn.Linear(columns, rows * units, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.rand_like(layer.weight) < density)
    pricer = prepare(count(layer, torch.ones(1, columns)), "eie").pricer
    assert pricer._imbalance(np.array([1 - density]))[0] == pytest.approx(simulated, rel=0.1)


def test_sweeps_agree_with_single_estimates(resnet):
    table = sweep(
        resnet["fp32"],
        resnet["ttq"],
        "generic-45nm",
        {
            "sparsity": [0.0, 0.5],
            "activation_bits": [8, 32],
            "levels.dram.read_pj": [100.0, 1300.0],
        },
    )
    assert len(table) == 8
    point = table[
        (table["sparsity"] == 0.5)
        & (table["activation_bits"] == 32)
        & (table["levels.dram.read_pj"] == 100)
    ].iloc[0]
    target = targets.load("generic-45nm", {"levels.dram.read_pj": 100})
    ttq = estimate(resnet["ttq"], target)
    assert point["variant_j"] == pytest.approx(ttq.total.energy_j, rel=0.01)
    assert point["ratio"] == pytest.approx(point["variant_j"] / point["baseline_j"])


PRICES = {
    "levels.dram.read_pj": [700.0, 100.0, 1300.0, 250.0],
    "modes.fp32.multiply_pj": [3.7, 1.0, 8.0, 2.0],
    "static_w": [0.0, 0.001, 0.002, 0.005],
}


@pytest.mark.parametrize(
    "axes",
    [
        PRICES,
        {"sparsity": [0.2, 0.8], "levels.dram.read_pj": [50, 75, 100, 400, 1300]},
        {"clock_hz": [1e9, 2e9], "modes.fp32.add_pj": [0.1, 0.5, 0.9, 2.0]},
        {"clock_hz": [1e9, 1.5e9, 2e9, 3e9], "batch_size": [1, 2]},
    ],
    ids=str,
)
def test_prices_swept_together_are_those_of_targets_read_one_by_one(resnet, axes, monkeypatch):
    sides = resnet["fp32"], resnet["ttq"], "generic-45nm", axes
    together = sweep(*sides)
    monkeypatch.setattr(price_axes, "FEWEST", 10**9)
    alone = sweep(*sides)
    pd.testing.assert_frame_equal(together, alone, rtol=1e-9)
    assert len(together) == math.prod(len(values) for values in axes.values())
    assert together["ratio"].iloc[0] != together["ratio"].iloc[-1]


def test_a_sweep_tells_how_far_its_kept_mapping_is_from_one_of_its_own(resnet):
    sides = resnet["fp32"], resnet["ttq"], "eyeriss-v1"
    table = sweep(*sides, {"levels.dram.read_pj": [200.0, 1.0, 50.0, 5000.0]})
    off = 0.0
    for _, point in table.iloc[[0, -1]].iterrows():
        target = targets.load(sides[2], {"levels.dram.read_pj": point["levels.dram.read_pj"]})
        own = compare_estimates(*(estimate(side, target) for side in sides[:2])).ratio
        off = max(off, abs(own / point["ratio"] - 1))
    assert table.attrs["ratio_off_by"] == pytest.approx(off, rel=1e-6, abs=1e-12)


def test_a_sweeps_ranges_are_those_of_paired_draws(resnet):
    keys = {"batch_size": [1, 4], "modes.fp32.multiply_pj": [3.7]}
    table = sweep(resnet["fp32"], resnet["ttq"], "generic-45nm", keys)
    target = targets.load("generic-45nm", {"modes.fp32.multiply_pj": 3.7})
    for _, point in table.iterrows():
        size = int(point["batch_size"])
        done = [estimate(resnet[k], target, batch_size=size) for k in ("fp32", "ttq")]
        expected = compare_estimates(*done)
        found = (point["ratio"], point["ratio_low"], point["ratio_high"])
        assert found == pytest.approx((expected.ratio, expected.low, expected.high), rel=1e-9)
        assert point["ratio_low"] < point["ratio"] < point["ratio_high"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "at least one key"),
        ({"sparsity": [1.0]}, "below 1"),
        ({"sparsty": [0.5]}, "did you mean 'sparsity'"),
        ({"activation_bits": [2.5]}, "whole number"),
        ({"levels.dram.read_pj": [-1.0]}, "must be"),
    ],
)
def test_wrong_sweeps_are_told(resnet, axes, message):
    with pytest.raises(InputError, match=message):
        sweep(resnet["fp32"], resnet["ttq"], "generic-45nm", axes)


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda counts: estimate(counts[:0]), "counts: expected at least one layer"),
        (lambda counts: estimate(3), r"counts: expected count\(\)'s table, got int"),
        (lambda counts: estimate(counts, target=None), "target: expected a name"),
        (lambda counts: estimate(counts, batch_size=10**14), "whole number from 1 to 1048576"),
        (lambda counts: estimate(counts, batch_size=1.5), "whole number from 1 to 1048576"),
        (lambda counts: models.build(3), "model: expected a name such as 'resnet20', got 3"),
        (lambda counts: models.example_input(3), "model: expected a name"),
        (lambda counts: count(nn.Linear(2, 2), torch.ones(0, 2)), "got an empty batch"),
        (lambda counts: count(nn.Linear(2, 2), torch.ones(1, 2), sparsity="a"), "sparsity: exp"),
        (lambda counts: count(nn.LazyLinear(2), torch.ones(1, 2)), "not initialized yet"),
        (lambda counts: count(nn.Linear(2, 2), 3), "the model does not take it"),
    ],
)
def test_misuse_is_told_in_one_line(resnet, misuse, message):
    with pytest.raises(InputError, match=message) as raised:
        misuse(resnet["fp32"])
    assert "\n" not in str(raised.value)
