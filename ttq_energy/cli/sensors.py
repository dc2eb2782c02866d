"""``ttq-energy sensors``: what this machine can measure energy with, and what would add to it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ttq_energy.meters import SensorStatus

HELP = "show the energy sensors of this machine and what makes each readable"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def run(options: argparse.Namespace) -> int:
    from ttq_energy.meters import probe_all

    statuses = probe_all()
    kernels = _kernels()
    if options.json:
        entries = [{**asdict(status), "provenance": str(status.provenance)} for status in statuses]
        print(json.dumps({"sensors": entries, "kernels": kernels}, indent=2))
        return 0
    if sys.stdout.isatty():
        _print_table(statuses)
    else:
        for status in statuses:
            print("\n".join(_plain(status)))
    print()
    print(summary(statuses))
    print(f"Kernels: {kernels}")
    return 0


def summary(statuses: Sequence[SensorStatus]) -> str:
    """One sentence: what a measurement on this machine would rest on."""
    from ttq_energy.meters import Provenance

    readable = [s for s in statuses if s.readable]
    sensors = [s.name for s in readable if s.provenance is not Provenance.MODELLED]
    if sensors:
        return f"Readable here: {', '.join(sensors)}."
    looked = ", ".join(s.name for s in statuses if s.provenance is not Provenance.MODELLED)
    text = f"No energy sensor is readable here (looked for {looked}): nothing can be measured in J."
    models = [s.name for s in readable]
    if models:
        text += (
            f" Joules will come from a model ({', '.join(models)}) and say 'modelled'; "
            "a model of the load is blind to what the arithmetic saves."
        )
    return text


def _state(status: SensorStatus) -> str:
    if status.readable:
        return "readable"
    return "not readable" if status.found else "not found"


def _facts(status: SensorStatus) -> list[str]:
    facts = [_state(status)] + ([str(status.provenance)] if status.found else [])
    if status.update_period_s is not None:
        facts.append(f"updates every {_quantity(status.update_period_s, 's')}")
    if status.resolution_j is not None:
        facts.append(f"resolves {_quantity(status.resolution_j, 'J')}")
    return facts


def _plain(status: SensorStatus) -> list[str]:
    lines = [f"{status.name}: {', '.join(_facts(status))}"]
    for label, text in (
        ("covers", status.covers),
        ("why not", status.reason),
        ("to make it readable", status.remedy),
    ):
        if text:
            lines.append(f"    {label}: {text}")
    return lines


def _print_table(statuses: Sequence[SensorStatus]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for title in ("sensor", "state", "what it covers, or why it cannot be read"):
        table.add_column(title, overflow="fold")
    styles = {"readable": "green", "not readable": "yellow", "not found": "dim"}
    for status in statuses:
        state = _state(status)
        table.add_row(
            status.name,
            Text("\n".join(_facts(status)), style=styles[state]),
            Text("\n".join(filter(None, (status.covers, status.reason)))),
        )
    console = Console()
    console.print(table)
    remedies = [(status.name, status.remedy) for status in statuses if status.remedy]
    if remedies:
        console.print("\nCommands that would make more readable:", highlight=False)
        for name, remedy in remedies:
            print(f"    {name}: {remedy}")


def _quantity(value: float, unit: str) -> str:
    """Three digits with a prefix: 0.00102 s is "1.02 ms"."""
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "u")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _kernels() -> str:
    """The instruction set that the packed kernels run on."""
    try:
        from ttq_energy.kernels import isa

        return str(isa.active())
    except Exception as error:  # sensors must answer also where the kernels are not built
        return f"not known ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
