"""``ttq-energy targets`` as a user meets it."""

from ttq_energy.cli import main


def test_the_list_and_one_target(capsys):
    assert main(["targets"]) == 0
    assert "eyeriss-v1" in capsys.readouterr().out
    assert main(["targets", "eyeriss-v1"]) == 0
    shown = capsys.readouterr().out
    assert "168 units" in shown
    assert "fitted once for the chip" in shown


def test_a_template_is_written_and_not_replaced_without_force(tmp_path, capsys):
    file = tmp_path / "chip.yaml"
    assert main(["targets", "new", str(file)]) == 0
    assert main(["targets", str(file)]) == 0
    assert "my-chip" in capsys.readouterr().out
    file.write_text("mine")
    assert main(["targets", "new", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main(["targets", "new", str(file), "--force"]) == 0
    assert file.read_text() != "mine"


def test_bad_input_is_one_line(tmp_path, capsys):
    for arguments, words in (
        (["targets", "new"], "expected the FILE"),
        (["targets", "new", str(tmp_path)], "is a directory"),
        (["targets", "new", str(tmp_path / "a" / "b.yaml")], "no such folder"),
        (["targets", "eye"], "unknown target"),
        (["targets", "eie", "x"], "only 'new' takes a file"),
        (["targets", "eie", "--force"], "goes with"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_the_claim_of_bitnet_is_shown_for_what_it_is(capsys):
    assert main(["targets", "--claims"]) == 0
    out = capsys.readouterr().out
    assert "71.4 times" in out
    assert "no memory" in out
    assert "16.7 times" in out
