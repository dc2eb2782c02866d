"""``ttq-energy train``: only the training of a study."""

from __future__ import annotations

import argparse
import sys

from ttq_energy.cli._study_options import add_study_options, read_study

HELP = "only train what a study names (profile --resume goes on from there)"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser)


def run(options: argparse.Namespace) -> int:
    study = read_study(options)
    from ttq_energy.profiler import train
    from ttq_energy.progress import ConsoleProgress

    progress = ConsoleProgress()
    try:
        result = train(
            study, out=options.out, resume=options.resume, progress=progress, command=sys.argv
        )
    finally:
        progress.close()
    if not result.writes:
        return 0
    table = result.training
    for row in table[table["selected"]].itertuples():
        print(
            f"{row.model} {row.variant} seed {row.seed}: accuracy {row.accuracy:.2%} "
            f"[{row.accuracy_low:.2%}, {row.accuracy_high:.2%}] at epoch {row.epoch}"
        )
    print(f"Run: {result.folder}")
    return 0
