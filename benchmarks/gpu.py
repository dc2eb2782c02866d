"""Ternary linear layers on one NVIDIA GPU against the best dense forms: time, then energy.

    python benchmarks/gpu.py                     # 8192 x 8192 (134 MB in bf16), under 10 minutes
    python benchmarks/gpu.py --batches 1 16 256 --no-energy --out times.json

One decoding layer, batch by batch. Each form holds several copies of its weights, together larger
than the L2 cache, and a call runs through all of them, so that weights come from memory. Forms are
timed in turns, in random order; the table gives the median and the quartiles of one layer's time,
and the ratio to the fastest dense form. Energy is the protocol's (long blocks, gates, idle),
read by NVML. No setting of the card is changed. gemlite and torchao are timed where installed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttq_energy.kernels import gpu, pack_linear

LIMIT_S = 560.0
COMPILE_UNTIL = 0.45
TIME_UNTIL = 0.7
CACHES = 3.0
TERNARY = {
    "ttq bf16": (torch.bfloat16, "fp32", 0.7, 0.3),
    "ttq bf16, one scale": (torch.bfloat16, "fp32", 0.5, 0.5),
    "ttq fp16, one scale": (torch.float16, "fp32", 0.5, 0.5),
    "ttq fp32": (torch.float32, "fp32", 0.7, 0.3),
    "ttq int8": (torch.bfloat16, "int8", 0.7, 0.3),
}
ENERGY_OF = ("ttq bf16", "ttq int8")


@dataclass
class Contender:
    """A form of the layer: ``module(example)`` runs ``copies`` layers of ``weight_bytes`` each."""

    name: str
    how: str
    module: nn.Module
    example: Tensor
    copies: int
    weight_bytes: int
    dense: bool
    network: nn.Module | None = None
    times_s: tuple[float, ...] = ()

    @property
    def median_s(self) -> float:
        return statistics.median(self.times_s)


class Chain(nn.Module):
    """The same input through each copy of a layer."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers]


class Ternary(nn.Module):
    """One ternary layer through the tuned GPU kernels."""

    def __init__(self, weight: gpu.DeviceWeight) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return gpu.linear(x, self.weight)


def copies_of(weight_bytes: int, l2_bytes: int) -> int:
    """Copies that together are larger than the L2 cache, at least two."""
    return max(2, math.ceil(CACHES * l2_bytes / weight_bytes))


def dense_contenders(
    rows: int, columns: int, batch: int, l2_bytes: int, compiled: bool
) -> list[Contender]:
    """Every precision, eager, as a CUDA graph and compiled."""
    found = []
    x = torch.randn(batch, columns, device="cuda")
    for precision, width in {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}.items():
        copies = copies_of(rows * columns * width, l2_bytes)
        layers: list[nn.Module] = [
            nn.Linear(columns, rows, bias=False, device="cuda") for _ in range(copies)
        ]
        for build in gpu_ways(Chain(layers), x, precision, compiled):
            try:
                with torch.inference_mode():
                    module, how = build()
                    module(x)
                    torch.cuda.synchronize()
            except Exception as error:
                print(f"  left out: {precision}: {first_line(error)}")
                continue
            size = rows * columns * width
            found.append(Contender(precision, how, module, x, copies, size, dense=True))
    return found


def gpu_ways(model: nn.Module, x: Tensor, precision: str, compiled: bool) -> list[Any]:
    from ttq_energy.kernels.gpu.baselines import ways

    return ways(model, x, precision, compiled=compiled)


def ternary_contenders(rows: int, columns: int, batch: int, l2_bytes: int) -> list[Contender]:
    """The project's kernels, eager and as a CUDA graph."""
    found = []
    for name, (dtype, activations, w_pos, w_neg) in TERNARY.items():
        copies = copies_of(rows * columns // 4, l2_bytes)
        weights = [
            gpu.repack(pack_linear(random_codes(rows, columns), w_pos, w_neg, activations))
            for _ in range(copies)
        ]
        x = torch.randn(batch, columns, device="cuda", dtype=dtype)
        chain = Chain([Ternary(weight) for weight in weights])
        for how, build in {
            "eager": lambda c=chain: c,
            "CUDA graph": lambda c=chain, x=x: gpu.graphed(c, x),
        }.items():
            try:
                with torch.inference_mode():
                    module = build()
                    module(x)
                    torch.cuda.synchronize()
            except Exception as error:
                print(f"  left out: {name}, {how}: {first_line(error)}")
                continue
            ran = list(weights[0].ran.values())[-1]
            size = weights[0].weight_bytes
            found.append(Contender(name, f"{how}; {ran}", module, x, copies, size, dense=False))
    return found


def gemlite_contender(rows: int, columns: int, batch: int, l2_bytes: int) -> list[Contender]:
    """gemlite's 2-bit kernel on one scale in float16, where it is installed."""
    try:
        helper = importlib.import_module("gemlite.helper")
    except ImportError:
        print("  gemlite: not installed, not compared (pip install gemlite)")
        return []
    copies = copies_of(rows * columns // 4, l2_bytes)
    x = torch.randn(batch, columns, device="cuda", dtype=torch.float16)
    try:
        scale = torch.full((rows, 1), 0.5, dtype=torch.float16, device="cuda")
        zero = torch.ones((rows, 1), dtype=torch.float16, device="cuda")
        layers = []
        for _ in range(copies):
            levels = (random_codes(rows, columns) + 1).to(torch.uint8)
            packer = helper.A16Wn(device="cuda:0")
            layers.append(packer.from_weights(levels, scale, zero, 2, columns))
        chain = Chain([Call(layer) for layer in layers])
        with torch.inference_mode():
            module = gpu.graphed(chain, x)
    except Exception as error:
        print(f"  gemlite: left out: {first_line(error)}")
        return []
    size = rows * columns // 4
    return [Contender("gemlite fp16", "CUDA graph", module, x, copies, size, dense=False)]


class Call(nn.Module):
    """A layer that need not be a module."""

    def __init__(self, layer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._layer = [layer]

    def forward(self, x: Tensor) -> Tensor:
        return self._layer[0](x)


def random_codes(rows: int, columns: int) -> Tensor:
    """A third of each code, made on the GPU."""
    return torch.randint(-1, 2, (rows, columns), dtype=torch.int8, device="cuda")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def time_all(contenders: list[Contender], rounds: int) -> None:
    """One layer's seconds in each round, contenders in turns."""
    from ttq_energy.kernels.gpu.forms import interleaved

    with torch.inference_mode():
        times = interleaved(
            [lambda c=c: c.module(c.example) for c in contenders],
            torch.cuda.synchronize,
            rounds=rounds,
            block_s=0.03,
        )
    for contender, seconds in zip(contenders, times, strict=True):
        contender.times_s = tuple(s / contender.copies for s in seconds)


def print_times(batch: int, contenders: list[Contender]) -> list[dict[str, Any]]:
    """The table of one batch, the fastest first; returns it as rows."""
    base = min((c for c in contenders if c.dense), key=lambda c: c.median_s)
    print(f"\nbatch {batch}: baseline {base.name}, {base.how}")
    print(f"{'form':22} {'median us':>10} {'q1':>9} {'q3':>9} {'ratio':>7} {'GB/s':>7}  what ran")
    rows = []
    for c in sorted(contenders, key=lambda c: c.median_s):
        q1, median, q3 = statistics.quantiles(c.times_s, n=4)
        ratio = median / base.median_s
        rate = c.weight_bytes / median / 1e9
        print(
            f"{c.name:22} {median * 1e6:10.2f} {q1 * 1e6:9.2f} {q3 * 1e6:9.2f} {ratio:7.3f} "
            f"{rate:7.0f}  {c.how}"
        )
        rows.append(
            {
                "batch_size": batch,
                "form": c.name,
                "what_ran": c.how,
                "median_s": median,
                "q1_s": q1,
                "q3_s": q3,
                "ratio": ratio,
                "weight_bytes": c.weight_bytes,
                "baseline": c is base,
            }
        )
    return rows


def measure_energy(
    batch: int, contenders: list[Contender], budget_s: float
) -> list[dict[str, Any]]:
    """Energy of one layer's call for the best dense form and the ternary ones, by NVML."""
    from ttq_energy.measurement import (
        EnergyMonitor,
        Workload,
        compare_measurements,
        run_protocol,
    )
    from ttq_energy.meters import make_meter
    from ttq_energy.run import TABLES
    from ttq_energy.study import MeasurementSpec

    base = min((c for c in contenders if c.dense), key=lambda c: c.median_s)
    chosen = [base]
    for name in ENERGY_OF:
        named = [c for c in contenders if c.name == name]
        if named:
            chosen.append(min(named, key=lambda c: c.median_s))
    workloads = [
        Workload(
            c.name,
            lambda c=c: c.module(c.example),
            batch * c.copies,
            c.how,
            torch.cuda.synchronize,
        )
        for c in chosen
    ]
    spec = MeasurementSpec(
        batch_sizes=(batch,),
        device="cuda",
        meters=("nvml",),
        min_rounds=3,
        max_rounds=12,
        warmup_s=2.0,
        budget_s=budget_s,
    )
    with EnergyMonitor([make_meter("nvml")]) as monitor, torch.inference_mode():
        result = run_protocol(
            workloads,
            model="linear",
            device="cuda",
            batch_size=batch,
            spec=spec,
            monitor=monitor,
            baseline=base.name,
        )
    import pandas as pd

    frame = pd.DataFrame(result.measurements, columns=list(TABLES["measurements"]))
    rows = list(compare_measurements(frame, baseline=base.name))
    print(f"\nenergy of one token's layer, batch {batch}, against {base.name} ({base.how})")
    for row in rows:
        low, high = row["ratio_low"], row["ratio_high"]
        print(
            f"  {row['variant']:12} {row['quantity']:14} {row['domain']:8} "
            f"{row['ratio']:.3f} ({low:.3f} to {high:.3f}) {row['verdict']}, {row['provenance']}"
        )
    valid = frame[frame["valid"].astype(bool)]
    per = (valid["energy_j"] / valid["inferences"]).groupby([valid["variant"], valid["domain"]])
    for (variant, domain), energy_j in per.median().items():
        print(f"  {variant:12} {domain}: {energy_j * 1e6:.2f} uJ a token and layer (median, gross)")
    for message in result.messages:
        print(f"  note: {message}")
    return rows


def describe_device() -> dict[str, Any]:
    """The card, as it is found."""
    import pynvml

    facts = torch.cuda.get_device_properties(0)
    device: dict[str, Any] = {
        "name": facts.name,
        "multiprocessors": facts.multi_processor_count,
        "memory_bytes": facts.total_memory,
        "l2_bytes": facts.L2_cache_size,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": importlib.import_module("triton").__version__,
    }
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{facts.uuid}")
        device["driver"] = pynvml.nvmlSystemGetDriverVersion()
        device["power_limit_w"] = pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000
        device["sm_clock_hz"] = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6
    except (AttributeError, pynvml.NVMLError) as error:
        print(f"note: NVML does not describe the card: {error}")
    return device


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--energy-batches", type=int, nargs="*", default=[1, 16, 256])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--columns", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--no-energy", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or 3 where there is no GPU to measure."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch finds no CUDA GPU; nothing was measured", file=sys.stderr)
        return 3
    if not gpu.usable():
        print("benchmarks/gpu.py: triton is not installed; pip install 'ttq-energy[triton]'")
        return 3
    began = time.monotonic()

    def spent(share: float) -> bool:
        return time.monotonic() - began > share * LIMIT_S

    device = describe_device()
    rows, columns = options.rows, options.columns
    print(", ".join(f"{key} {value}" for key, value in device.items()))
    print(f"layer {rows} x {columns}: {rows * columns * 2 / 1e6:.0f} MB in bf16")
    times: list[dict[str, Any]] = []
    energies: list[dict[str, Any]] = []
    energy_s = (1 - TIME_UNTIL) * LIMIT_S / max(1, len(options.energy_batches))
    for batch in options.batches:
        if spent(1.0 if options.no_energy else TIME_UNTIL + 0.2):
            print(f"batch {batch}: not measured, the time is up")
            continue
        compiled = not options.no_compile and not spent(COMPILE_UNTIL)
        if not compiled:
            print(f"batch {batch}: without torch.compile")
        shape = (rows, columns, batch, device["l2_bytes"])
        contenders = [
            *dense_contenders(*shape, compiled),
            *ternary_contenders(*shape),
            *gemlite_contender(*shape),
        ]
        time_all(contenders, options.rounds)
        times += print_times(batch, contenders)
        if not options.no_energy and batch in options.energy_batches:
            left_s = LIMIT_S - (time.monotonic() - began)
            energies += measure_energy(batch, contenders, min(energy_s, max(left_s, 10.0)))
        del contenders
        torch.cuda.empty_cache()
    if options.out is not None:
        record = {"device": device, "times": times, "energy": energies}
        options.out.write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
