"""``ttq-energy estimate``: what a network would need on an accelerator, and why."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ttq_energy.energy_model import Estimate, Explanation
    from ttq_energy.energy_model.targets import Target

HELP = "estimate a network's energy and latency on an accelerator, from counts"

KEPT_MAPPING_TOLD_FROM = 1e-4
"""Least relative change of a swept ratio by another mapping that is told."""


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a network by name (see ttq-energy models)")
    parser.add_argument(
        "--target", metavar="NAME|FILE", required=True, help="see ttq-energy targets; or 'all'"
    )
    parser.add_argument(
        "--variant", metavar="NAME", default="fp32", help="how it is quantized, such as ttq [fp32]"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=1, help="examples in one call [1]"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a figure of the target (levels.dram.read_pj=100); may be repeated",
    )
    parser.add_argument(
        "--sweep",
        metavar="KEY=A:B:STEP|V,V,...",
        action="append",
        default=[],
        help="vary sparsity, activation_bits, batch_size or a figure of the target",
    )
    parser.add_argument(
        "--sparsity", metavar="X", type=float, help="zeros of the ternary layers [their own]"
    )
    parser.add_argument(
        "--activation-bits", metavar="N", type=int, help="width to compute with [the variant's]"
    )
    parser.add_argument(
        "--activation-zeros",
        metavar="X|measure",
        help="zeros in every layer's input: a fraction, or measured on the example input [0]",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="trained weights (.safetensors) of the variant or fp32"
    )
    parser.add_argument(
        "--input-shape", metavar="C,H,W", help="shape of one input, without the batch"
    )
    parser.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of the network (num_classes=10); may be repeated",
    )
    parser.add_argument("--layers", action="store_true", help="also print every layer")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="with --sweep: write the table (.csv) or the plot (.svg, .pdf)",
    )


def run(options: argparse.Namespace) -> int:
    from ttq_energy.cli._what_if import parse_sweeps
    from ttq_energy.energy_model import targets

    _check(options)
    overrides = dict(_pairs(options.set, "--set"))
    names = targets.available() if options.target == "all" else [options.target]
    chosen = [targets.load(name, overrides) for name in names]
    sweeps = parse_sweeps(options.sweep)
    counts, zeros = _counts(options)
    if sweeps:
        return _sweep(options, counts, zeros, chosen, sweeps, overrides)
    for target in chosen:
        _report(options, target, counts, zeros)
    return 0


def _check(options: argparse.Namespace) -> None:
    from ttq_energy.study import MOST_EXAMPLES

    if not 1 <= options.batch_size <= MOST_EXAMPLES:
        raise InputError(
            f"--batch-size: must be from 1 to {MOST_EXAMPLES}, got {options.batch_size}"
        )
    if options.activation_bits is not None and not 1 <= options.activation_bits <= 64:
        raise InputError(f"--activation-bits: must be from 1 to 64, got {options.activation_bits}")
    if options.out and not options.sweep:
        raise InputError("--out: goes with --sweep")
    if options.sparsity is not None and options.variant == "fp32":
        raise InputError("--sparsity: needs a ternary variant, such as --variant ttq")
    from ttq_energy.errors import unknown_name
    from ttq_energy.variants import BUILT_IN

    if options.variant not in BUILT_IN:
        raise unknown_name("variant", options.variant, BUILT_IN, "--variant")


def _pairs(items: list[str], flag: str) -> list[tuple[str, str]]:
    pairs = []
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise InputError(f"{flag} {item}: expected KEY=VALUE")
        pairs.append((key, value))
    return pairs


def _counts(
    options: argparse.Namespace,
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, float]]]:
    """Counts and input zeros of full precision, int8 and the variant, for a batch of one."""
    from ttq_energy import energy_model, models
    from ttq_energy.strict_yaml import parse_yaml

    settings = {
        key: parse_yaml(f"value: {value}", f"--option {key}").data["value"]
        for key, value in _pairs(options.option, "--option")
    }
    model = models.build(options.model, **settings).eval()
    example = _example(options, settings)
    variant_model, variant = _load_checkpoint(options, model, example)
    counts = {"fp32": energy_model.count(model, example)}
    if options.variant != "fp32":
        counts["int8"] = energy_model.count(model, example, variant="int8")
        counts[options.variant] = energy_model.count(
            variant_model,
            example,
            variant=variant,
            sparsity=options.sparsity,
            activation_bits=options.activation_bits,
        )
    elif options.activation_bits:
        counts["fp32"] = energy_model.count(model, example, activation_bits=options.activation_bits)
    zeros = {
        name: _zeros(
            options, counts[name], variant_model if name == options.variant else model, example
        )
        for name in counts
    }
    return counts, zeros


def _example(options: argparse.Namespace, settings: dict[str, Any]) -> torch.Tensor:
    import torch

    from ttq_energy import models

    example = models.example_input(options.model, 1, **settings)
    if options.input_shape is None:
        return example
    try:
        shape = [int(part) for part in options.input_shape.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise InputError(
            f"--input-shape: expected whole numbers such as 3,224,224, got '{options.input_shape}'"
        )
    generator = torch.Generator().manual_seed(0)
    if example.is_floating_point():
        return torch.randn(1, *shape, generator=generator)
    return torch.randint(int(example.max()) + 1, (1, *shape), generator=generator)


def _load_checkpoint(
    options: argparse.Namespace, model: torch.nn.Module, example: torch.Tensor
) -> tuple[torch.nn.Module, str | None]:
    """The variant's network and, where it is still full precision, the variant to count it as."""
    variant = None if options.variant == "fp32" else options.variant
    if options.checkpoint is None:
        return model, variant
    import copy

    from ttq_energy.quantization import config_from_dict, prepare_
    from ttq_energy.training import load_weights
    from ttq_energy.variants import BUILT_IN

    try:
        load_weights(Path(options.checkpoint), model)
        return model, variant
    except InputError as error:
        quantizer = BUILT_IN[options.variant].quantizer
        if quantizer is None or "does not fit" not in str(error):
            raise
    prepared = copy.deepcopy(model)
    prepare_(prepared, config_from_dict(quantizer), example_input=example)
    load_weights(Path(options.checkpoint), prepared)
    if options.sparsity is not None:
        raise InputError("--sparsity: the checkpoint's own zeros are counted; leave it out")
    if options.variant == "ttq-int8" and options.activation_bits is None:
        options.activation_bits = 8
    return prepared, None


def _zeros(
    options: argparse.Namespace, counts: pd.DataFrame, model: torch.nn.Module, example: torch.Tensor
) -> dict[str, float]:
    if options.activation_zeros is None:
        return {}
    from ttq_energy.energy_model import activation_zeros

    names = set(counts["layer"])
    if options.activation_zeros == "measure":
        measured = activation_zeros(model, example)
        return {name: value for name, value in measured.items() if name in names}
    try:
        share = float(options.activation_zeros)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise InputError(
            "--activation-zeros: expected a fraction from 0 to 1, or 'measure', got "
            f"'{options.activation_zeros}'"
        )
    layers = counts.loc[counts["macs"] > 0, "layer"].tolist()
    return dict.fromkeys(layers[1:], share)


def _report(
    options: argparse.Namespace,
    target: Target,
    counts: dict[str, pd.DataFrame],
    zeros: dict[str, dict[str, float]],
) -> None:
    from ttq_energy.energy_model import compare_estimates, estimate, explain

    done = {
        name: estimate(table, target, activation_zeros=zeros[name], batch_size=options.batch_size)
        for name, table in counts.items()
    }
    print(f"{options.model} on {target.name} ({target.title}), batch size {options.batch_size}")
    print("All figures are modelled, for the whole batch; [low, high] is 95 % over the figures.")
    for name, result in done.items():
        _print_total(name, result)
    shown = done[options.variant]
    for note in shown.notes:
        print(f"  NOTE: {note}")
    _print_unsupported(counts[options.variant])
    _print_components(shown)
    if options.variant != "fp32":
        _print_explanation(explain(done["fp32"], shown), options.variant)
        other = compare_estimates(done["int8"], shown)
        print(
            f"Against int8 weights and activations: {other.ratio:.3f} "
            f"[{other.low:.3f}, {other.high:.3f}] of the energy, {other.verdict}."
        )
    if options.layers:
        _print_layers(shown)
    print()


def _print_total(name: str, result: Estimate) -> None:
    total = result.total
    modes = sorted({mode for mode in result.layers["mode"] if mode})
    print(
        f"  {name}: {_joules(total.energy_j)} [{_joules(total.energy_low_j)}, "
        f"{_joules(total.energy_high_j)}], {_seconds(total.latency_s)}, runs as {', '.join(modes)}"
    )


def _print_unsupported(counts: pd.DataFrame) -> None:
    unknown = counts[~counts["supported"]]
    if len(unknown):
        share = unknown["parameters"].sum() / max(1, counts["parameters"].sum())
        layers = ", ".join(unknown["layer"])
        print(f"  NOT COUNTED: {layers} ({share:.1%} of the parameters)")


def _print_components(result: Estimate) -> None:
    sums = result.components.groupby("component", sort=False)["energy_j"].sum()
    parts = [f"{name} {value / result.total.energy_j:.1%}" for name, value in sums.items() if value]
    print(f"  by component: {', '.join(parts)}")


def _print_explanation(found: Explanation, variant: str) -> None:
    ratio = found.ratio
    print(
        f"{variant} / fp32: energy {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], "
        f"{ratio.verdict}; latency {ratio.latency_ratio:.3f}"
    )
    print("Saved, as shares of fp32's energy:")
    for part in found.savings:
        print(f"  {part.share_of_baseline:>7.1%}  {part.name}")
    print("Remaining:")
    for part in found.remaining:
        print(f"  {part.share_of_baseline:>7.1%}  {part.name}")
    if found.break_even_sparsity is None:
        print("Break-even sparsity: none; up to 99 % of zeros it never needs less.")
    elif found.break_even_sparsity == 0:
        print("Break-even sparsity: 0 %; it pays with any share of zeros.")
    else:
        print(
            f"Break-even sparsity: {found.break_even_sparsity:.1%} zeros; below, it does not pay."
        )
    width, paying = found.break_even_activation_bits, found.paying_activation_bits
    told = "none; at 32 bits ternary needs no less than dense weights of that width"
    if width:
        told = f"{width} bits; from there to 32 ternary needs less than dense weights of that width"
    if width is None and paying:
        told += f", but at {', '.join(map(str, paying))} bits it does"
    print(f"Break-even activation width: {told}.")
    print(found.verdict)


def _print_layers(result: Estimate) -> None:
    table = result.layers.drop(columns=["mapping"])
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def _sweep(
    options: argparse.Namespace,
    counts: dict[str, pd.DataFrame],
    zeros: dict[str, dict[str, float]],
    targets: list[Target],
    sweeps: dict[str, list[Any]],
    overrides: dict[str, str],
) -> int:
    import pandas as pd

    from ttq_energy.cli._what_if import write_table_or_plot
    from ttq_energy.energy_model.sweeping import sweep

    tables = []
    for target, name in zip(
        targets, [options.target] if len(targets) == 1 else [t.name for t in targets], strict=True
    ):
        table = sweep(
            counts["fp32"],
            counts[options.variant],
            name,
            sweeps,
            overrides=overrides,
            baseline_zeros=zeros["fp32"],
            variant_zeros=zeros[options.variant],
            batch_size=options.batch_size,
        )
        _print_kept_mapping(target.name, table)
        table.insert(0, "target", target.name)
        tables.append(table)
    whole = pd.concat(tables, ignore_index=True)
    if options.out:
        write_table_or_plot(whole, list(sweeps), Path(options.out))
        print(f"Wrote {options.out} ({len(whole)} points, all modelled)", file=sys.stderr)
    else:
        print(
            f"{options.model}, {options.variant} / fp32: all figures are modelled; "
            "[ratio_low, ratio_high] is 95 % over the target's figures."
        )
        print(whole.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    return 0


def _print_kept_mapping(target: str, table: pd.DataFrame) -> None:
    off_by = float(table.attrs.get("ratio_off_by", 0.0))
    if off_by > KEPT_MAPPING_TOLD_FROM:
        print(
            f"{target}: the mapping of the first price is kept for all; with a mapping of its own "
            f"at the ends of the prices the ratio differs by up to {off_by:.2g} of itself",
            file=sys.stderr,
        )


def _joules(value: float) -> str:
    return _scaled(value, "J")


def _seconds(value: float) -> str:
    return _scaled(value, "s")


def _scaled(value: float, unit: str) -> str:
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
