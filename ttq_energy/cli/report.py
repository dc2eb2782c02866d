"""``ttq-energy report``: make a report from a run folder, or compare several."""

from __future__ import annotations

import argparse

HELP = "make a report from a run, or compare several runs"
FORMATS = ("pdf", "html", "csv", "latex", "parquet")


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="pdf",
        help="pdf (default), html, or a folder of tables as csv, latex or parquet",
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
    path = render(
        runs,
        options.format,
        options.out,
        country=options.country,
        pdf_a=options.pdf_a,
    )
    if len(runs) == 1:
        print_summary(runs[0])
    print(f"Wrote {path}")
    return 0
