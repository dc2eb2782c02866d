"""The command line: each command is a small module with HELP, ``prepare_parser`` and ``run``."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from ttq_energy import __version__
from ttq_energy.errors import InputError, TTQEnergyError, unknown_name

COMMANDS = ("profile", "train", "estimate", "measure", "report", "sensors", "targets", "models")
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest valid name."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{_with_nearest(message)} (see '{self.prog} --help')")


def _with_nearest(message: str) -> str:
    """argparse's message of an invalid choice with the nearest valid one."""
    found = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
    if found is None:
        return message
    argument, wrong, listed = found.groups()
    choices = [choice.strip().strip("'") for choice in listed.split(",")]
    kind, where = ("command", "") if argument == "COMMAND" else ("value", argument)
    return str(unknown_name(kind, wrong, choices, where))


def _load(command: str) -> ModuleType:
    return importlib.import_module(f"ttq_energy.cli.{command}")


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; command modules import nothing heavy until they run."""
    parser = _Parser(
        prog="ttq-energy",
        description="Measure, and predict, what ternary weights save in joules.",
    )
    parser.add_argument("--version", action="version", version=f"ttq-energy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = _load(name)
        child = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.prepare_parser(child)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 bad input, 3 no such sensor, 130 ^C)."""
    try:
        options = build_parser().parse_args(arguments)
        return int(_load(options.command).run(options))
    except TTQEnergyError as error:
        print(f"ttq-energy: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ttq-energy: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
