"""Reports as files: PDF, HTML, CSV, LaTeX; the same bytes for the same run."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest

from ttq_energy.errors import InputError
from ttq_energy.reporting import print_summary, render
from ttq_energy.reporting.build import build_report
from ttq_energy.reporting.document import Column, Front, Report, Section, TableView
from ttq_energy.reporting.exporting import latex_table
from ttq_energy.reporting.pdf import pdf_bytes
from ttq_energy.reporting.terminal import summary_table


def _pdf_text(path) -> str:
    tool = shutil.which("pdftotext")
    if tool is None:
        pytest.skip("pdftotext is not installed")
    return subprocess.run([tool, "-layout", path, "-"], capture_output=True, text=True).stdout


# -- PDF -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pdf(interrupted):
    """A PDF in its usual place; a figure of an earlier report lay beside it."""
    folder = interrupted.folder / "figures"
    folder.mkdir(exist_ok=True)
    (folder / "of-an-earlier-report.svg").write_text("<svg/>")
    return render(interrupted)


def test_a_pdf_is_the_same_byte_for_byte(interrupted, pdf, tmp_path):
    second = render(interrupted, out=tmp_path / "b.pdf")
    assert pdf.read_bytes() == second.read_bytes()
    assert pdf.read_bytes().startswith(b"%PDF-")


def test_the_first_page_holds_answer_notice_and_contents(modelled, tmp_path):
    first = _pdf_text(render(modelled, out=tmp_path / "r.pdf")).split("\f")[0]
    words = " ".join(first.split())
    assert "No energy sensor was readable" in words
    assert "what it saves in joules was not measured" in words
    assert "Method and sources" in words


def test_figures_are_saved_beside_the_run_and_old_ones_go(interrupted, pdf):
    assert pdf == interrupted.folder / "report.pdf"
    names = {file.name for file in (interrupted.folder / "figures").glob("*.svg")}
    assert "answer.svg" in names
    assert "of-an-earlier-report.svg" not in names


def test_an_archive_pdf_declares_itself(ablation, tmp_path):
    data = render(ablation, out=tmp_path / "r.pdf", pdf_a=True).read_bytes()
    assert re.search(rb"pdfaid:part>\s*2", data)


def test_an_interrupted_run_gives_a_report(pdf):
    assert "This run was interrupted" in _pdf_text(pdf)


def test_names_with_markup_in_them_stay_text(synthetic, tmp_path):
    run = synthetic.begin(tmp_path / "r", "#set <b>x</b> $y$ _z_ *w*", ("fp32",))
    run.update(status="complete", messages=["a <script>alert(1)</script> & #panic() \\ `x"])
    text = _pdf_text(render(run, out=tmp_path / "r.pdf"))
    assert "#set <b>x</b> $y$ _z_ *w*" in text
    html = render(run, "html", tmp_path / "r.html").read_text()
    assert "<script>alert" not in html


# -- HTML ----------------------------------------------------------------------------------------


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if attributes.get("id"):
            self.ids.append(str(attributes["id"]))


@pytest.fixture(scope="module")
def html(interrupted, tmp_path_factory):
    return render(interrupted, "html", tmp_path_factory.mktemp("html") / "report.html")


def test_the_page_loads_nothing(html):
    text = html.read_text()
    page = _Page()
    page.feed(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith("#")
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_reference_finds_its_id_and_ids_are_unique(html):
    page = _Page()
    page.feed(html.read_text())
    assert len(page.ids) == len(set(page.ids))
    ids = set(page.ids)
    for _, attributes in page.tags:
        for name in ("href", "xlink:href", "aria-labelledby"):
            value = str(attributes.get(name) or "")
            if value:
                assert value.removeprefix("#") in ids
    for reference in re.findall(r"url\(#([^)]+)\)", html.read_text()):
        assert reference in ids


def test_every_plot_has_words_for_those_who_cannot_see_it(html):
    page = _Page()
    page.feed(html.read_text())
    plots = [a for t, a in page.tags if t == "div" and a.get("role") == "img"]
    assert plots
    assert all(len(str(a["aria-label"])) > 20 and a["tabindex"] == "0" for a in plots)


_PROBE = """
<script>
addEventListener("load", () => {
  const seen = {};
  const fits = () => document.documentElement.scrollWidth <= innerWidth;
  seen.fits = fits();
  seen.width = innerWidth;
  const heads = [...document.querySelectorAll("#table-energy + .scroll th.number button")];
  const head = heads.find((button) => button.textContent.startsWith("gross"));
  head.focus(); seen.focusable = document.activeElement === head;
  const column = head.parentElement.cellIndex;
  const keys = () => [...head.closest("table").tBodies[0].rows].map(
    (row) => Number(row.cells[column].dataset.key));
  head.click(); seen.rising = keys(); head.click(); seen.falling = keys();
  seen.sort = head.parentElement.getAttribute("aria-sort");
  const canvas = document.querySelector(".canvas");
  const svg = [...canvas.querySelectorAll("svg")].find((s) => s.clientWidth > 0);
  seen.before = svg.getAttribute("viewBox");
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "+", bubbles: true }));
  seen.after = svg.getAttribute("viewBox");
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "0", bubbles: true }));
  seen.again = svg.getAttribute("viewBox");
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  seen.value = document.getElementById("tip").textContent;
  seen.narrow = getComputedStyle(document.querySelector(".for-narrow")).display;
  const theme = () => getComputedStyle(document.body).backgroundColor;
  const light = theme(); document.getElementById("theme").click();
  seen.themes = [light, theme()];
  const out = document.createElement("pre");
  out.id = "seen"; out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script></body>
"""


_FRAME = """<!doctype html><body style="margin:0">
<iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe>
<script>
addEventListener("load", () => {{
  const inner = document.querySelector("iframe").contentDocument.getElementById("seen");
  document.body.append(inner.cloneNode(true));
}});
</script></body>
"""
"""Chromium makes no window narrower than 500 pixels: a phone is a frame inside one."""


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_page_works_in_a_browser(html, tmp_path, width):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    page = tmp_path / "page.html"
    page.write_text(html.read_text().replace("</body>", _PROBE))
    outer = tmp_path / "outer.html"
    outer.write_text(_FRAME.format(width=width))
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=3000 "
        "--allow-file-access-from-files"
    )
    done = subprocess.run(
        [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1300,900", "--dump-dom", outer.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert seen["width"] == width
    assert seen["fits"], "the page scrolls sideways"
    assert seen["focusable"]
    assert len(set(seen["rising"])) == 2
    assert seen["rising"] == sorted(seen["rising"])
    assert seen["falling"] == sorted(seen["rising"], reverse=True)
    assert seen["sort"] == "descending"
    assert seen["after"] != seen["before"] == seen["again"]
    assert "÷ fp32" in seen["value"]
    assert seen["narrow"] == ("block" if seen["width"] <= 640 else "none")
    assert len(set(seen["themes"])) == 2


# -- tables --------------------------------------------------------------------------------------


def test_csv_holds_every_table_of_the_report_in_si_units(counters, tmp_path):
    folder = render(counters, "csv", tmp_path / "tables", country="FRA")
    names = {view.name for view in build_report(counters, "FRA").tables}
    assert {file.stem for file in folder.glob("*.csv")} == names
    energy = pd.read_csv(folder / "energy.csv")
    assert energy["energy_j"].between(1e-4, 1).all()
    assert {"energy_low_j", "net_energy_j", "provenance"} <= set(energy.columns)
    assert set(pd.read_csv(folder / "comparisons.csv")["quantity"]) == {
        "gross_energy", "net_energy", "latency",
    }  # fmt: skip


def test_parquet_without_pyarrow_is_refused_and_leaves_nothing(counters, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    with pytest.raises(InputError, match=r"pip install 'ttq-energy\[parquet\]'"):
        render(counters, "parquet", tmp_path / "tables")
    assert list(tmp_path.iterdir()) == []


def test_latex_tables_escape_what_latex_would_read(counters):
    view = build_report(counters).tables[0]
    text = latex_table(view)
    assert r"\begin{tabular}{lrrlr}" in text
    assert r"$\div$ fp32" in text
    assert not re.search(r"(?<!\\)[%&_#]", re.sub(r" & ", "", text.replace(r"_$2$", "")))


def test_table_names_are_unique(counters, modelled):
    for report in (build_report(counters, "FRA"), build_report([counters, modelled])):
        for names in ([v.name for v in report.tables], [v.name for v in report.figures]):
            assert len(names) == len(set(names))


# -- several runs --------------------------------------------------------------------------------


def test_several_runs_are_compared_and_their_provenances_kept_apart(counters, modelled, tmp_path):
    text = _pdf_text(render([counters, modelled], out=tmp_path / "c.pdf"))
    words = " ".join(text.split())
    assert "energies are counter and modelled" in words
    assert "no figure combines them" in words
    assert "over 1 of 2 runs (counter" in words


# -- the terminal --------------------------------------------------------------------------------


def test_the_summary_is_plain_text_when_piped(counters, capsys):
    print_summary(counters)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "0.820 [0.799, 0.840]" in out
    assert str(counters.folder) in out


def test_the_summary_fits_a_terminal_of_80_columns(modelled):
    from rich.console import Console

    console = Console(width=80, force_terminal=True, record=True, file=io.StringIO())
    console.print(summary_table(modelled))
    text = console.export_text()
    (row,) = [line for line in text.splitlines() if line.startswith("ttq ")]
    assert row.count("0.820 [0.799, 0.840]") == 2
    assert "96.9 [94.6, 98.3]" in row
    assert "(modelled)" in text


# -- what is refused -----------------------------------------------------------------------------


def test_bad_requests_are_refused_in_one_line(counters, tmp_path):
    with pytest.raises(InputError, match="unknown format 'pfd'; did you mean 'pdf'"):
        render(counters, "pfd")
    with pytest.raises(InputError, match="no such folder"):
        render(counters, out=tmp_path / "nowhere" / "r.pdf")
    with pytest.raises(InputError, match="is a folder"):
        render(counters, out=tmp_path)
    with pytest.raises(InputError, match="expected at least one run"):
        render([])
    with pytest.raises(InputError, match="only for the format pdf"):
        render(counters, "html", pdf_a=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [39, 40, 60])
def test_no_row_of_a_table_is_split_or_left_alone_on_a_page(rows):
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed")
    cells = tuple(f"start{i} {'words ' * (30 if i % 3 else 3)} end{i}" for i in range(rows))
    table = TableView("t", "A table.", pd.DataFrame({"a": cells}), (Column("a", cells, wide=True),))
    front = Front("Question?", "Answer.", "", "", (), ())
    report = Report("T", "t", "2020-01-01T00:00:00", front, (Section("s", "S", (table,)),))
    done = subprocess.run(
        ["pdftotext", "-layout", "-", "-"], input=pdf_bytes(report), capture_output=True, check=True
    )
    pages = [page for page in done.stdout.decode().split("\f") if "start" in page]
    for page in pages:
        assert re.findall(r"start(\d+)", page) == re.findall(r"end(\d+)", page)
        assert len(re.findall(r"start\d+", page)) >= 3
    assert len(pages) > 1
