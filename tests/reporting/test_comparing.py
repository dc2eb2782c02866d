"""Several runs in one report: aligned, named, and never mixed."""

from __future__ import annotations

import pytest

from ttq_energy.errors import InputError
from ttq_energy.reporting import render, tables
from ttq_energy.reporting.build import build_report


@pytest.fixture(scope="module")
def server(synthetic, folder):
    run = synthetic.counters_run(folder / "server", speed=0.4)
    network = {"parameters": 1, "dataset": "cifar10", "examples": 10000}
    run.update(models={"resnet20": network}, environment={"machine": {"cpu": "Another CPU"}})
    return run


@pytest.fixture(scope="module")
def report(counters, modelled, server):
    return build_report([counters, modelled, server], "FRA")


def test_every_part_of_a_single_report_that_can_be_aligned_is_there(report):
    keys = [section.key for section in report.sections]
    assert keys == [
        "runs", "side-by-side", "accuracy", "energy-latency", "power", "training", "layers",
        "estimates", "carbon", "left-out",
    ]  # fmt: skip
    figures = {figure.name for figure in report.figures}
    assert {"runs-gross_energy-counter", "accuracy-energy-resnet20-counter"} <= figures
    assert "layers-resnet20" in figures


def test_no_figure_and_no_aligned_row_has_two_provenances(report):
    for figure in report.figures:
        frame = figure.draw.args[0]
        if "provenance" in frame:
            assert frame["provenance"].nunique() == 1, figure.name
    (aligned,) = [view.data for view in report.tables if view.name == "across_runs"]
    assert not aligned.duplicated(["batch_size", "quantity", "variant", "provenance"]).any()


def test_machines_are_named_and_networks_that_differ_are_told(report):
    (runs,) = [view.data for view in report.tables if view.name == "runs"]
    assert list(runs["device"]) == ["Example 9 CPU", "Example 9 CPU", "Another CPU"]
    told = " ".join(report.front.notices)
    assert "resnet20 is not the same network in every run" in told
    assert "cifar10" in told


def test_mean_power_is_energy_over_time_of_the_valid_blocks(counters):
    power = tables.mean_power(counters)
    assert (power["power_w"] - 31.0).abs().max() < 1.5
    assert (power["power_low_w"] < power["power_w"]).all()
    assert set(power["domain"]) == {"cpu-package-0"}


def test_one_run_given_twice_is_refused(counters, tmp_path):
    with pytest.raises(InputError, match="given twice"):
        render([counters, counters], "csv", tmp_path / "t")
    assert list(tmp_path.iterdir()) == []
