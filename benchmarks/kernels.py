"""Race the packed ternary CPU kernels against their dense and low-bit rivals, in one process.

    python benchmarks/kernels.py --quick                      # a few minutes
    python benchmarks/kernels.py                              # linear layers, one and two threads
    python benchmarks/kernels.py --work networks --threads 1  # whole networks
    python benchmarks/kernels.py --work layers networks --seconds 5 --json kernels.json
    python benchmarks/kernels.py --ggml ~/llama.cpp/build --ggml ~/BitNet/build

Contenders take turns, in an order drawn anew each round. Each line gives the median time with its
quartiles; the speed as dense arithmetic would count it (2 * multiply-accumulates / time); the share
of the time that the roofline measured in the same run explains, which is the larger of the time to
read the weights (hot: from the cache level that holds them; cold: from memory) and, for packed
layers, the time of the same lookups on weights in the near caches; and how many times as fast as
that line's kernel the two packed ones are. Before a layer's race every result is compared with
float64. "hot" calls follow one of the same contender that is not timed; "cold" ones rotate through
copies of the weights of four times the last-level cache. Whole networks run hot, call after call:
weights that the caches cannot hold are cold by themselves.

Rivals beside torch: onnxruntime's MatMulNBits (pip install 'ttq-energy[rivals]'), and ggml's
quantized types of any build of llama.cpp, ggml or bitnet.cpp with shared libraries, named by --ggml
or the environment variable TTQ_ENERGY_GGML (paths joined by ':'). What is not there is left out,
with a line that says so.
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import kernels_ggml
import kernels_networks
import kernels_rivals
import torch
from kernels_race import Bandwidth, Contender, Result, last_level_cache_bytes, race, results
from kernels_rivals import Layer, first_line, note

from ttq_energy.errors import TTQEnergyError
from ttq_energy.files import atomic_writer
from ttq_energy.kernels import isa

SHAPES = ("4096x4096", "4096x11008")
BATCHES = (1, 16, 128, 1024)
FLOAT_FORMS = "torch fp32"  # how the names of torch's float32 forms begin
SECONDS, QUICK_SECONDS = 1.0, 0.2


def linear_contenders(
    layer: Layer, compile: bool, libraries: list[kernels_ggml.Ggml]
) -> list[Contender]:
    """Everything that can run the layer here."""
    found = [
        *kernels_rivals.packed(layer),
        *kernels_rivals.torch_fp32(layer, compile),
        *kernels_rivals.torch_low_precision(layer),
        *kernels_rivals.dense_gemv(layer),
        *kernels_rivals.onnxruntime(layer),
    ]
    if libraries:
        found += kernels_ggml.contenders(layer, libraries)
    return found


def race_layers(
    threads: int,
    options: argparse.Namespace,
    libraries: list[kernels_ggml.Ggml],
    bandwidth: Bandwidth,
) -> Iterator[list[Result]]:
    """Every shape and batch; hot, and at batch 1 also cold."""
    for out, columns in options.shapes:
        for batch in options.batches:
            for cold in (False, True) if batch == 1 else (False,):
                layer = Layer.random(out, columns, batch, cold, threads)
                found = linear_contenders(layer, options.compile, libraries)
                times = race(found, options.seconds, cold, threads)
                work = f"linear {out} x {columns} batch {batch}"
                operations = 2.0 * batch * out * columns
                yield results(work, cold, threads, found, times, operations, bandwidth)
                del found
                gc.collect()


def race_networks(
    threads: int, options: argparse.Namespace, bandwidth: Bandwidth
) -> Iterator[list[Result]]:
    """The networks whose name or registered name was asked for."""
    for network in kernels_networks.NETWORKS:
        if options.networks and not {network.name, network.model} & set(options.networks):
            continue
        found, macs = kernels_networks.contenders(network, options.compile)
        times = race(found, options.seconds, False, threads)
        yield results(network.work, False, threads, found, times, 2 * macs, bandwidth)
        del found
        gc.collect()


def race_all(
    options: argparse.Namespace, libraries: list[kernels_ggml.Ggml]
) -> Iterator[list[Result]]:
    """Every piece of work that was asked for, with each number of threads."""
    bandwidth = Bandwidth()
    for threads in options.threads:
        torch.set_num_threads(threads)
        if "layers" in options.work:
            yield from race_layers(threads, options, libraries, bandwidth)
        if "networks" in options.work:
            yield from race_networks(threads, options, bandwidth)


def show(rows: list[Result]) -> None:
    """Print one piece of work."""
    ours = [row.kernel for row in rows if row.ours]
    heads = "".join(f" {name.split(' (')[0].removeprefix('ttq-energy '):>6}" for name in ours)
    print(f"\n{rows[0].work}, {rows[0].weights} weights, {rows[0].threads} thread(s)")
    print(
        f"  {'kernel':46} {'median us':>10} {'quartiles':>22} {'n':>5} {'GFLOP/s':>8}"
        f" {'roofline':>13}{heads} times as fast"
    )
    for row in rows:
        quartiles = f"{row.low_s * 1e6:.1f} to {row.high_s * 1e6:.1f}"
        ratios = "".join(f" {_speed(rows, name, row):6.2f}" for name in ours)
        print(
            f"  {row.kernel:46} {row.median_s * 1e6:10.1f} {quartiles:>22} {row.repeats:5}"
            f" {row.gflops:8.1f} {_roofline(row):>13}{ratios}",
            flush=True,
        )
    floats = [row for row in rows if row.kernel.startswith(FLOAT_FORMS)]
    if floats and ours:
        best = min(floats, key=lambda row: row.median_s)
        speeds = " and ".join(f"{_speed(rows, name, best):.2f}" for name in ours)
        print(f"  against the best torch fp32 here ({best.kernel}): {speeds} times as fast")


def show_scaling(rows: list[Result]) -> None:
    """Print what more threads gain over the fewest raced, for each kernel."""
    times = {(r.work, r.weights, r.kernel, r.threads): r.median_s for r in rows}
    fewest, most = min(r.threads for r in rows), max(r.threads for r in rows)
    if fewest == most:
        return
    print(f"\n{most} threads over {fewest}, medians")
    for (work, weights, kernel, threads), seconds in times.items():
        more = times.get((work, weights, kernel, most))
        if threads == fewest and more is not None:
            print(f"  {work}, {weights}: {kernel:46} {seconds / more:5.2f} times as fast")


def _speed(rows: list[Result], name: str, over: Result) -> float:
    return next(row.speed_over[over.kernel] for row in rows if row.kernel == name)


def _roofline(row: Result) -> str:
    fraction = row.roofline_fraction
    if fraction is None:
        return ""
    limit = "read" if fraction == row.memory_fraction else "lookup"
    return f"{100 * fraction:.0f} % {limit}"


def write_json(path: Path, header: dict[str, object], rows: list[Result]) -> None:
    """The machine and every result."""
    with atomic_writer(path) as stream:
        json.dump(header | {"results": [asdict(row) for row in rows]}, stream, indent=1)


def write_csv(path: Path, rows: list[Result]) -> None:
    """One row a kernel and piece of work; the last columns compare it with the packed kernels."""
    plain = [f.name for f in fields(Result) if f.name != "speed_over"]
    names = [*plain, "roofline_fraction", "fp32_times_as_fast", "int8_times_as_fast"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for row in rows:
        values = {name: getattr(row, name) for name in [*plain, "roofline_fraction"]}
        for own in rows:
            same = (own.work, own.weights, own.threads) == (row.work, row.weights, row.threads)
            if own.ours and same:
                kind = own.kernel.split()[1]
                values[f"{kind}_times_as_fast"] = own.speed_over[row.kernel]
        writer.writerow(values)
    with atomic_writer(path) as stream:
        stream.write(text.getvalue())


def header(libraries: list[kernels_ggml.Ggml]) -> dict[str, object]:
    """The machine and what races on it."""
    return {
        "processor": processor(),
        "instruction_set": isa.active(),
        "instruction_sets": isa.available(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "cores": cores(),
        "torch": torch.__version__,
        "ggml": [library.name for library in libraries],
    }


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shape(text: str) -> tuple[int, int]:
    """Outputs and inputs from "OUTxIN"."""
    out, _, columns = text.partition("x")
    if not (out.isdigit() and columns.isdigit() and int(out) and int(columns)):
        raise argparse.ArgumentTypeError(f"expected OUTxIN, such as 4096x11008, got {text!r}")
    return int(out), int(columns)


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, with what --quick leaves out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--work", nargs="+", choices=("layers", "networks"), default=["layers"])
    add("--threads", nargs="+", type=positive, help="default: 1 and 2, or 1 on one core")
    add("--shapes", nargs="+", type=shape, help=f"OUTxIN; default: {' '.join(SHAPES)}")
    add("--batches", nargs="+", type=positive, help="of the layers; default: 1 16 128 1024")
    known = sorted({n for w in kernels_networks.NETWORKS for n in (w.name, w.model)})
    add("--networks", nargs="+", choices=known, metavar="NAME", help=f"of: {', '.join(known)}")
    add("--seconds", type=float, help=f"for each contender; default: {SECONDS:g}")
    add("--quick", action="store_true", help="short races, batches 1 and 128, not compiled")
    add("--compile", action=argparse.BooleanOptionalAction, help="also race torch.compile")
    add("--ggml", action="append", type=Path, help="a build of llama.cpp, ggml or bitnet.cpp")
    add("--json", type=Path, help="also write everything here")
    add("--csv", type=Path, help="also write a table here")
    options = parser.parse_args(arguments)
    quick = options.quick
    for path in (options.json, options.csv):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path}: its folder does not exist")
    options.threads = options.threads or ([1, 2] if cores() > 1 else [1])
    options.shapes = options.shapes or [shape(text) for text in SHAPES]
    options.batches = options.batches or ((1, 128) if quick else BATCHES)
    options.seconds = options.seconds or (QUICK_SECONDS if quick else SECONDS)
    options.compile = not quick if options.compile is None else options.compile
    return options


def load_ggml(options: argparse.Namespace) -> list[kernels_ggml.Ggml]:
    """The builds named by --ggml or the environment; one line for each that does not load."""
    named = os.environ.get("TTQ_ENERGY_GGML", "")
    paths = options.ggml or [Path(path) for path in named.split(os.pathsep) if path]
    if not paths:
        note("ggml's types are left out: no build named by --ggml or TTQ_ENERGY_GGML")
    libraries = []
    for path in paths:
        try:
            libraries.append(kernels_ggml.Ggml(path))
        except (OSError, AttributeError) as error:
            note(f"{path} is left out: {first_line(error)}")
    return libraries


def main() -> int:
    """Parse the arguments, race, print, write."""
    options = parse()
    try:
        libraries = load_ggml(options)
        machine = header(libraries)
        cache = last_level_cache_bytes() / (1 << 20)
        print(
            f"{machine['processor']}, {machine['cores']} core(s), last-level cache {cache:.0f} MiB,"
            f" torch {torch.__version__}, kernels: {isa.active()} of {', '.join(isa.available())}"
        )
        everything: list[Result] = []
        for rows in race_all(options, libraries):
            show(rows)
            everything += rows
            # After each piece, so that a run that is cut short leaves what it has.
            if options.json:
                write_json(options.json, machine, everything)
            if options.csv:
                write_csv(options.csv, everything)
        if everything:
            show_scaling(everything)
    except TTQEnergyError as error:
        print(f"kernels.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
