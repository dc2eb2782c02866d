"""``ttq-energy profile``: the main job, from a study to a report."""

from __future__ import annotations

import argparse
import sys

from ttq_energy.cli._study_options import add_study_options, read_study

HELP = "train, measure, estimate and report what a study names"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    add_study_options(parser)


def run(options: argparse.Namespace) -> int:
    study = read_study(options)
    from ttq_energy.profiler import profile
    from ttq_energy.progress import ConsoleProgress
    from ttq_energy.reporting import print_summary, render_all

    progress = ConsoleProgress()
    try:
        result = profile(
            study, out=options.out, resume=options.resume, progress=progress, command=sys.argv
        )
        progress.stage("Writing the report")
        render_all(result)
    finally:
        progress.close()
    print_summary(result)
    return 0
