"""Ternary linear layers on one NVIDIA GPU against the best dense forms: time, then energy.

    python benchmarks/gpu.py                  # 8192 x 8192 (134 MB in bf16), under 10 minutes
    python benchmarks/gpu.py --batches 1 16 256 --no-energy --out runs/gpu-times

One decoding layer, batch by batch. Forms are timed in turns, in random order; the table gives the
median and the quartiles of one layer's time, and its ratios to the fastest dense form and to the
fastest bfloat16 one. Energy is the protocol's (long blocks, gates, idle), read by NVML. The folder
of --out becomes a Run (ttq-energy report reads it) with a PDF, and times.json beside it. No setting
of the card is changed. gemlite and torchao are timed where installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import gpu_forms
import torch
from gpu_forms import Contender, Layer

from ttq_energy import environment
from ttq_energy.errors import SensorError, TTQEnergyError
from ttq_energy.files import atomic_writer
from ttq_energy.kernels import gpu
from ttq_energy.measurement import (
    EnergyMonitor,
    Workload,
    compare_measurements,
    run_protocol,
)
from ttq_energy.meters import make_meter
from ttq_energy.meters.nvml_settings import gpu_settings
from ttq_energy.run import Run, create_run
from ttq_energy.study import MeasurementSpec, ModelSpec, Study, VariantSpec

LIMIT_S = 540.0
COMPILE_UNTIL = 0.45
TIME_UNTIL = 0.7
"""Shares of the limit: after them nothing is compiled, and only energy is measured."""
ENERGY_OF = ("ttq bf16", "ttq int8")
BASELINE = "best dense"
"""What the Run's tables call the fastest dense form; its kernel says which it was."""


def print_times(layer: Layer, contenders: list[Contender]) -> list[dict[str, Any]]:
    """The table of one batch, the fastest first; returns it as rows."""
    base = fastest_dense(contenders)
    halves = [c.median_s for c in contenders if c.name == "bf16"]
    best_bf16_s = min(halves, default=math.nan)
    print(f"\nbatch {layer.batch}: baseline {base.name}, {base.how}")
    heads = ("median us", "q1", "q3", "/ dense", "/ bf16", "GB/s")
    widths = (10, 9, 9, 8, 8, 7)
    titles = " ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    print(f"{'form':24} {titles}  what ran")
    rows = []
    for c in sorted(contenders, key=lambda c: c.median_s):
        q1, median, q3 = statistics.quantiles(c.times_s, n=4)
        row = {
            "batch_size": layer.batch,
            "form": c.name,
            "what_ran": c.how,
            "median_s": median,
            "q1_s": q1,
            "q3_s": q3,
            "ratio": median / base.median_s,
            "ratio_to_bf16": median / best_bf16_s,
            "weight_bytes": c.weight_bytes,
            "copies": c.copies,
            "baseline": c is base,
        }
        print(
            f"{c.name:24} {median * 1e6:10.2f} {q1 * 1e6:9.2f} {q3 * 1e6:9.2f} {row['ratio']:8.3f}"
            f" {row['ratio_to_bf16']:8.3f} {c.weight_bytes / median / 1e9:7.0f}  {c.how}"
        )
        rows.append(row)
    return rows


def fastest_dense(contenders: list[Contender]) -> Contender:
    return min((c for c in contenders if c.dense), key=lambda c: c.median_s)


def measure_energy(
    run: Run,
    layer: Layer,
    contenders: list[Contender],
    monitor: EnergyMonitor,
    spec: MeasurementSpec,
) -> None:
    """Energy of one layer's call for the best dense form and the ternary ones, into the Run."""
    chosen = {BASELINE: fastest_dense(contenders)}
    for name in ENERGY_OF:
        named = [c for c in contenders if c.name == name]
        if named:
            chosen[name] = min(named, key=lambda c: c.median_s)
    workloads = [
        Workload(name, c.call, layer.batch * c.copies, f"{c.name}, {c.how}", gpu_forms.synchronize)
        for name, c in chosen.items()
    ]
    model = run.manifest["study"]["models"][0]["name"]
    with torch.inference_mode():
        result = run_protocol(
            workloads,
            model=model,
            device="cuda",
            batch_size=layer.batch,
            spec=spec,
            monitor=monitor,
            baseline=BASELINE,
        )
    where: dict[str, str | int] = {"model": model, "batch_size": layer.batch}
    run.put("measurements", result.measurements, **where)
    run.put("traces", result.traces, **where)
    measured = run.measurements
    here = measured[measured["batch_size"] == layer.batch]
    comparisons = compare_measurements(here, baseline=BASELINE)
    run.put("comparisons", comparisons, **where)
    for message in result.messages:
        run.add_message(f"batch {layer.batch}: {message}")
    print_energy(layer, chosen[BASELINE], here, comparisons, result.messages)


def print_energy(
    layer: Layer,
    base: Contender,
    measured: Any,
    comparisons: list[dict[str, Any]],
    messages: list[str],
) -> None:
    print(f"\nenergy of one token's layer, batch {layer.batch}, against {base.name} ({base.how})")
    for row in comparisons:
        low, high = row["ratio_low"], row["ratio_high"]
        print(
            f"  {row['variant']:12} {row['quantity']:14} {row['domain']:14} "
            f"{row['ratio']:.3f} ({low:.3f} to {high:.3f}) {row['verdict']}, {row['provenance']}"
        )
    valid = measured[measured["valid"].astype(bool)]
    per_j = (valid["energy_j"] / valid["inferences"]).groupby([valid["variant"], valid["domain"]])
    for (variant, domain), energy_j in per_j.median().items():
        print(f"  {variant:12} {domain}: {energy_j * 1e6:.2f} uJ a token and layer (median, gross)")
    for message in messages:
        print(f"  note: {message}")


def describe_device() -> dict[str, Any]:
    """The card and what drives it, as torch tells; the Run's environment has NVML's facts."""
    facts = torch.cuda.get_device_properties(0)
    return {
        "name": facts.name,
        "multiprocessors": facts.multi_processor_count,
        "memory_bytes": facts.total_memory,
        "l2_bytes": facts.L2_cache_size,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": importlib.import_module("triton").__version__,
    }


def begin_run(options: argparse.Namespace, spec: MeasurementSpec) -> Run:
    study = Study(
        name="gpu-linear",
        description="One linear layer on a GPU: the fastest dense form against ternary ones.",
        models=(ModelSpec(f"linear-{options.rows}x{options.columns}"),),
        variants=tuple(VariantSpec(name) for name in (BASELINE, *ENERGY_OF)),
        measurement=spec,
    )
    folder = options.out or Path("runs") / f"gpu-linear-{datetime.now():%Y%m%d-%H%M%S}"
    run = create_run(folder, study.to_dict(), {})
    run.update(environment=environment.describe(sys.argv))
    return run


def energy_can_be_measured(options: argparse.Namespace, run: Run) -> bool:
    """Whether NVML tells energy and is wanted; says why where it does not."""
    if options.no_energy:
        return False
    try:
        meter = make_meter("nvml")
    except SensorError as error:
        told(run, f"no energy is measured: {error}")
        return False
    run.update(meters=[meter.name])
    return True


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--energy-batches", type=int, nargs="*", default=[1, 16, 256])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--columns", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--block-s", type=float, default=0.5, help="shortest block of energy")
    parser.add_argument("--no-energy", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="the Run's folder (default: under runs/)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0; 2 where the folder cannot be written; 3 where there is no GPU to measure."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch finds no CUDA GPU; nothing was measured", file=sys.stderr)
        return 3
    if not gpu.usable():
        print("benchmarks/gpu.py: triton is not installed; pip install 'ttq-energy[triton]'")
        return 3
    began_s = time.monotonic()
    device = describe_device()
    print(", ".join(f"{key} {value}" for key, value in device.items()))
    megabytes = 2e-6 * options.rows * options.columns
    print(f"layer {options.rows} x {options.columns}: {megabytes:.0f} MB in bf16")
    energy_s = (1 - TIME_UNTIL) * LIMIT_S / max(1, len(options.energy_batches))
    spec = MeasurementSpec(
        batch_sizes=tuple(options.batches),
        device="cuda",
        meters=("nvml",),
        block_s=options.block_s,
        idle_s=min(2.0, 4 * options.block_s),
        min_rounds=3,
        max_rounds=12,
        warmup_s=min(2.0, 4 * options.block_s),
        budget_s=energy_s,
    )
    try:
        run = begin_run(options, spec)
        with_energy = energy_can_be_measured(options, run)
    except TTQEnergyError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return error.exit_code
    run.update(gpu=device)
    for sentence in gpu_settings():
        told(run, sentence)
    times: list[dict[str, Any]] = []
    for batch in options.batches:
        spent = (time.monotonic() - began_s) / LIMIT_S
        if spent > (TIME_UNTIL + 0.2 if with_energy else 1.0):
            told(run, f"batch {batch}: not measured, the time is up")
            continue
        compiled = not options.no_compile and spent < COMPILE_UNTIL
        if not compiled:
            told(run, f"batch {batch}: without torch.compile")
        layer = Layer(options.rows, options.columns, batch, device["l2_bytes"])
        with gpu_forms.left_out(f"batch {batch}"):
            contenders = gpu_forms.time_all(
                [
                    *gpu_forms.dense_contenders(layer, compiled),
                    *gpu_forms.ternary_contenders(layer),
                    *gpu_forms.gemlite_contender(layer),
                ],
                options.rounds,
            )
            times += print_times(layer, contenders)
            with atomic_writer(run.folder / "times.json") as stream:
                json.dump({"device": device, "times": times}, stream, indent=1, default=str)
            if with_energy and batch in options.energy_batches:
                with EnergyMonitor([make_meter("nvml")]) as monitor:
                    measure_energy(run, layer, contenders, monitor, spec)
            del contenders
        torch.cuda.empty_cache()
    run.update(status="complete", job_wall_s=round(time.monotonic() - began_s, 1))
    if len(run.measurements):
        from ttq_energy.reporting import render

        with gpu_forms.left_out("report"):
            print(render(run, "pdf"))
    print(f"\n{run.folder}: {time.monotonic() - began_s:.0f} s")
    return 0


def told(run: Run, message: str) -> None:
    run.add_message(message)
    print(message)


if __name__ == "__main__":
    raise SystemExit(main())
