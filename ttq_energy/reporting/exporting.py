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
    r"""A table as a LaTeX float; needs ``\usepackage{booktabs,textcomp}``."""
    kinds = "".join("r" if column.numeric else "l" for column in view.columns)
    head = " & ".join(_escape(column.header) for column in view.columns)
    body = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in view.rows]
    caption = "".join(span.text for span in spans(view.caption))
    note = [rf"\par\smallskip\footnotesize {_escape(view.note)}"] if view.note else []
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\label{{tab:{view.name.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *note,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)
