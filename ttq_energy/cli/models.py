"""``ttq-energy models``: the networks by name, and what each takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttq_energy.models import ModelInfo

HELP = "list the networks by name, or show one and its options"

ELSEWHERE = (
    "Also timm:NAME, torchvision:NAME and hf:NAME where those packages are installed, and "
    "package.module:function for your own."
)


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="show this one: parameters, input, options, source"
    )


def run(options: argparse.Namespace) -> int:
    if options.name is None:
        _list()
    elif ":" in options.name:
        _show_built(options.name)
    else:
        _show(options.name)
    return 0


def _list() -> None:
    from ttq_energy.models import available

    header = ("name", "parameters", "input", "what it is")
    rows = [(i.name, f"{i.parameters:,}", _shape(i.input_shape), i.meaning) for i in available()]
    if sys.stdout.isatty():
        _print_rich(header, rows)
    else:
        _print_plain(header, rows)
    print(ELSEWHERE)


def _show(name: str) -> None:
    from ttq_energy.errors import unknown_name
    from ttq_energy.models import available, options_of

    known = {info.name: info for info in available()}
    if name not in known:
        raise unknown_name("model", name, known)
    info: ModelInfo = known[name]
    facts = [
        ("name", info.name),
        ("what it is", info.meaning),
        ("parameters", f"{info.parameters:,}"),
        ("input", _shape(info.input_shape)),
        ("source", info.source),
    ]
    _print_facts(facts)
    print("options")
    _print_facts(
        [(f"  {o.name}", f"[{_default(o.default)}] {o.meaning}") for o in options_of(name)]
    )


def _show_built(name: str) -> None:
    """A network of another package or of the user's: made without memory for its weights."""
    import torch

    from ttq_energy.errors import InputError
    from ttq_energy.models import build, example_input

    with torch.device("meta"):
        model = build(name)
    parameters = sum(p.numel() for p in model.parameters())
    facts = [("name", name), ("class", type(model).__name__), ("parameters", f"{parameters:,}")]
    try:
        facts.append(("input", _shape(tuple(example_input(name).shape[1:]))))
    except InputError as error:
        facts.append(("input", f"unknown: {error}"))
    _print_facts(facts)


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} tokens" if len(shape) == 1 else " x ".join(map(str, shape))


def _default(value: Any) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _print_facts(facts: list[tuple[str, Any]]) -> None:
    width = max(len(key) for key, _ in facts)
    for key, value in facts:
        print(f"{key:<{width}}  {value}")


def _print_plain(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header) - 1)]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if i == 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        print("  ".join((*cells, row[-1])))


def _print_rich(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, title in enumerate(header):
        table.add_column(title, justify="right" if i == 1 else "left", no_wrap=i < 3)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
