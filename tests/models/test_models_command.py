"""``ttq-energy models`` lists quickly, and shows one network with its options."""

import subprocess
import sys

import pytest

from ttq_energy import models
from ttq_energy.cli import main


def test_the_list_holds_every_network_with_its_parameters(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for info in models.available():
        (line,) = [text for text in lines if text.startswith(f"{info.name} ")]
        assert f"{info.parameters:,}" in line
    assert "timm:NAME" in lines[-1]


def test_piped_output_is_aligned(capsys):
    main(["models"])
    lines = capsys.readouterr().out.splitlines()[:-1]
    ends = {
        line.index(f"{info.parameters:,}") + len(f"{info.parameters:,}")
        for line, info in zip(lines[1:], models.available(), strict=True)
    }
    assert len(ends) == 1


def test_one_network_with_its_options(capsys):
    assert main(["models", "resnet20"]) == 0
    text = capsys.readouterr().out
    assert "269,722" in text
    assert "1512.03385" in text
    assert "shortcut" in text


def test_a_network_of_the_users(capsys):
    assert main(["models", "torch.nn:Identity"]) == 0
    text = capsys.readouterr().out
    assert "Identity" in text
    assert "define example_input(batch_size)" in text


@pytest.mark.parametrize("name", ["resnet2O", "no_such_module:net"])
def test_an_unknown_name_is_one_line_and_exit_2(capsys, name):
    assert main(["models", name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_the_list_loads_no_torch():
    script = (
        "import sys; from ttq_energy.cli import main; main(['models']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
