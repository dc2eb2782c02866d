"""``ttq-energy report``: formats, several runs, and what it refuses."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from ttq_energy.cli import main

_SYNTHETIC = Path(__file__).parents[1] / "reporting" / "synthetic.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("synthetic_for_cli", _SYNTHETIC)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ablation_run(tmp_path_factory.mktemp("cli") / "ablation")


def test_a_report_is_written_into_the_run(run, capsys):
    assert main(["report", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert (run.folder / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert "reaches an accuracy of" in out
    assert f"Wrote {run.folder / 'report.pdf'}" in out


def test_tables_go_to_the_folder_asked_for(run, tmp_path, capsys):
    assert main(["report", str(run.folder), "--format", "csv", "--out", str(tmp_path / "t")]) == 0
    assert (tmp_path / "t" / "accuracy.csv").exists()


def test_several_runs_are_written_where_one_stands(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(run.folder, tmp_path / "other")
    assert main(["report", str(run.folder), str(other), "--format", "html"]) == 0
    assert "2 runs compared" in (tmp_path / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "nowhere: no such run folder"),
        (["report", "{run}", "--format", "pfd"], "unknown value 'pfd'; did you mean 'pdf'?"),
        (["report", "{run}", "--country", "Frace"], "did you mean 'FRA'"),
        (["report", "{run}", "--out", "no/such/place.pdf"], "no such folder"),
        (["report", "{run}", "--format", "csv", "--pdf-a"], "only for the format pdf"),
        (["report"], "RUN"),
    ],
)
def test_wrong_input_is_one_line_and_exit_two(run, arguments, message, capsys):
    filled = [argument.replace("{run}", str(run.folder)) for argument in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_format_is_told_from_the_name_and_must_not_contradict_it(run, tmp_path, capsys):
    assert main(["report", str(run.folder), "--out", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").read_text().startswith("<!")
    assert main(["report", str(run.folder), "--format", "html", "--out", "r.pdf"]) == 2
    assert "the name says pdf, --format says html" in capsys.readouterr().err
