"""The ablation's summary pairs by seed and ranks only what the seeds tell apart."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ttq_energy.errors import InputError
from ttq_energy.training.ablation import summarise


def table(**accuracies):
    rows = [
        {
            "model": "net",
            "variant": variant.replace("_", "-"),
            "seed": seed,
            "accuracy": value + shift,
            "selected": shift == 0.0,
            "zero_fraction": np.nan if variant == "fp32" else 0.5,
            "w_pos": np.nan if variant == "fp32" else 3.0,
            "w_neg": np.nan if variant == "fp32" else 2.0,
        }
        for variant, values in accuracies.items()
        for seed, value in enumerate(values)
        for shift in (-0.3, 0.0)
    ]
    return pd.DataFrame(rows)


BASE = np.array([0.90, 0.95, 0.88, 0.93, 0.91])
SMALL = np.array([0.001, -0.001, 0.0005, 0.0, 0.001])


def test_means_intervals_and_paired_differences_are_those_of_scipy():
    summary = summarise(table(fp32=BASE, ttq=BASE - 0.02 + SMALL)).set_index("variant")
    expected = stats.ttest_1samp(BASE, 0).confidence_interval(0.95)
    assert summary.loc["fp32", "accuracy"] == pytest.approx(BASE.mean())
    assert summary.loc["fp32", ["accuracy_low", "accuracy_high"]].tolist() == pytest.approx(
        list(expected)
    )
    paired = stats.ttest_1samp(SMALL - 0.02, 0).confidence_interval(0.95)
    assert summary.loc["ttq", ["versus_fp32_low", "versus_fp32_high"]].tolist() == pytest.approx(
        list(paired)
    )
    assert summary.loc["ttq", "verdict_fp32"] == "lower"
    assert summary.loc["fp32", "verdict_ttq"] == "higher"
    assert summary.loc["ttq", "scale_ratio"] == pytest.approx(1.5)
    assert np.isnan(summary.loc["fp32", "scale_ratio"])


def test_pairing_sees_what_the_spread_over_seeds_hides():
    summary = summarise(table(fp32=BASE, ttq=BASE - 0.005 + SMALL)).set_index("variant")
    assert summary.loc["ttq", "accuracy_high"] > summary.loc["fp32", "accuracy_low"]
    assert summary.loc["ttq", "verdict_fp32"] == "lower"


def test_nothing_is_ranked_where_the_interval_holds_zero():
    summary = summarise(table(fp32=BASE, ttq=BASE[::-1], twn=BASE + SMALL)).set_index("variant")
    assert set(summary["verdict_fp32"]) == {"", "undecided"}


def test_many_comparisons_need_stronger_evidence():
    slight = BASE + SMALL * 10 - 0.016
    few = summarise(table(fp32=BASE, ttq=slight)).set_index("variant")
    others = {f"other{i}": BASE for i in range(20)}
    many = summarise(table(fp32=BASE, ttq=slight, **others)).set_index("variant")
    assert few.loc["ttq", "verdict_fp32"] == "lower"
    assert many.loc["ttq", "verdict_fp32"] == "undecided"


def test_one_seed_says_nothing():
    summary = summarise(table(fp32=[0.9], ttq=[0.5])).set_index("variant")
    assert summary.loc["ttq", "verdict_fp32"] == "undecided"


def test_seeds_that_one_variant_lacks_are_left_out_of_the_pairs():
    summary = summarise(table(fp32=BASE, ttq=(BASE - 0.02 + SMALL)[:4])).set_index("variant")
    assert summary.loc["ttq", "versus_fp32"] == pytest.approx((SMALL[:4] - 0.02).mean())


def test_a_table_without_reported_epochs_is_refused():
    empty = table(fp32=BASE).assign(selected=False)
    with pytest.raises(InputError, match="no epoch"):
        summarise(empty)
