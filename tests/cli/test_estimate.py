"""``ttq-energy estimate`` as a user meets it."""

import csv

import pytest

from ttq_energy.cli import main

QUICK = ["estimate", "resnet20", "--target", "generic-45nm"]


def test_it_prints_totals_then_why(capsys):
    assert main([*QUICK, "--variant", "ttq", "--batch-size", "4"]) == 0
    out = capsys.readouterr().out
    for words in (
        "batch size 4",
        "All figures are modelled",
        "ttq / fp32: energy 0.",
        "removed multipliers",
        "weight traffic",
        "Break-even sparsity",
        "Break-even activation width",
        "generic-45nm can use ternary weights",
        "Against int8 weights and activations",
    ):
        assert words in out


def test_set_changes_the_target(capsys):
    main([*QUICK, "--variant", "ttq", "--sparsity", "0.5", "--set", "zeros.weight=none"])
    none = capsys.readouterr().out
    assert "    0.0%  skipped or gated zeros" in none


def test_layers_and_input_shape(capsys):
    assert main([*QUICK, "--input-shape", "3,16,16", "--layers"]) == 0
    out = capsys.readouterr().out
    assert "energy_high_j" in out
    assert "conv" in out


def test_a_sweep_gives_a_table_and_a_plot(tmp_path, capsys):
    sweep = ["--sweep", "sparsity=0:0.9:0.3", "--sweep", "activation_bits=8,32"]
    arguments = [*QUICK, "--variant", "ttq", *sweep]
    assert main([*arguments, "--out", str(tmp_path / "s.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert len(rows) == 8
    assert {r["provenance"] for r in rows} == {"modelled"}
    ratios = [float(r["ratio"]) for r in rows if r["activation_bits"] == "32"]
    assert ratios == sorted(ratios, reverse=True)
    assert main([*arguments, "--out", str(tmp_path / "s.svg")]) == 0
    assert "<svg" in (tmp_path / "s.svg").read_text()
    capsys.readouterr()
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "all figures are modelled" in shown
    assert "ratio_low  ratio_high" in shown


def test_a_checkpoint_of_the_variant_brings_its_own_zeros(tmp_path, capsys):
    import ttq_energy as te
    from ttq_energy.training import save_weights

    model = te.models.build("resnet20")
    save_weights(tmp_path / "dense.safetensors", model)
    te.prepare_(model, te.TTQ(sparsity=0.9), example_input=te.models.example_input("resnet20"))
    save_weights(tmp_path / "ttq.safetensors", model)
    for name in ("dense", "ttq"):
        file = str(tmp_path / f"{name}.safetensors")
        assert main([*QUICK, "--variant", "ttq", "--checkpoint", file]) == 0
    assert "Break-even" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["estimate", "resnet2", "--target", "eie"], "did you mean 'resnet20'"),
        (["estimate", "resnet20", "--target", "eyeris"], "did you mean 'eyeriss-v1'"),
        ([*QUICK, "--variant", "tqt"], "did you mean 'ttq'"),
        ([*QUICK, "--batch-size", "0"], "--batch-size: must be from 1"),
        ([*QUICK, "--set", "clock_hz"], "expected KEY=VALUE"),
        ([*QUICK, "--set", "clok_hz=1"], "did you mean 'clock_hz'"),
        ([*QUICK, "--sweep", "sparsity=1:0:0.1"], "expected A <= B"),
        ([*QUICK, "--sweep", "sparsity"], "expected KEY=A:B:STEP"),
        ([*QUICK, "--input-shape", "3,x"], "expected whole numbers"),
        ([*QUICK, "--checkpoint", "nowhere.safetensors"], "no such checkpoint"),
        ([*QUICK, "--activation-zeros", "2"], "expected a fraction"),
        ([*QUICK, "--sparsity", "0.5"], "needs a ternary variant"),
        ([*QUICK, "--out", "x.csv"], "goes with --sweep"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("size", ["0", "-1", "1048577", "99999999999999"])
def test_a_batch_size_out_of_range_is_told_in_one_line(capsys, size):
    assert main([*QUICK, "--variant", "ttq", "--batch-size", size]) == 2
    said = capsys.readouterr().err
    assert "--batch-size: must be from 1 to 1048576" in said
    assert said.count("\n") == 1
    assert main([*QUICK, "--sweep", f"batch_size={size}"]) == 2
    assert "batch_size: expected a whole number from 1 to 1048576" in capsys.readouterr().err
