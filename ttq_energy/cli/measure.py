"""``ttq-energy measure -- COMMAND``: the energy of any program, beside the idle machine's."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ttq_energy.errors import InputError

if TYPE_CHECKING:
    from ttq_energy.cli._command_energy import CommandEnergy, Quantity
    from ttq_energy.measurement import EnergyMonitor, Window
    from ttq_energy.measurement.idle import IdleWindow

HELP = "measure the energy of a command, with the idle machine before and after it"
SIGNALLED = 128
"""A command that a signal ended gives this plus the signal's number, as a shell does."""

_EPILOG = """\
The report goes to the standard error; the command's input and output are its own. The exit code
is the command's, 128 plus the signal's number where a signal ended it. Errors of ttq-energy's own
(2: wrong input, 3: no such sensor) come before the command is started, with a line that begins
with 'ttq-energy:'.
"""


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = (
        "ttq-energy measure [--meter NAME ...] [--idle SECONDS] [--repeat N] [--json FILE] "
        "-- COMMAND ..."
    )
    parser.add_argument(
        "--meter",
        metavar="NAME",
        action="append",
        default=[],
        help="the meter to read; may be repeated [every sensor of this machine]",
    )
    parser.add_argument(
        "--idle",
        metavar="SECONDS",
        type=float,
        default=3.0,
        help="idle time measured before and after, 0 for none [3]",
    )
    parser.add_argument(
        "--repeat",
        metavar="N",
        type=int,
        default=1,
        help="runs of the command, until one fails [1]",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file too")
    parser.add_argument("program", metavar="COMMAND ...", nargs=argparse.REMAINDER)


def run(options: argparse.Namespace) -> int:
    program = _program(options.program)
    if not (math.isfinite(options.idle) and options.idle >= 0):
        raise InputError(f"--idle: expected seconds of at least 0, got {options.idle}")
    if options.repeat < 1:
        raise InputError(f"--repeat: must be at least 1, got {options.repeat}")
    with contextlib.ExitStack() as stack:
        output = None
        if options.json is not None:
            from ttq_energy.files import atomic_writer

            output = stack.enter_context(atomic_writer(options.json))
        monitor = _monitor(options.meter)
        with monitor:
            idle = _idle(monitor, options.idle)
            runs, code = _run_all(monitor, program, options.repeat)
            if runs and code < SIGNALLED:
                idle += _idle(monitor, options.idle)
        if not runs:
            return code
        from ttq_energy.cli._command_energy import command_energies

        rows = command_energies(runs, idle)
        _report(program, runs, rows, monitor, code, options.repeat)
        if output is not None:
            json.dump(_record(program, runs, rows, code, options.repeat), output, indent=2)
            output.write("\n")
    return code


def _program(words: Sequence[str]) -> list[str]:
    program = list(words[1:] if words[:1] == ["--"] else words)
    if not program:
        raise InputError("measure: expected a command after '--', such as: measure -- sleep 10")
    name = program[0]
    if shutil.which(name) is None:
        if os.path.exists(name):
            raise InputError(f"measure: '{name}' is not an executable file")
        raise InputError(f"measure: command not found: '{name}'")
    return program


def _monitor(names: Sequence[str]) -> EnergyMonitor:
    from ttq_energy.measurement import EnergyMonitor

    return EnergyMonitor(list(dict.fromkeys(names)) or None)


def _idle(monitor: EnergyMonitor, seconds: float) -> list[IdleWindow]:
    from ttq_energy.measurement.idle import IdleWindow

    if seconds <= 0 or not monitor.meters:
        return []
    with monitor.window("idle") as window:
        time.sleep(seconds)
    return [IdleWindow(window.start_s, window.start_s + window.duration_s, window.energy)]


def _run_all(
    monitor: EnergyMonitor, program: Sequence[str], repeat: int
) -> tuple[list[Window], int]:
    """Run it that often, or until it fails; gives the windows and the last exit code."""
    runs, code = [], 0
    for _ in range(repeat):
        window = monitor.begin("command")
        try:
            child = subprocess.Popen(program)
        except OSError as error:
            raise InputError(f"measure: '{program[0]}': {error.strerror}") from None
        with _signals_go_to(child):
            status = child.wait()
        runs.append(window.end())
        code = status if status >= 0 else SIGNALLED - status
        if code != 0:
            break
    return runs, code


@contextlib.contextmanager
def _signals_go_to(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the command; what was measured until then is reported all the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, _: object) -> None:
        if number == signal.SIGINT and _in_foreground():
            return  # the terminal has sent it to the command already
        child.send_signal(number)

    before = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether a terminal sends its Ctrl-C to this process and to those that it started."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# -- what is told ---------------------------------------------------------------------------------


def _report(
    program: Sequence[str],
    runs: Sequence[Window],
    rows: Sequence[CommandEnergy],
    monitor: EnergyMonitor,
    code: int,
    asked: int,
) -> None:
    def tell(text: str = "") -> None:
        print(text, file=sys.stderr)

    tell(f"\n Energy of '{' '.join(program)}'" + (f", exit code {code}" if code else ""))
    tell()
    if len(runs) < asked:
        tell(f" {len(runs)} of {asked} runs were made: the last one failed with exit code {code}")
        tell()
    tell(f" {'duration':<24} {_duration(runs)}")
    for row in rows:
        note = "" if row.additive else "  (a part, or a whole of others: not added)"
        tell(f"\n {row.domain}, {_kind(row.provenance)}{note}")
        if row.gross_j is None:
            tell(f"   {'gross':<22} not resolved: {row.reason}")
        else:
            tell(f"   {'gross':<22} {_interval(row.gross_j, 'J')}")
        if row.idle_w is not None:
            tell(f"   {'idle machine':<22} {_interval(row.idle_w, 'W')}")
        if row.net_j is not None:
            tell(f"   {'net of idle':<22} {_interval(row.net_j, 'J')}")
        tell(f"   {row.covers}")
    tell()
    if any(row.provenance == "modelled" for row in rows):
        tell(" MODELLED joules are computed from the load, not measured: their brackets say how")
        tell(" finely the model was read, not how far it is from the truth.")
    for message in monitor.messages:
        tell(f" {message}")
    if rows:
        tell(" Brackets: 95 % interval. Everything that ran on the machine is inside the gross.")


def _kind(provenance: str) -> str:
    return {
        "counter": "hardware counter",
        "integrated": "sampled power, integrated",
        "modelled": "MODELLED, not measured",
    }[provenance]


def _duration(runs: Sequence[Window]) -> str:
    times = [run.duration_s for run in runs]
    text = f"{statistics.fmean(times):.6g} s"
    if len(times) > 1:
        text += f" (mean of {len(times)} runs, {min(times):.4g} to {max(times):.4g} s)"
    return text


def _interval(quantity: Quantity, unit: str) -> str:
    """The value to the digit that its interval supports: "12.3 J  [11.9, 12.8]"."""
    width = max(quantity.high - quantity.low, 1e-12)
    decimals = min(max(1 - math.floor(math.log10(width)), 0), 9)
    low, value, high = (f"{x:.{decimals}f}" for x in (quantity.low, quantity.value, quantity.high))
    return f"{value} {unit}  [{low}, {high}]"


def _record(
    program: Sequence[str],
    runs: Sequence[Window],
    rows: Sequence[CommandEnergy],
    code: int,
    asked: int,
) -> dict[str, object]:
    return {
        "command": list(program),
        "exit_code": code,
        "runs_asked": asked,
        "runs_made": len(runs),
        "duration_s": [run.duration_s for run in runs],
        "domains": [asdict(row) for row in rows],
    }
