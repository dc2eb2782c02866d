"""Writing a Report in the form that was asked for."""

from __future__ import annotations

import os
from pathlib import Path

from ttq_energy.errors import InputError
from ttq_energy.files import atomic_writer, writable_folder
from ttq_energy.reporting.document import Report
from ttq_energy.run import Run


def write(report: Report, format: str, path: Path, pdf_a: bool = False) -> None:
    """Write the report whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    if format == "pdf":
        from ttq_energy.reporting.pdf import pdf_bytes

        _write_bytes(path, pdf_bytes(report, pdf_a))
    elif format == "html":
        from ttq_energy.reporting.html import html_text

        _write_bytes(path, html_text(report).encode())
    else:
        from ttq_energy.reporting.exporting import export_tables

        export_tables(report, format, path)


def check_place(format: str, path: Path) -> None:
    """Say at once, and not after rendering, that a report cannot be written.

    Raises:
        InputError: why not.
    """
    if format not in ("pdf", "html"):
        return
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: cannot write here: Permission denied")


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic_writer(path, "wb") as stream:
        stream.write(data)


def save_figures(report: Report, run: Run) -> None:
    """Every plot as ``figures/NAME.svg`` in the run's folder; figures of earlier reports go."""
    folder = writable_folder(run.folder / "figures")
    names = {f"{figure.name}.svg" for figure in report.figures}
    for figure in report.figures:
        with atomic_writer(folder / f"{figure.name}.svg") as stream:
            stream.write(figure.svg)
    for old in folder.glob("*.svg"):
        if old.name not in names:
            old.unlink()
