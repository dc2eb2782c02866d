"""The command line: each command is a small module with HELP, ``prepare_parser`` and ``run``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NoReturn

from ttq_energy import __version__
from ttq_energy.errors import InputError, TTQEnergyError, unknown_name

COMMANDS = ("profile", "train", "estimate", "measure", "report", "sensors", "targets", "models")
INTERRUPTED = 130
SIGNALLED = 128
"""Added to a signal's number, as shells do."""
_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_NO_MEMORY = "can't allocate memory"
"""In the RuntimeError by which torch tells that the machine's memory is spent."""


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
    """Run one command; returns the exit code.

    0 done, 2 bad input or no room to write, 3 no such sensor, 130 Ctrl-C, 128 plus its number for
    another signal that ends programs.
    """
    command = ""
    try:
        _replace_what_no_stream_can_show()
        options = build_parser().parse_args(arguments)
        command = options.command
        with _signals_as_interrupts():
            code = int(_load(command).run(options))
            _flush()
        return code
    except TTQEnergyError as error:
        return _failed(str(error), error.exit_code)
    except _Ended as ended:
        return _failed(f"ended by {ended.signal.name}{_how_to_go_on(command)}", ended.exit_code)
    except KeyboardInterrupt:
        return _failed(f"interrupted{_how_to_go_on(command)}", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.strerror is None:
            raise
        where = error.filename or "writing the output"
        return _failed(f"{where}: {error.strerror}", InputError.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and _NO_MEMORY not in str(error):
            raise
        return _failed(f"out of memory in '{command}'", InputError.exit_code)


class _Ended(KeyboardInterrupt):
    """A signal that ends programs, told from Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)
        self.exit_code = SIGNALLED + number


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """What a scheduler or a closed terminal sends leaves a run that can be resumed, as Ctrl-C does.

    A signal that is ignored already, as under ``nohup``, stays so.
    """

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # the next one ends at once
        raise _Ended(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [n for n in _ENDING if signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _replace_what_no_stream_can_show() -> None:
    """A character that the terminal's encoding lacks is shown as ``?`` and ends no job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _flush() -> None:
    """Errors of what print still holds come here, and not after ``main``."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _failed(line: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        print(f"ttq-energy: {line}", file=sys.stderr)
    return code


def _how_to_go_on(command: str) -> str:
    return "; the same command with --resume goes on" if command in ("profile", "train") else ""
