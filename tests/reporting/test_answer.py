"""The first page says what was found, by rule, and never more than was measured."""

from __future__ import annotations

import re

import pytest

from ttq_energy.reporting.answer import FROM_LOAD, answer, headline, notices, sensor_notice
from ttq_energy.reporting.build import build_report
from ttq_energy.reporting.document import Code, FigureView, TableView
from ttq_energy.reporting.front import front
from ttq_energy.reporting.sections.about import said_once


def test_a_measured_saving_is_told_with_interval_provenance_and_accuracy(counters):
    sentence = answer(counters)
    assert "**0.820 [0.799, 0.840]** times the energy of `fp32`" in sentence
    assert "(counter, cpu-package-0, gross): it **saves** energy" in sentence
    assert re.search(r"accuracy of 96\.\d \[.*\] % against 97\.\d", sentence)
    assert notices(counters) == []


def test_the_headline_is_chosen_by_rule_not_by_outcome(counters):
    row = headline(counters).row
    assert (row["variant"], row["batch_size"], row["quantity"]) == ("ttq", 1, "gross_energy")
    cheapest = counters.comparisons.loc[counters.comparisons["ratio"].idxmin(), "variant"]
    assert cheapest != "ttq"


def test_what_other_variants_reach_stands_beside_the_answer(counters):
    beside = next(b for b in front(counters).blocks if isinstance(b, str))
    assert "`ttq-int8` takes the least energy" in beside
    assert "without ternary weights `int8`" in beside


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [(1.02, 1.1, "costs", "it **costs** energy"), (0.95, 1.05, "undecided", "**undecided**")],
)
def test_costs_and_doubt_are_said_as_plainly(synthetic, tmp_path, low, high, verdict, words):
    run = synthetic.begin(tmp_path / "r", "costly", ("fp32", "ttq"))
    synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, traces=False)
    changed = run.comparisons.assign(
        ratio=(low + high) / 2, ratio_low=low, ratio_high=high, verdict=verdict
    )
    run.put("comparisons", changed.to_dict("records"))
    assert words in answer(run)


def test_without_a_sensor_the_first_page_says_so_in_one_sentence(modelled):
    (sentence,) = notices(modelled)
    assert sentence.startswith("**No energy sensor was readable**")
    assert "rapl (/sys/class/powercap/intel-rapl:0/energy_uj is readable by root only" in sentence
    assert "`sudo chmod -R a+r /sys/class/powercap/intel-rapl*`" in sentence
    assert "nvml (no NVIDIA driver is loaded)" in sentence
    assert sentence.count(". ") == 0


def test_without_a_sensor_only_time_is_claimed(modelled):
    page = front(modelled)
    assert "times the time of `fp32` per inference (timed): it is **faster**" in page.answer
    assert "what it saves in joules was not measured" in page.answer
    assert page.verdict == "faster"


def test_a_modelled_figure_never_saves_and_is_never_measured(modelled):
    report = build_report(modelled)
    for view in report.tables:
        texts = [" ".join(row) for row in view.rows]
        assert not any("modelled" in text and re.search(r"\bsaves\b", text) for text in texts)
    for block in report.blocks():
        caption = block.caption if isinstance(block, (TableView, FigureView)) else block
        if isinstance(caption, Code) or "energy" not in str(caption).lower():
            continue
        assert "measured energy" not in str(caption).lower()
        assert "measured saving" not in str(caption).lower()


def test_an_interrupted_run_says_so_first(interrupted):
    first = notices(interrupted)[0]
    assert first.startswith("**This run was interrupted**")
    assert "train and measure" in first


def test_estimates_alone_are_called_modelled(estimates):
    sentence = answer(estimates)
    assert "is modelled to take" in sentence
    assert sentence.endswith("nothing was measured.")
    assert sensor_notice(estimates) == ""


def test_training_alone_answers_with_accuracy(ablation):
    sentence = answer(ablation)
    assert "`ttq` reaches an accuracy of" in sentence
    assert "no energy was measured or estimated" in sentence


def test_blocks_that_were_all_refused_are_not_passed_over(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "loaded", ("fp32", "ttq"), [synthetic.RAPL])
    synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, batches=(1,), rounds=3)
    synthetic.estimate(run, ("fp32", "ttq"))
    rows = run.measurements
    rows["valid"] = False
    rows["invalid_reason"] = [f"other load: {n / 7:.2f} cores busy" for n in range(len(rows))]
    run.put("measurements", rows.to_dict("records"))
    nothing = {"ratio": None, "ratio_low": None, "ratio_high": None, "verdict": "undecided"}
    run.put("comparisons", run.comparisons.assign(**nothing).to_dict("records"))
    assert "the 6 blocks measured here gave no comparison" in answer(run)
    section = next(s for s in build_report(run).sections if s.key == "left-out")
    (table,) = [b for b in section.blocks if isinstance(b, TableView)]
    assert table.data["blocks"].tolist() == [6]
    assert table.data["reason"].item().startswith("such as: other load")


def test_a_run_that_has_just_begun_gives_a_report(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "begun", ())
    run.update(models={}, variants={})
    report = build_report(run)
    assert report.front.notices[0].startswith("**This run is unfinished**")


def test_accuracy_tested_without_training_counts_as_accuracy_only(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "tested", ("fp32", "int8", "ttq"))
    synthetic.train(run, ("fp32", "ttq"))
    tested = {"model": "resnet20", "variant": "int8", "seed": 0, "epoch": 8, "examples": 360}
    right = {"accuracy": 0.97, "accuracy_low": 0.95, "accuracy_high": 0.98, "selected": True}
    run.append("training", [{**tested, **right}])
    sections = {section.key: section for section in build_report(run).sections}
    accuracy = next(b for b in sections["accuracy-energy"].blocks if isinstance(b, TableView))
    cost = next(b for b in sections["training"].blocks if isinstance(b, TableView))
    assert "int8" in accuracy.data["variant"].tolist()
    assert "int8" not in cost.data["variant"].tolist()
    assert "ablation" not in sections


def test_every_network_of_a_run_is_answered_for(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "two", ("fp32", "ttq"))
    run.update(models={"resnet20": {}, "vgg": {}})
    for model in ("resnet20", "vgg"):
        synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, traces=False, model=model)
    tables_ = [b for b in front(run).blocks if isinstance(b, TableView)]
    networks = next(view for view in tables_ if view.name == "networks")
    assert networks.data["model"].tolist() == ["resnet20", "vgg"]
    assert {view.name for view in build_report(run).tables} >= {"networks", "energy"}


def test_an_empty_run_says_that_nothing_is_there(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "empty", ())
    assert answer(run) == "Nothing has been measured, trained or estimated yet."


def test_a_comparison_that_could_not_be_resolved_is_not_the_headline(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "unresolved", ("fp32", "ttq"))
    synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, traces=False)
    frame = run.comparisons
    frame.loc[frame["quantity"] != "latency", ["ratio", "ratio_low", "ratio_high"]] = None
    run.put("comparisons", frame.to_dict("records"))
    assert headline(run).kind == "latency"
    assert front(run).answer


def test_modules_with_a_baseline_of_their_own_are_compared_with_it(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "modules", ())
    synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, traces=False)
    for table in ("measurements", "comparisons"):
        frame = run.tables[table].replace({"fp32": "dense", "ttq": "packed"})
        run.put(table, frame.to_dict("records"))
    assert "as `packed`" in answer(run)
    assert "of `dense` per inference" in answer(run)


def test_sections_without_data_are_absent(estimates, ablation, counters):
    keys = {
        name: [s.key for s in build_report(run).sections]
        for name, run in (("estimates", estimates), ("ablation", ablation), ("all", counters))
    }
    assert keys["estimates"] == ["machine", "layers", "estimates", "method"]
    assert keys["ablation"] == ["machine", "accuracy-energy", "training", "ablation", "method"]
    assert "carbon" not in keys["all"]
    assert [s.key for s in build_report(counters, "FRA").sections] == [
        "machine", "accuracy-energy", "energy-latency", "power", "training", "ablation",
        "layers", "estimates", "measured-modelled", "carbon", "left-out", "method",
    ]  # fmt: skip
    for run in (estimates, ablation, counters):
        assert all(section.blocks for section in build_report(run).sections)


def test_the_method_says_that_kernels_are_compared_too(synthetic, tmp_path):
    def told():
        section = next(s for s in build_report(run).sections if s.key == "method")
        return any(isinstance(b, str) and b.startswith("**Kernels.**") for b in section.blocks)

    run = synthetic.begin(tmp_path / "r", "kernels", ("fp32", "ttq"))
    assert not told()
    synthetic.measure(run, ("fp32", "ttq"), {"cpu": 30.0}, traces=False)
    assert told()
    alike = run.measurements.assign(kernel="torch fp32")
    run.put("measurements", alike.to_dict("records"))
    assert not told()


def test_what_was_left_out_is_told(counters):
    section = next(s for s in build_report(counters).sections if s.key == "left-out")
    assert "bf16 was left out: this CPU has no bf16 instructions" in section.blocks[0].items
    table = next(b for b in section.blocks if isinstance(b, TableView))
    assert "the package throttled" in table.rows[0]


def test_messages_that_say_the_same_are_said_once():
    assert said_once(["a: short blocks", "no colon", "b: short blocks", "a: not steady"]) == [
        "no colon",
        "a, b: short blocks",
        "a: not steady",
    ]


def test_messages_on_many_variants_name_their_network_and_target_once():
    wide = "layers are wider than eie computes"
    messages = [f"net {v} on eie: 20 of 20 {wide}" for v in ("ttq", "twn", "bwn")]
    messages += [f"net int8 on eie: 2 of 20 {wide}", "net, batch size 1: 3 of 9 blocks left out"]
    messages += ["net, batch size 64: 3 of 9 blocks left out"]
    assert said_once(messages) == [
        f"net ttq, twn, bwn on eie (20 of 20); net int8 on eie (2 of 20): {wide}",
        "net, batch size 1, 64: 3 of 9 blocks left out",
    ]
    crossed = [f"n{i} v{k} on t{j}: no" for i in range(3) for k in range(9) for j in range(5)]
    variants = ", ".join(f"v{k}" for k in range(9))
    assert said_once(crossed) == [f"n0, n1, n2 {variants} on t0, t1, t2, t3, t4: no"]
    apart = [f"n{i} of n{i}: no" for i in range(30)]
    assert said_once(apart)[0].endswith("n7 of n7 and 22 more: no")


def test_energies_from_codecarbons_load_are_said_to_follow_the_latency(modelled, counters):
    report = build_report(modelled)
    (summary,) = [view for view in report.tables if view.name == "summary"]
    assert FROM_LOAD in summary.note
    (section,) = [section for section in report.sections if section.key == "energy-latency"]
    assert FROM_LOAD in section.blocks
    measured = build_report(counters)
    assert not any(FROM_LOAD in view.note for view in measured.tables)
    assert not any(FROM_LOAD in section.blocks for section in measured.sections)
