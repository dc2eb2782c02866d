"""Reports made from a Run alone: PDF, HTML, CSV and LaTeX tables, and the terminal's summary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ttq_energy.reporting.document import Report
    from ttq_energy.run import Run

FORMATS = ("pdf", "html", "csv", "latex", "parquet")

__all__ = ["FORMATS", "print_summary", "render", "render_all", "summary_table"]


def render(
    run: Run | Sequence[Run],
    format: str = "pdf",
    out: str | os.PathLike[str] | None = None,
    *,
    country: str | None = None,
    pdf_a: bool = False,
) -> Path:
    """Write a report.

    The plots of a single run are also saved as ``figures/*.svg`` in its folder.

    Args:
        run: one Run, or several to be compared; also an unfinished one.
        format: "pdf", "html", or "csv", "latex", "parquet" for a folder with every table.
        out: the file, or the folder of tables. Default: ``report.pdf``, ``report.html`` or
            ``tables/`` in the run's folder; for several runs ``comparison.pdf`` and so on here.
        country: ISO 3166 code of three letters for the carbon section; default the study's.
        pdf_a: PDF/A-2b.

    Returns:
        What was written.

    Raises:
        InputError: unknown format or country, no run, or the place cannot be written.
    """
    if pdf_a and format != "pdf":
        raise InputError(f"pdf_a: only for the format pdf, not {format}")
    return _render(run, {format: out}, country, pdf_a)[0]


def render_all(
    run: Run | Sequence[Run],
    formats: Sequence[str] = ("pdf", "html"),
    *,
    country: str | None = None,
) -> list[Path]:
    """Write several formats to their default places; every plot is drawn once for all.

    Args and errors: see :func:`render`.
    """
    return _render(run, dict.fromkeys(formats), country, pdf_a=False)


def _render(
    run: Run | Sequence[Run],
    places: Mapping[str, str | os.PathLike[str] | None],
    country: str | None,
    pdf_a: bool,
) -> list[Path]:
    from ttq_energy.reporting.build import build_report
    from ttq_energy.reporting.tables.gather import as_list
    from ttq_energy.reporting.writing import check_place, save_figures, write

    for format in places:
        if format not in FORMATS:
            raise unknown_name("format", format, FORMATS)
    runs = as_list(run)
    if not runs:
        raise InputError("run: expected at least one run")
    paths = {
        format: Path(out) if out is not None else _default_place(runs, format)
        for format, out in places.items()
    }
    for format, path in paths.items():
        check_place(format, path)
    report: Report = build_report(run, country)
    for format, path in paths.items():
        write(report, format, path, pdf_a)
    if len(runs) == 1 and {"pdf", "html"} & set(places):
        save_figures(report, runs[0])
    return list(paths.values())


def _default_place(runs: Sequence[Run], format: str) -> Path:
    name = format if format in ("pdf", "html") else ""
    if len(runs) == 1:
        tables = "tables" if format == "csv" else f"tables-{format}"
        return runs[0].folder / (f"report.{name}" if name else tables)
    return Path(f"comparison.{name}" if name else f"comparison-{format}")


def summary_table(run: Run) -> Any:
    """A rich renderable: the answer, one row a variant, and where the files are."""
    from ttq_energy.reporting.terminal import summary_table as make

    return make(run)


def print_summary(run: Run, file: Any = None) -> None:
    """Print :func:`summary_table`; plain text where the output is not a terminal."""
    from ttq_energy.reporting.terminal import print_summary as show

    show(run, file)
