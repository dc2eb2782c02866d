"""Race the packed ternary CPU kernels against their dense rivals, interleaved in one process.

    python benchmarks/kernels.py                          # layers, one and two threads
    python benchmarks/kernels.py --work networks --threads 1
    python benchmarks/kernels.py --work layers networks --seconds 5 --json kernels.json

Each line gives the median time of many interleaved repeats with its quartiles, the speed as dense
arithmetic would count it (2 * multiply-accumulates / time), the speed relative to torch fp32, and
for packed layers the fraction of the roofline measured in the same run: the larger of the time to
read the weights (hot: from the cache level that holds them, cold: from memory) and the time of
the same lookups on weights in the near caches. "cold" rotates through copies of the weights of
more than twice the last-level cache.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ttq_energy.kernels import PackedWeight, isa, pack_linear, ternary_linear

W_POS, W_NEG = 0.03, 0.02
LAYERS = ((4096, 4096), (11008, 4096))
BATCHES = (1, 128, 1024)
NETWORKS = (
    ("resnet20", 1),
    ("resnet20", 128),
    ("lstm-lm", 1),
    ("transformer-lm", 1),
    ("alexnet", 1),
)


@dataclass
class Result:
    """One contender on one piece of work."""

    work: str
    threads: int
    kernel: str
    median_s: float
    low_s: float
    high_s: float
    gflops: float
    speed_over_torch_fp32: float
    roofline_fraction: float | None


def last_level_cache_bytes() -> int:
    """Size of the largest cache that sysfs shows; 32 MiB where it shows none."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=32 << 20)


def race(contenders: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Times of every contender, one call of each in turn until the seconds are over."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for call in contenders.values():
            call()
            call()
        end = time.perf_counter() + seconds * len(contenders)
        while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
            for name, call in contenders.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    return times


def rotating(build: Callable[[], Any], bytes_each: int, cold: bool) -> Callable[[], Any]:
    """A function that gives the next of several copies; of one where weights stay hot."""
    count = 1 + 2 * last_level_cache_bytes() // bytes_each if cold else 1
    copies = [build() for _ in range(int(count) + (1 if cold else 0))]
    state = {"next": 0}

    def take() -> Any:
        state["next"] = (state["next"] + 1) % len(copies)
        return copies[state["next"]]

    return take


def with_scales(weight: PackedWeight) -> PackedWeight:
    """A copy with bytes of its own."""
    return PackedWeight(
        weight.packed.clone(),
        weight.w_pos,
        weight.w_neg,
        weight.scale_pos,
        weight.scale_neg,
        weight.shape,
        weight.activations,
    )


def torch_int8(dense: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch's dynamic int8 linear with one weight scale an output."""
    scales = dense.abs().amax(1).double() / 127
    zeros = torch.zeros(len(dense), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_channel(dense, scales, zeros, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(quantized, None)
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, True)


def onnxruntime_linear(
    codes: torch.Tensor, bits: int, accuracy_level: int, threads: int
) -> Callable[[torch.Tensor], Any] | None:
    """onnxruntime's MatMulNBits on the codes; None where it or the bit width is not there."""
    try:
        import numpy as np
        import onnx
        import onnxruntime
    except ImportError:
        return None
    out, columns = codes.shape
    block = 32
    per_byte = 8 // bits
    levels = (codes + (1 << (bits - 1))).to(torch.uint8).view(out, columns // block, -1, per_byte)
    packed = sum(levels[..., i] << (bits * i) for i in range(per_byte))
    scales = np.full(out * columns // block, W_POS, dtype=np.float32)
    helper = onnx.helper
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=out,
        bits=bits,
        block_size=block,
        accuracy_level=accuracy_level,
    )
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", 1, ["m", columns])],
        [helper.make_tensor_value_info("y", 1, ["m", out])],
        [
            onnx.numpy_helper.from_array(packed.numpy(), "w"),
            onnx.numpy_helper.from_array(scales, "s"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        print(f"# onnxruntime MatMulNBits {bits}-bit is left out: {error}")
        return None
    return lambda x: session.run(None, {"x": x.numpy()})


def bandwidth(bytes_: int, cold: bool, threads: int) -> float:
    """Bytes a second read from where ``bytes_`` of weights lie."""
    size = max(bytes_, 4 * last_level_cache_bytes()) if cold else bytes_
    memory = torch.ones(size // 8, dtype=torch.int64)
    read = isa.native().read_memory
    times = race({"read": lambda: read(memory.data_ptr(), 8 * memory.numel(), threads)}, 0.3)
    return size / min(times["read"])


def lookup_seconds(weight: PackedWeight, x: torch.Tensor) -> float:
    """Time of the lookups of a layer, scaled from a layer of 256 outputs in the near caches."""
    small = pack_linear(weight.codes()[:256], W_POS, W_NEG, weight.activations)
    times = race({"small": lambda: ternary_linear(x, small)}, 0.3)
    return min(times["small"]) * weight.shape[0] / 256


def race_layer(
    out: int, columns: int, batch: int, cold: bool, threads: int, options: argparse.Namespace
) -> list[Result]:
    """One linear layer: packed kernels, torch's, the dense GEMV and onnxruntime."""
    torch.manual_seed(0)
    x = torch.randn(batch, columns)
    codes = torch.randint(-1, 2, (out, columns), dtype=torch.int8)
    packed = {kind: pack_linear(codes, W_POS, W_NEG, kind) for kind in ("fp32", "int8")}
    dense = packed["fp32"].effective_weight()
    floats = rotating(dense.clone, 4 * dense.numel(), cold)
    halves = rotating(lambda: dense.bfloat16(), 2 * dense.numel(), cold)
    integers = rotating(lambda: torch_int8(dense), dense.numel(), cold)
    half_x, y = x.bfloat16(), torch.empty(batch, out)
    contenders: dict[str, Callable[[], Any]] = {
        "torch fp32": lambda: F.linear(x, floats()),
        "torch bf16": lambda: F.linear(half_x, halves()),
        "torch int8 dynamic": lambda: integers()(x),
    }
    if options.compile:
        compiled = torch.compile(F.linear)
        contenders["torch fp32 compiled"] = lambda: compiled(x, floats())
    if batch == 1:
        gemv = isa.native().dense_gemv
        contenders["dense fp32 GEMV"] = lambda: gemv(
            x.data_ptr(), floats().data_ptr(), out, columns, y.data_ptr(), threads
        )
    if not cold:
        for bits, level in ((2, 4), (4, 4), (4, 0)):
            run = onnxruntime_linear(codes, bits, level, threads)
            if run is not None:
                activations = "int8" if level == 4 else "fp32"
                name = f"onnxruntime MatMulNBits {bits}-bit, {activations} activations"
                contenders[name] = lambda run=run: run(x)
    roofline = {}
    for kind, weight in packed.items():
        take = rotating(lambda weight=weight: with_scales(weight), weight.packed.numel(), cold)
        name = f"ttq-energy {kind} lookup ({isa.active()})"
        contenders[name] = lambda take=take: ternary_linear(x, take())
        read = weight.packed.numel() / bandwidth(weight.packed.numel(), cold, threads)
        roofline[name] = max(read, lookup_seconds(weight, x))
    times = race(contenders, options.seconds)
    work = f"linear {out}x{columns} batch {batch} {'cold' if cold else 'hot'}"
    return results(work, threads, times, 2.0 * batch * out * columns, roofline)


def race_network(name: str, batch: int, threads: int, options: argparse.Namespace) -> list[Result]:
    """One whole network: torch's best forms and the converted ternary ones."""
    import ttq_energy as te
    from ttq_energy import models
    from ttq_energy.kernels import dense

    torch.manual_seed(0)
    model = models.build(name).eval()
    x = models.example_input(name, batch)
    ternary = models.build(name)
    te.prepare_(ternary, te.TTQ(threshold=0.05))
    ternary.eval()
    networks = {
        "torch fp32": dense.best_fp32(model, x, compile=options.compile)[0],
        "torch bf16": dense.bf16(model, x)[0],
        "torch int8": dense.int8(model, x)[0],
    }
    for kind in ("fp32", "int8"):
        networks[f"ttq-energy {kind} lookup ({isa.active()})"] = te.convert(
            ternary, activations=kind, example_input=x
        ).eval()
    calls = {label: (lambda net=net: net(x)) for label, net in networks.items()}
    macs = float(te.count(model, x)["macs"].sum())
    return results(f"{name} batch {batch}", threads, race(calls, options.seconds), 2 * macs, {})


def results(
    work: str,
    threads: int,
    times: dict[str, list[float]],
    operations: float,
    roofline: dict[str, float],
) -> list[Result]:
    """Medians, quartiles and ratios."""
    base = statistics.median(times["torch fp32"])
    rows = []
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        bound = roofline.get(name)
        rows.append(
            Result(
                work,
                threads,
                name,
                median,
                low,
                high,
                operations / median / 1e9,
                base / median,
                None if bound is None else bound / median,
            )
        )
    return rows


def show(rows: list[Result]) -> None:
    """Print one piece of work."""
    print(f"\n{rows[0].work}, {rows[0].threads} thread(s)")
    print(f"  {'kernel':48} {'median us':>10} {'quartiles':>21} {'GFLOP/s':>8} {'x fp32':>7}  roof")
    for r in rows:
        quartiles = f"{r.low_s * 1e6:.1f} to {r.high_s * 1e6:.1f}"
        roof = "" if r.roofline_fraction is None else f"{100 * r.roofline_fraction:.0f} %"
        print(
            f"  {r.kernel:48} {r.median_s * 1e6:10.1f} {quartiles:>21} {r.gflops:8.1f}"
            f" {r.speed_over_torch_fp32:7.2f}  {roof}",
            flush=True,
        )


def main() -> None:
    """Parse the arguments, race, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs="+", choices=("layers", "networks"), default=["layers"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--networks", nargs="+", default=None, help="names; default: a selection")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contender")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (slow to start)")
    parser.add_argument("--json", type=Path, help="also write all results here")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__},", end=" ")
    print(f"kernels: {isa.active()} of {', '.join(isa.available())}")
    everything: list[Result] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        if "layers" in options.work:
            for out, columns in LAYERS:
                for batch in options.batches:
                    for cold in (False, True) if batch == 1 else (False,):
                        rows = race_layer(out, columns, batch, cold, threads, options)
                        show(rows)
                        everything += rows
        if "networks" in options.work:
            named = [(n, b) for n in options.networks or () for b in options.batches]
            for name, batch in named or NETWORKS:
                rows = race_network(name, batch, threads, options)
                show(rows)
                everything += rows
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in everything], indent=1))


if __name__ == "__main__":
    main()
