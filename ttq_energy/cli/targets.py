"""``ttq-energy targets``: the accelerators that can be estimated, one of them, or a new one."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ttq_energy.errors import InputError

if TYPE_CHECKING:
    from ttq_energy.energy_model.targets import Target

HELP = "list the targets, show one with its sources, or write a template (targets new FILE)"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME|FILE|new", help="show this target; 'new' writes a template"
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="with 'new': the file to write")
    parser.add_argument(
        "--claims",
        action="store_true",
        help="recompute published arithmetic gains (BitNet b1.58's 71.4) from the operation table",
    )
    parser.add_argument("--force", action="store_true", help="with 'new': replace the file")


def run(options: argparse.Namespace) -> int:
    if options.claims:
        return _show_claims()
    if options.name == "new":
        return _write_template(options)
    if options.file is not None:
        raise InputError(f"targets: unexpected argument '{options.file}'; only 'new' takes a file")
    if options.force:
        raise InputError("--force: goes with 'targets new FILE' alone")
    from ttq_energy.energy_model import targets

    if options.name is None:
        loaded = [targets.load(name) for name in targets.available()]
        width = max(len(target.name) for target in loaded)
        for target in loaded:
            print(f"{target.name:<{width}}  {target.title}")
        return 0
    _show(targets.load(options.name), targets.find(options.name))
    return 0


def _write_template(options: argparse.Namespace) -> int:
    from ttq_energy.energy_model.template import TEMPLATE
    from ttq_energy.files import atomic_writer

    if options.file is None:
        raise InputError("targets new: expected the FILE to write, such as my-chip.yaml")
    path = Path(options.file)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; expected a file name")
    if path.exists() and not options.force:
        raise InputError(f"{path}: exists already; give another name, or --force to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    with atomic_writer(path) as stream:
        stream.write(TEMPLATE)
    print(f"Wrote {path}. Next: ttq-energy estimate resnet18 --target {path} --variant ttq")
    return 0


def _show_claims() -> int:
    from ttq_energy.energy_model import arithmetic_claims

    for claim in arithmetic_claims():
        print(
            f"{claim.gain:5.1f} times: {claim.name}: {claim.dense_pj:.3g} / {claim.ternary_pj:.3g} "
            f"pJ; {claim.meaning}"
        )
    print("Arithmetic alone. With memory, activations, dense layers and static power: estimate.")
    return 0


def _show(target: Target, file: Path) -> None:
    print(f"{target.name}: {target.title}")
    if target.description:
        print(target.description.strip())
    if target.reference:
        print(f"Reference: {target.reference}")
    print(f"File: {file}")
    print(
        f"{target.node_nm:g} nm, {target.clock_hz / 1e6:g} MHz, {target.dataflow}, "
        f"{target.units} units ({target.rows} x {target.columns}"
        + (f" x {target.cores} cores)" if target.cores > 1 else ")")
    )
    print(f"Zero weights: {target.zero_weight}. Zero activations: {target.zero_activation}.")
    for mode in target.modes:
        print(
            f"  {mode.name}: {mode.weight_bits:g}-bit weights ({mode.weights}), "
            f"{mode.activation_bits}-bit activations, {mode.accumulator_bits}-bit sums, "
            f"{mode.macs_per_cycle:g} a unit and cycle"
        )
    print("Figures (value, 95 % range, how it is known, source):")
    width = max(len(key) for key in (*target.figures, *target.structure))
    for key, figure in target.figures.items():
        values = f"{figure.value:.4g}  [{figure.low:.4g}, {figure.high:.4g}]"
        print(f"  {key:<{width}}  {values:<36}  {figure.evidence:<10}  {figure.source}")
    if target.structure:
        print("Structure (how it is known, source):")
    for key, (source, evidence) in target.structure.items():
        print(f"  {key:<{width}}  {evidence:<10}  {source}")
    known = Counter(figure.evidence for figure in target.figures.values())
    print("Of the figures: " + ", ".join(f"{n} {name}" for name, n in known.most_common()) + ".")
