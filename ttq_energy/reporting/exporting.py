"""Every table of a report as a file: CSV in SI units, LaTeX for a paper, Parquet."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from ttq_energy.errors import InputError
from ttq_energy.files import atomic_writer, writable_folder
from ttq_energy.reporting.document import Report, TableView, spans
from ttq_energy.reporting.formatting import MINUS

_ENDINGS = {"csv": "csv", "latex": "tex", "parquet": "parquet"}
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MINUS: r"$-$",
    "–": "--",
    "÷": r"$\div$",
    "×": r"$\times$",
    "µ": r"\textmu{}",
    "₂": r"$_2$",
    "…": r"\ldots{}",
    "²": r"$^2$",
    "\u200b": "",
    "\u202f": r"\,",
}


def export_tables(report: Report, format: str, folder: Path) -> None:
    """Write every table of the report into a folder.

    Args:
        report: what to write.
        format: "csv" and "parquet" write the tidy data in SI units, "latex" what people see.
        folder: made if need be; files of other names in it are left alone.

    Raises:
        InputError: the folder cannot be written, or pyarrow is missing.
    """
    if format == "parquet":
        _need_pyarrow()
    writable_folder(folder)
    for table in report.tables:
        view = _warned(table, report.warning)
        path = folder / f"{view.name}.{_ENDINGS[format]}"
        if format == "parquet":
            with atomic_writer(path, "wb") as stream:
                view.data.to_parquet(stream)
            continue
        with atomic_writer(path) as stream:
            stream.write(
                latex_table(view)
                if format == "latex"
                else view.data.to_csv(index=False, lineterminator="\n")
            )


def _warned(view: TableView, warning: str) -> TableView:
    """A table that leaves its report takes the report's warning along."""
    if not warning:
        return view
    data = view.data.copy()
    data.insert(0, "warning", warning)
    return replace(view, data=data, caption=f"{warning}. {view.caption}")


def _need_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            "format: parquet needs pyarrow; install it with: pip install 'ttq-energy[parquet]'"
        )


def latex_table(view: TableView) -> str:
    r"""A table in LaTeX, no wider than the line.

    Needs ``\usepackage{array,booktabs,graphicx,longtable,textcomp}``. Up to 40 rows are a float,
    scaled down where it would be wider than the line; more are a longtable over several pages.
    """
    head = " & ".join(_escape(column.header) for column in view.columns) + r" \\"
    body = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in view.rows]
    caption = _escape("".join(span.text for span in spans(view.caption)))
    label = rf"\label{{tab:{view.name.replace('_', '-')}}}"
    kinds = "".join(_column_types(view))
    note = [rf"\par\smallskip\footnotesize {_escape(view.note)}"] if view.note else []
    if len(body) > _MOST_ROWS_OF_A_FLOAT:
        lines = [
            r"\begingroup\scriptsize\setlength{\tabcolsep}{2pt}",
            rf"\begin{{longtable}}{{{kinds}}}",
            rf"\caption{{{caption}}}{label}\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endfirsthead",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
            r"\bottomrule",
            r"\endlastfoot",
            *body,
            r"\end{longtable}",
            *note,
            r"\endgroup",
        ]
        return "\n".join(lines) + "\n"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        label,
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *note,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_MOST_ROWS_OF_A_FLOAT = 40
_WIDEST_LINE = 40
"""Characters of a cell that are set on one line; longer ones wrap."""


def _column_types(view: TableView) -> list[str]:
    r"""l and r; sentences share one line's width, each as a ragged paragraph."""
    widths = [max(map(len, column.cells), default=0) for column in view.columns]
    wraps = [
        not column.numeric and width > _WIDEST_LINE
        for column, width in zip(view.columns, widths, strict=True)
    ]
    share = 0.9 / max(1, sum(wraps))
    paragraph = rf">{{\raggedright\arraybackslash}}p{{{share:.2f}\linewidth}}"
    return [
        paragraph if wrap else ("r" if column.numeric else "l")
        for column, wrap in zip(view.columns, wraps, strict=True)
    ]


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)
