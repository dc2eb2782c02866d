"""Runs that are damaged, strange or simulated, and places that cannot be written."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess

import pandas as pd
import pytest

from ttq_energy.errors import InputError
from ttq_energy.reporting import plots, print_summary, render, summary_table, tables
from ttq_energy.reporting.build import build_report
from ttq_energy.reporting.document import Column, TableView
from ttq_energy.reporting.exporting import latex_table
from ttq_energy.run import load_run


@pytest.fixture
def small(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "run", "small", ("fp32", "ttq"), [synthetic.RAPL])
    synthetic.train(run, ("fp32", "ttq"), epochs=2)
    synthetic.measure(run, ("fp32", "ttq"), {"cpu-package-0": 30.0}, batches=(1,), rounds=3)
    run.update(status="complete")
    return run


def _damage(run, table, old, new):
    path = run.folder / table
    path.write_text(path.read_text().replace(old, new, 1))


# -- damaged -------------------------------------------------------------------------------------


def test_a_wrong_cell_is_named_by_line_and_column(small, tmp_path):
    _damage(small, "measurements.csv", "cpu,1,", "cpu,many,")
    with pytest.raises(InputError, match=r"line 2, column 'batch_size': .* got 'many'"):
        render(small, "csv", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_truncated_trace_is_refused_and_leaves_nothing(small, tmp_path):
    path = small.folder / "traces.csv.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"traces\.csv\.gz: damaged table"):
        render(small, "html", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_deleted_table_is_told_and_said_to_be_missing(small):
    assert not [s for s in build_report(small).sections if s.key == "left-out" and _items(s)]
    (small.folder / "measurements.csv").unlink()
    (said,) = [section for section in build_report(small).sections if section.key == "left-out"]
    assert _items(said) == [
        "`measurements.csv` is not in the run's folder, although run.json records 1 finished "
        "`measure` stage: what stood there, if anything, is not in this report."
    ]


def _items(section):
    return [item for block in section.blocks for item in getattr(block, "items", ())]


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [("models", [1], "a mapping"), ("messages", "hello", "a list"), ("created", 3, "text")],
)
def test_a_wrong_kind_in_the_record_is_named(small, key, value, wanted):
    small.update(**{key: value})
    with pytest.raises(InputError, match=f"run.json: {key}: expected {wanted}"):
        build_report(small)


def test_energy_that_is_not_finite_enters_no_mean(small):
    frame = small.measurements
    first = str(frame["energy_j"].iloc[0])
    _damage(small, "measurements.csv", first, "inf")
    energy = tables.energy(small)
    assert energy["energy_j"].between(0, 1).all()
    assert energy["blocks_left_out"].sum() == (~frame["valid"]).sum() + 1
    assert energy["blocks"].sum() + energy["blocks_left_out"].sum() == len(frame)


# -- strange -------------------------------------------------------------------------------------


def test_a_run_of_nothing_gives_a_report_without_empty_sections(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "empty", ())
    report = build_report(run)
    assert report.front.answer == "Nothing has been measured, trained or estimated yet."
    assert all(section.blocks for section in report.sections)
    assert "unfinished" in report.front.notices[0]


def test_one_round_gives_ratios_and_no_interval(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "one round", ("fp32", "ttq"), [synthetic.RAPL])
    synthetic.measure(run, ("fp32", "ttq"), {"cpu-package-0": 30.0}, batches=(1,), rounds=1)
    rows = run.comparisons.assign(ratio_low=0.0, ratio_high=math.inf, verdict="undecided")
    (run.folder / "comparisons.csv").write_text(rows.to_csv(index=False))
    run.update(status="complete")
    views = {view.name: view for view in build_report(run).tables}
    for name in ("summary", "comparisons"):
        assert any("0.82 (no interval)" in cells for cells in views[name].rows)
        assert "One round gives no interval" in views[name].note
    assert "0.82 (no interval)" in build_report(run).front.answer
    html = render(run, "html", tmp_path / "r.html").read_text()
    assert "0.82 (no interval)" in html
    assert render(run, "pdf", tmp_path / "r.pdf").stat().st_size > 10_000
    out = io.StringIO()
    print_summary(run, out)
    assert "0.82 (no interval)" in out.getvalue()


def test_names_of_any_length_and_script_stay_on_the_page(synthetic, tmp_path):
    name = "<script>x</script> #panic() $x$ _a_ é 🎉 عربى " + "n" * 300
    run = synthetic.begin(tmp_path / "r", name, ("fp32", "ttq"), model=name)
    synthetic.train(run, ("fp32", "ttq"), model=name, epochs=2)
    run.update(status="complete")
    html = render(run, "html", tmp_path / "r.html").read_text()
    assert "<script>x" not in html
    assert render(run, "pdf", tmp_path / "r.pdf").stat().st_size > 10_000
    assert all(len(figure.name) < 120 for figure in build_report(run).figures)


def test_several_devices_do_not_mix_on_the_first_page(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "two", ("fp32", "ttq"), [synthetic.RAPL])
    synthetic.measure(run, ("fp32", "ttq"), {"cpu-package-0": 30.0}, batches=(1,), rounds=3)
    path = run.folder / "comparisons.csv"
    text = path.read_text()
    path.write_text(text + "".join(text.replace("cpu,", "cuda:0,").splitlines(True)[1:]))
    path = run.folder / "measurements.csv"
    text = path.read_text()
    path.write_text(text + "".join(text.replace(",cpu,", ",cuda:0,").splitlines(True)[1:]))
    (summary,) = [view for view in build_report(run).tables if view.name == "summary"]
    assert not summary.data["variant"].duplicated().any()


# -- simulated -----------------------------------------------------------------------------------


def test_simulated_sensors_are_told_on_every_page_plot_and_table(small, tmp_path):
    small.update(simulated="two packages that do not exist")
    report = build_report(small)
    assert report.warning == "SIMULATED SENSORS: nothing here was measured"
    assert report.front.answer.startswith("**In a simulation**")
    assert report.front.verdict.endswith("(simulated)")
    assert all(f.figure.get_supxlabel() == report.warning for f in report.figures)
    html = render(small, "html", tmp_path / "r.html").read_text()
    assert 'class="warning"' in html
    folder = render(small, "csv", tmp_path / "t")
    for file in folder.iterdir():
        assert file.read_text().startswith("warning,")
    out = io.StringIO()
    print_summary(small, out)
    assert "Simulated sensors" in out.getvalue()


# -- asked for and not there ---------------------------------------------------------------------


def test_a_country_without_energies_is_answered_in_one_line(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "empty", ("fp32",))
    (said,) = [
        section for section in build_report(run, "FRA").sections if section.key == "left-out"
    ]
    assert "No carbon is given for France" in said.blocks[0].items[0]


@pytest.mark.parametrize("country", ["FRX", "france", ""])
def test_an_unknown_country_is_refused(small, country):
    with pytest.raises(InputError, match="ISO 3166") as failure:
        build_report(small, country)
    assert country == "" or "FRA" in str(failure.value)


def test_tables_as_parquet_read_back_as_they_were(small, tmp_path):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    folder = render(small, "parquet", tmp_path / "t", country="FRA")
    views = {view.name: view.data for view in build_report(small, "FRA").tables}
    assert {file.stem for file in folder.glob("*.parquet")} == set(views)
    for name, data in views.items():
        back = pandas.read_parquet(folder / f"{name}.parquet")
        assert list(back.columns) == list(data.columns)
        pandas.testing.assert_frame_equal(back, data, check_dtype=False)


def test_latex_tables_are_balanced_and_escaped(small, tmp_path):
    small.update(messages=["50 % & $x_1$ # {"])
    for file in render(small, "latex", tmp_path / "t").iterdir():
        text = file.read_text()
        assert text.count(r"\begin{") == text.count(r"\end{")
        bare = re.sub(r"\\[\\&%$#_{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert "%" not in bare
        assert "#" not in bare
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len({re.sub(r"\\&", "", line).count("&") for line in rows}) == 1


def test_a_full_disk_leaves_the_old_report_whole(small, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises((OSError, InputError), match="No space left"):
        render(small, "html", path)
    assert path.read_text() == "before"
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


# -- plots alone ---------------------------------------------------------------------------------


def test_a_plot_names_the_column_that_a_frame_lacks(small):
    energy = tables.energy(small)
    with pytest.raises(InputError, match="energy_bars: the column 'energy_low_j' is missing"):
        plots.energy_bars(energy.drop(columns="energy_low_j"))
    with pytest.raises(InputError, match="no rows"):
        plots.energy_bars(energy[:0])
    with pytest.raises(InputError, match="expected a DataFrame, got list"):
        plots.energy_bars([1])
    with pytest.raises(InputError, match=r"'energy_j' holds .*expected numbers"):
        plots.energy_bars(energy.assign(energy_j="much"))


# -- the terminal --------------------------------------------------------------------------------


def test_a_terminal_of_40_columns_cuts_no_figure(small):
    from rich.console import Console

    console = Console(width=40, force_terminal=True, record=True, file=io.StringIO())
    console.print(summary_table(small))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 40
    assert "0.820 [0.799, 0.840]" in text
    assert "…" not in text


def test_a_console_that_knows_ascii_only_gets_ascii(small):
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="ascii")
    print_summary(small, stream)
    stream.flush()
    assert b"energy / fp32 (counter)" in data.getvalue()
    assert b"?" not in data.getvalue()


def test_no_colour_where_it_is_not_wanted(small, monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=80).print(summary_table(small))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", stream.getvalue())


def test_a_record_of_an_older_version_is_read(small):
    path = small.folder / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "schema_version": 0}))
    assert build_report(load_run(small.folder)).sections


def test_latex_compiles_every_table_within_the_line(counters, small, tmp_path):
    tool = shutil.which("pdflatex")
    if tool is None or shutil.which("kpsewhich") is None:
        pytest.skip("pdflatex is not installed")
    needed = ["array", "booktabs", "graphicx", "longtable", "textcomp"]
    found = subprocess.run(
        ["kpsewhich", *(f"{name}.sty" for name in needed)], capture_output=True, text=True
    ).stdout.split()
    if len(found) < len(needed):
        pytest.skip("pdflatex lacks a package that the tables need")
    small.update(messages=["50 % & $x_1$ # {"])
    tables = [
        file.read_text()
        for run, name in ((counters, "counters"), (small, "small"))
        for file in sorted(render(run, "latex", tmp_path / name).iterdir())
    ]
    long = TableView("long", "Long.", pd.DataFrame(), (Column("n_1", tuple(map(str, range(90)))),))
    text = "\n".join([*tables, latex_table(long)])
    packages = ",".join(needed)
    (tmp_path / "all.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{{packages}}}\extrafloats{{100}}"
        + "\n\\begin{document}\n"
        + text.replace(r"\end{table}", "\\end{table}\\clearpage")
        + "\n\\end{document}\n"
    )
    done = subprocess.run(
        [tool, "-halt-on-error", "-interaction=nonstopmode", "all.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "Float too large" not in done.stdout
    assert (tmp_path / "all.pdf").stat().st_size > 0
