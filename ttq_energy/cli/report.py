"""``ttq-energy report``: make a report from a run folder, or compare several."""

from __future__ import annotations

import argparse
from pathlib import Path

from ttq_energy.errors import InputError
from ttq_energy.files import user_path

HELP = "make a report from a run, or compare several runs"
DOCUMENTS = ("pdf", "html")
FORMATS = (*DOCUMENTS, "csv", "latex", "parquet")


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="pdf or html, told from --out or pdf; or a folder of tables as csv, latex, parquet",
    )
    parser.add_argument("--out", metavar="PATH", help="file, or folder for tables")
    parser.add_argument(
        "--country",
        metavar="ISO3",
        help="country for carbon, such as FRA; default: the study's, else no carbon",
    )
    parser.add_argument("--pdf-a", action="store_true", help="PDF/A-2b, for archives")


def run(options: argparse.Namespace) -> int:
    from ttq_energy.reporting import print_summary, render
    from ttq_energy.run import load_run

    runs = [load_run(folder) for folder in options.runs]
    out = None if options.out is None else user_path(options.out, "--out")
    path = render(
        runs,
        _format(options.format, out),
        out,
        country=options.country,
        pdf_a=options.pdf_a,
    )
    if len(runs) == 1:
        print_summary(runs[0])
    print(f"Wrote {path}")
    return 0


def _format(asked: str | None, out: Path | None) -> str:
    """The format asked for, else that of the file's name."""
    named = out.suffix.lower().lstrip(".") if out is not None else ""
    if named not in DOCUMENTS:
        return asked or "pdf"
    if asked is not None and asked != named:
        raise InputError(f"--out {out}: the name says {named}, --format says {asked}")
    return named
