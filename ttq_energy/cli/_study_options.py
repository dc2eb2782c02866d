"""What ``profile`` and ``train`` share: the study, where it goes and what is set otherwise."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ttq_energy.errors import InputError

if TYPE_CHECKING:
    from ttq_energy.study import Study


def add_study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="a YAML file, or a shipped study by name")
    parser.add_argument("--out", metavar="DIR", help="the run folder [runs/<study>-<time>]")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of the study (dotted, value in YAML); may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument(
        "--short", action="store_true", help="the same path with little work, to check that it runs"
    )


def read_study(options: argparse.Namespace) -> Study:
    """The study with its ``--set`` and ``--short`` applied."""
    from ttq_energy.study import load_study, shortened

    overrides = {}
    for item in options.set:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InputError(f"--set {item}: expected KEY=VALUE")
        overrides[key] = value
    study = load_study(options.study, overrides)
    return shortened(study) if options.short else study
